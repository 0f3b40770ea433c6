"""Seconds from `python train.py` to its first step, without and with the compilation cache.

    python benchmarks/warm_start.py [--rounds N] [--json FILE]

"Ours" is a start with all programs in the cache, the "peer" one with an empty cache.
"""

import tempfile
from pathlib import Path

import command
import common

CONFIG = "configs/fashion_mnist_demo.py"
MODELS = ["resnet20_cifar", "resnet110_cifar"]


def main() -> None:
    """Starts each network alternately cold and warm."""
    arguments = common.arguments(__doc__, rounds=3)
    ratios = []
    for model in MODELS:
        cold, warm = [], []
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for name, seconds in (("cold", cold), ("warm", warm)):
                    run = command.run(
                        Path(folder, name),
                        Path(folder, "cache"),
                        CONFIG,
                        f"--config.model={model}",
                        "--config.num_steps=1",
                        "--config.log_every=1",
                        "--config.eval_split=test[:64]",
                    )
                    seconds.append(common.Seconds(run.first))
        ratios.append(common.compare(f"warm_start/{model}/cold", warm, cold))
    common.report(ratios, [], arguments.json)


if __name__ == "__main__":
    main()
