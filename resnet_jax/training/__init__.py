"""The trainer: configuration, experiment, state, step, checkpoints, records and the loop.

`train(experiment, workdir)` runs an experiment, which `open_experiment(recipe)` makes. Each module
is imported on first use, because most need the dependencies of the `[train]` extra.
"""

import importlib
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import missing_package

if TYPE_CHECKING:
    from resnet_jax.errors import ConfigError
    from resnet_jax.training.config import TrainConfig, default_config, resolve
    from resnet_jax.training.curves import draw_curves, plot_curves
    from resnet_jax.training.experiment import Experiment, learning_rate, open_experiment
    from resnet_jax.training.loop import train
    from resnet_jax.training.optimizer import LearningRate, register_optimizer, register_schedule
    from resnet_jax.training.recipes import load_recipe
    from resnet_jax.training.records import read_metrics
    from resnet_jax.training.report import Diverged, RunStart
    from resnet_jax.training.restore import TrainedRun, open_run
    from resnet_jax.training.task import (
        Classification,
        Task,
        register_batch_augmentation,
        register_loss,
    )

_MODULES = {
    "config": (
        "ConfigError",
        "TrainConfig",
        "default_config",
        "resolve",
    ),
    "curves": (
        "draw_curves",
        "plot_curves",
    ),
    "experiment": (
        "Experiment",
        "learning_rate",
        "open_experiment",
    ),
    "loop": ("train",),
    "recipes": ("load_recipe",),
    "optimizer": (
        "LearningRate",
        "register_optimizer",
        "register_schedule",
    ),
    "records": ("read_metrics",),
    "report": (
        "Diverged",
        "RunStart",
    ),
    "restore": (
        "TrainedRun",
        "open_run",
    ),
    "task": (
        "Classification",
        "Task",
        "register_batch_augmentation",
        "register_loss",
    ),
}

__all__ = [
    "Classification",
    "ConfigError",
    "Diverged",
    "Experiment",
    "LearningRate",
    "RunStart",
    "Task",
    "TrainConfig",
    "TrainedRun",
    "default_config",
    "draw_curves",
    "learning_rate",
    "load_recipe",
    "open_experiment",
    "open_run",
    "plot_curves",
    "read_metrics",
    "register_batch_augmentation",
    "register_loss",
    "register_optimizer",
    "register_schedule",
    "resolve",
    "train",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(f"{__name__}.{module}"), name)
            except ModuleNotFoundError as error:
                if message := missing_package(error):
                    error.msg = message
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
