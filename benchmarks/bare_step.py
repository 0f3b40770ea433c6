"""The trainer's step without the trainer: a run's parts with random images, and its step."""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from resnet_jax import data
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.experiment import Experiment, initial_normalization, open_experiment
from resnet_jax.training.state import TrainState, create_state
from resnet_jax.training.step import make_train_step


def random_experiment(
    config: TrainConfig, num_images: int, size: int, num_classes: int
) -> Experiment:
    """Returns the parts of a run with random images instead of its data set."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, size, size, 3), np.uint8)
    labels = rng.integers(0, num_classes, num_images, np.int32)
    source = data.ArraySource(images, labels, tuple(map(str, range(num_classes))))
    return open_experiment(config, train_source=source, eval_source=source)


def state_and_step(experiment: Experiment, mesh: Mesh) -> tuple[TrainState, Any]:
    """Returns the initial state of a run, not yet on the mesh, and its step."""
    config = experiment.config
    parts = experiment.make_task(), experiment.optimizer, experiment.learning_rate
    state = create_state(
        *parts,
        initial_normalization(experiment),
        experiment.image_shape,
        averaged=config.ema_decay is not None,
    )
    step = make_train_step(
        *parts,
        mesh,
        accumulate_steps=config.accumulate_steps,
        ema_decay=config.ema_decay,
        transform=experiment.train_transform,
    )
    return state, step
