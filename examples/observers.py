"""Observers of a run: early stopping, and Weights & Biases where it is installed.

    python examples/observers.py runs/observed
    pip install wandb && WANDB_MODE=offline python examples/observers.py runs/observed

Expect the run, at a constant learning rate, to end after some 800 of 1120 steps, once four
evaluations in a row have not lowered the test error.
"""

import math
import runpy
import sys
from collections.abc import Mapping
from typing import Any

from resnet_jax import training

try:
    import wandb
except ImportError:
    wandb = None


class EarlyStopping:
    """Ends a run once the error has not fallen for so many evaluations in a row."""

    def __init__(self, patience: int) -> None:
        self.patience, self.best, self.stale = patience, math.inf, 0

    def on_start(self, run: training.RunStart) -> None:
        """Counts the earlier evaluations of a resumed run."""
        for record in training.read_metrics(run.workdir) if run.start_step else ():
            if record["split"] == run.eval_split:
                self.on_evaluation(record["step"], record)

    def on_evaluation(self, step: int, metrics: Mapping[str, Any]) -> bool:
        """Returns True to end the run."""
        improved = metrics["top1_error"] < self.best
        self.best = min(self.best, metrics["top1_error"])
        self.stale = 0 if improved else self.stale + 1
        return self.stale >= self.patience


class WeightsAndBiases:
    """Sends a run's figures to Weights & Biases; a resumed run goes to the same page."""

    def on_start(self, run: training.RunStart) -> None:
        """Opens the page."""
        options = {"id": run.workdir.name, "resume": "allow", "config": dict(run.config)}
        self._page = wandb.init(project="resnet_jax", **options)

    def on_train_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the training's figures."""
        self._page.log({f"train/{name}": value for name, value in metrics.items()}, step=step)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs an evaluation."""
        self._page.log({f"eval/{name}": value for name, value in metrics.items()}, step=step)

    def on_end(self, records: Mapping[str, Any]) -> None:
        """Closes the page."""
        self._page.finish()


def main(workdir: str, patience: int = 4, **changes: Any) -> None:
    """Trains the demo for up to twice as long; `changes` are keys of the recipe."""
    config = runpy.run_path("configs/fashion_mnist_demo.py")["get_config"]()
    config.num_steps, config.schedule = 1120, "constant"
    config.update(changes)
    pages = [] if wandb is None else [WeightsAndBiases()]
    print(training.train(config, workdir, observers=[EarlyStopping(patience), *pages]))


if __name__ == "__main__":
    main(*sys.argv[1:])
