"""The trainer: configuration, experiment, state, step, checkpoints, records and the loop.

`train(experiment, workdir)` runs an experiment, which `open_experiment(recipe)` makes. Each module
is imported on first use, because most need the dependencies of the `[train]` extra.
"""

import importlib
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import missing_package

if TYPE_CHECKING:  # The same names for type checkers.
    from resnet_jax.errors import ConfigError as ConfigError
    from resnet_jax.training.config import TrainConfig as TrainConfig
    from resnet_jax.training.config import default_config as default_config
    from resnet_jax.training.config import resolve as resolve
    from resnet_jax.training.curves import draw_curves as draw_curves
    from resnet_jax.training.curves import plot_curves as plot_curves
    from resnet_jax.training.experiment import Experiment as Experiment
    from resnet_jax.training.experiment import open_experiment as open_experiment
    from resnet_jax.training.loop import train as train
    from resnet_jax.training.optimizer import LearningRate as LearningRate
    from resnet_jax.training.optimizer import learning_rate as learning_rate
    from resnet_jax.training.optimizer import register_optimizer as register_optimizer
    from resnet_jax.training.optimizer import register_schedule as register_schedule
    from resnet_jax.training.recipes import load_recipe as load_recipe
    from resnet_jax.training.records import read_metrics as read_metrics
    from resnet_jax.training.report import Diverged as Diverged
    from resnet_jax.training.report import RunStart as RunStart
    from resnet_jax.training.restore import TrainedRun as TrainedRun
    from resnet_jax.training.restore import open_run as open_run
    from resnet_jax.training.task import Classification as Classification
    from resnet_jax.training.task import Task as Task
    from resnet_jax.training.task import (
        register_batch_augmentation as register_batch_augmentation,
    )
    from resnet_jax.training.task import register_loss as register_loss

_MODULES = {
    "config": ("ConfigError", "TrainConfig", "default_config", "resolve"),
    "curves": ("draw_curves", "plot_curves"),
    "experiment": ("Experiment", "open_experiment"),
    "loop": ("train",),
    "optimizer": ("LearningRate", "learning_rate", "register_optimizer", "register_schedule"),
    "recipes": ("load_recipe",),
    "records": ("read_metrics",),
    "report": ("Diverged", "RunStart"),
    "restore": ("TrainedRun", "open_run"),
    "task": ("Classification", "Task", "register_batch_augmentation", "register_loss"),
}

__all__ = sorted(name for names in _MODULES.values() for name in names)


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
