"""The identity of a run: what each configuration key contributes to its updates.

A work directory belongs to a run. A resumed run may have another configuration if each key that
differs contributes the same: an unused length, a default spelt out, a folder elsewhere.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from resnet_jax import data
from resnet_jax.data.sources.folders import is_folder
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.runtime.files import expanded
from resnet_jax.training.config import CHANGEABLE_KEYS, KEYS, TrainConfig
from resnet_jax.training.experiment import Experiment, make_model
from resnet_jax.training.lengths import config_in_steps, periods
from resnet_jax.training.optimizer import options_in_effect


class Facts(NamedTuple):
    """What a run's data and parts settle about its configuration; None if unknown.

    Attributes:
      train_size: images in the training split.
      num_classes: classes of the training split.
      channels: channels of its images.
      parts: names of the parts handed in.
      guarded: whether fingerprints tell another data set from the same one elsewhere.
    """

    train_size: int | None = None
    num_classes: int | None = None
    channels: int | None = None
    parts: tuple[str, ...] = ()
    guarded: bool = False


def facts_of(experiment: Experiment) -> Facts:
    """Returns what an experiment settles about its configuration."""
    source = experiment.train_source
    parts = tuple(experiment.recorded)
    return Facts(len(source), source.num_classes, source.image_shape[2], parts)


_USED: dict[str, Callable[[TrainConfig], bool]] = {
    "image_size": lambda c: c.augmentation not in ("none", "cifar"),
    "momentum": lambda c: c.optimizer not in ("adamw", "lamb"),
    "decay_scales_and_biases": lambda c: (
        c.weight_decay > 0 or c.optimizer not in ("sgd", "adamw", "lamb", "rmsprop")
    ),
    "decay_factor": lambda c: c.schedule not in ("constant", "cosine"),
    "plateau_patience": lambda c: c.schedule not in ("constant", "cosine", "step"),
    "warmup_learning_rate": lambda c: c.warmup_until_error is not None,
}
"""Keys that updates depend on only under a condition. A registered optimiser, schedule or
augmentation may read any key."""

_RUN = ("num_steps", "num_epochs")
_SCHEDULE = ("schedule_steps", "schedule_epochs")
_WARMUP = ("warmup_steps", "warmup_epochs")
_BOUNDARIES = ("boundaries", "boundaries_epochs")
_RATE = ("learning_rate", "learning_rate_batch_size")
_EVALUATIONS = ("eval_every", "eval_every_epochs")
_MODEL = ("model", "model_options", "num_classes")
_OPTIMIZER = ("optimizer", "optimizer_options", "momentum", "decay_scales_and_biases")

_MADE_OF = {
    "model": (*_MODEL, "dtype", "remat", "batch_norm"),
    "optimizer": (*_OPTIMIZER, "weight_decay"),
    "schedule": ("scale_schedule", *_RUN, *_SCHEDULE, *_WARMUP, *_BOUNDARIES, *_RATE),
    "loss": ("loss",),
    "normalization": ("preprocess",),
    "batch_augmentation": ("batch_augmentation",),
}
"""The keys that make each part; with another part handed in, nothing depends on them."""


def changed_keys(before: TrainConfig, now: TrainConfig, facts: Facts) -> list[str]:
    """Returns the keys that make two configurations different runs.

    Args:
      before: the configuration of the run so far.
      now: that of the process that resumes it.
      facts: what the data and the parts settle, the same for both.
    """
    one, other = _contributions(before, facts), _contributions(now, facts)
    changed = [
        key
        for key in KEYS
        if getattr(before, key) != getattr(now, key) and one.get(key) != other.get(key)
    ]
    return [key for key in changed if not _may_change(key, before, now)]


def is_path(dataset: str) -> bool:
    """Whether a data set's name is the path of a folder or of a table."""
    is_file = os.path.isfile(os.path.expanduser(dataset))
    return dataset not in data.DATASETS and (is_file or is_folder(dataset))


def _may_change(key: str, before: TrainConfig, now: TrainConfig) -> bool:
    """Whether a key that contributes to updates may change, because it alters no past one."""
    if key == "on_bad_image":
        return before.on_bad_image == "error"  # No bad image has been met.
    if key == "init_from" and before.init_from and now.init_from:
        path = expanded(before.init_from)  # Moved, and no name of a hub.
        return os.path.isabs(path) and not os.path.exists(path)
    return False


def _contributions(config: TrainConfig, facts: Facts) -> dict[str, Any]:
    """Returns what each key contributes: equal values of a key, equal updates."""
    values = {key: getattr(config, key) for key in KEYS if key not in CHANGEABLE_KEYS}
    for key, is_used in _USED.items():
        if not is_used(config):
            values[key] = None
    values["optimizer_options"] = options_in_effect(config)
    values["channels"] = config.channels or facts.channels
    values |= dict.fromkeys(_MODEL, _network(config, facts))
    values |= _schedule(config, facts.train_size)
    if is_path(config.dataset):
        values["dataset"] = "a path" if facts.guarded else _real(config.dataset)
    if config.init_from is not None:
        values["init_from"] = _real(config.init_from)
    for part in facts.parts:
        values |= dict.fromkeys(_MADE_OF.get(part, ()))
    return values


def _real(path: str) -> str:
    return os.path.realpath(expanded(path))


def _network(config: TrainConfig, facts: Facts) -> Any:
    """Returns the network; the keys that make it if it is not one of this package's."""
    classes = config.num_classes or facts.num_classes
    if "model" not in facts.parts and classes:
        plain = dataclasses.replace(config, dtype="float32", remat=False, batch_norm="local")
        with contextlib.suppress(InputError):
            if isinstance(model := make_model(plain, classes), ResNet):
                return model
    return config.model, config.model_options, classes


def _schedule(config: TrainConfig, train_size: int | None) -> dict[str, Any]:
    """Returns the contributions of the keys that the learning rate of each step depends on.

    Keys in steps and in epochs contribute the same number of steps, if that is known.
    """
    if train_size is None:

        def given_as(keys: tuple[str, ...]) -> Any:
            return [getattr(config, key) for key in keys]

        warmup, boundaries = given_as(_WARMUP), given_as(_BOUNDARIES)
        every, rate = given_as(_EVALUATIONS), given_as(_RATE)
        length = given_as((*_RUN, *_SCHEDULE) if config.scale_schedule else _SCHEDULE)
    else:
        given, length = config_in_steps(config, train_size)
        warmup, boundaries, rate = given.warmup_steps, given.boundaries, given.learning_rate
        every = periods(config, train_size).evaluation
    if config.schedule in ("constant", "plateau", "step"):
        length = None
    if config.schedule in ("constant", "plateau", "cosine"):
        boundaries = None
    if config.schedule != "plateau":
        every = None
    whole = warmup, length, boundaries
    return {
        "scale_schedule": whole,
        **dict.fromkeys(_RUN, whole if config.scale_schedule else None),
        **dict.fromkeys(_SCHEDULE, whole if config.scale_schedule else length),
        **dict.fromkeys(_WARMUP, warmup),
        **dict.fromkeys(_BOUNDARIES, boundaries),
        **dict.fromkeys(_RATE, rate),
        **dict.fromkeys(_EVALUATIONS, every),
    }
