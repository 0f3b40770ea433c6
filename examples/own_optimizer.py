"""An optimiser of your own: registered by name, or handed in as optax has it.

    python train.py --config configs/fashion_mnist_demo.py --workdir runs/own_optimizer \
        --import examples/own_optimizer.py --config.optimizer=clipped_lion \
        --config.learning_rate=0.001 --config.weight_decay=0.1
    python examples/own_optimizer.py runs/lamb

Expect test errors of about 13 % (Lion) and 11 % (LAMB), in the demo's time. Run the last command
again and it resumes. `train.py` refuses to: `config.json` names the parts that were handed in.
"""

import runpy
import sys
from typing import Any

import optax

from resnet_jax import training


@training.register_optimizer("clipped_lion")
def clipped_lion(
    config: training.TrainConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Lion (arXiv 2302.06675) on gradients of a norm of at most 1."""
    lion = optax.lion(schedule, weight_decay=config.weight_decay, **config.optimizer_options)
    return optax.chain(optax.clip_by_global_norm(1.0), lion)


def main(workdir: str, **changes: Any) -> None:
    """Trains the demo with LAMB and one of optax's schedules; `changes` are keys of the recipe."""
    config = runpy.run_path("configs/fashion_mnist_demo.py")["get_config"]()
    config.update(changes)
    experiment = training.open_experiment(config)
    experiment = experiment.replace(
        optimizer=optax.lamb,  # Called with the learning rate of each update.
        schedule=optax.cosine_decay_schedule(0.02, decay_steps=experiment.num_steps),
    )
    print(training.train(experiment, workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
