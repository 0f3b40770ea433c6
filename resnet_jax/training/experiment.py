"""Experiments: the parts of a run, made from a configuration or handed in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.data.loading.iterator import check_shared_memory
from resnet_jax.errors import ConfigError
from resnet_jax.models import MODELS, create_model, parameter_mask
from resnet_jax.registry import accepted
from resnet_jax.runtime.devices import DATA_AXIS
from resnet_jax.training.config import TrainConfig, check_boundaries, resolve
from resnet_jax.training.lengths import (
    Periods,
    boundaries_in_steps,
    common_period,
    lengths,
    periods,
)
from resnet_jax.training.optimizer import (
    OPTIMIZERS,
    SCHEDULES,
    LearningRate,
    Optimizer,
    make_learning_rate,
    make_optimizer,
    make_schedule,
)
from resnet_jax.training.task import (
    BATCH_AUGMENTATIONS,
    LOSSES,
    BatchAugmentation,
    Classification,
    Loss,
    Task,
)

MAX_RESIDENT_BYTES = 2**30
"""Largest size of the images that devices keep with `device_resident="auto"`."""

MAX_STEPS_AT_ONCE = 50
"""Maximum number of steps in one dispatch; a signal takes effect after them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """The parts of a run, any of which `replace` exchanges. Making an experiment writes nothing.

    Attributes:
      config: the configuration that the parts were made from; its other keys stay in effect.
      model: the network, not yet initialised.
      task: makes the `Task` of (model, loss, label_smoothing, batch_augmentation, color_shift).
      train_source: the training split, images encoded or uint8.
      eval_source: the split to evaluate.
      train_transform: converts a training image into the uint8 crop of the step.
      eval_transform: the same for evaluation.
      normalization: the crops' normalisation. If None, it is made from `config.preprocess` before
        the first step, including the mean training image if that is subtracted.
      batch_augmentation: (key, images, targets) → (images, targets), inside the step, or None.
      loss: (logits, targets) → loss per example.
      optimizer: a function of the learning rate that returns an optax transformation, such as
        `optax.lamb`; or a transformation, which has its own learning rate.
      schedule: the learning rate as a function of the number of completed updates.
      num_steps: length of the run.
      handed_in: name of each part not made from the configuration → its description.
    """

    config: TrainConfig
    model: nn.Module
    task: Callable[..., Task]
    train_source: data.Source
    eval_source: data.Source
    train_transform: data.Transform
    eval_transform: data.Transform
    normalization: data.Normalization | None
    batch_augmentation: BatchAugmentation | None
    loss: Loss
    optimizer: Optimizer
    schedule: optax.Schedule
    num_steps: int
    handed_in: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def replace(self, **parts: Any) -> Experiment:
        """Returns the experiment with other parts; the run records their names.

        A new `train_source` recomputes lengths in epochs and the schedule, unless those are handed
        in.

        Raises:
          ConfigError: there is no such part.
        """
        names = {field.name for field in dataclasses.fields(self)} - {"config", "handed_in"}
        if unknown := sorted(parts.keys() - names):
            raise ConfigError(
                f"an experiment has no part {unknown[0]!r}; choose from {', '.join(sorted(names))}"
            )
        named = {name: describe(part) for name, part in parts.items()}
        handed_in = dict(sorted({**self.handed_in, **named}.items()))
        if "train_source" in parts:
            size = len(parts["train_source"])
            derived = {
                "num_steps": lengths(self.config, size)[0],
                "schedule": make_schedule(self.config, size),
            }
            kept = {name: part for name, part in derived.items() if name not in handed_in}
            parts = {**kept, **parts}
        return dataclasses.replace(self, **parts, handed_in=handed_in)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return self.train_transform.output_shape(self.train_source.image_shape)

    @property
    def learning_rate(self) -> LearningRate:
        """The learning rate of each step."""
        return make_learning_rate(self.config, len(self.train_source), self.schedule)

    @property
    def sources(self) -> dict[str, data.Source]:
        """The two splits by use, `train` and `eval`."""
        return {"train": self.train_source, "eval": self.eval_source}

    @property
    def periods(self) -> Periods:
        """Steps between evaluations and between checkpoints."""
        return periods(self.config, len(self.train_source))

    @property
    def recorded(self) -> dict[str, str]:
        """The parts handed in that a resumed run must have again: all but its length."""
        return {name: part for name, part in self.handed_in.items() if name != "num_steps"}

    def make_task(self) -> Task:
        """Returns the task of these parts."""
        return self.task(
            model=self.model,
            loss=self.loss,
            label_smoothing=self.config.label_smoothing,
            batch_augmentation=self.batch_augmentation,
            color_shift=self.config.color_augmentation == "pca",
        )


def describe(part: Any) -> str:
    """Returns a part's name: that of a function, or of an object's class."""
    name = getattr(part, "__qualname__", None) or type(part).__qualname__
    return str(name)


def open_experiment(config: ConfigDict | TrainConfig, **parts: Any) -> Experiment:
    """Makes every part that a recipe names, except those that are handed in.

    Args:
      config: a recipe, resolved or not.
      **parts: attributes of `Experiment`, such as `train_source`, that replace the recipe's.

    Raises:
      ConfigError, ModelError, DataError: a name is unknown, or the data is missing.
    """
    if isinstance(config, ConfigDict):
        config = resolve(config)
    look_up_names(config, [name for name in _NAMES if name not in parts])
    train_source, eval_source = (
        parts[name]
        if name in parts
        else data.open_source(
            config.dataset, split, config.data_dir, on_bad_image=config.on_bad_image
        )
        for name, split in (
            ("train_source", config.train_split),
            ("eval_source", config.eval_split),
        )
    )
    num_steps, schedule_end = lengths(config, len(train_source))
    end = schedule_end if config.scale_schedule else max(schedule_end, num_steps)
    check_boundaries(config, boundaries_in_steps(config, len(train_source)), end)
    augmentation = config.batch_augmentation
    made = Experiment(
        config=config,
        model=parts["model"] if "model" in parts else make_model(config, train_source.num_classes),
        task=Classification,
        train_source=train_source,
        eval_source=eval_source,
        train_transform=data.train_transform(
            config.augmentation, config.image_size, channels=config.channels
        ),
        eval_transform=data.eval_transform(
            config.augmentation, config.image_size, channels=config.channels
        ),
        normalization=None,
        batch_augmentation=None if augmentation is None else BATCH_AUGMENTATIONS[augmentation],
        loss=LOSSES[config.loss],
        optimizer=make_optimizer(config),
        schedule=make_schedule(config, len(train_source)),
        num_steps=num_steps,
    )
    return made.replace(**parts) if parts else made


_NAMES = {
    "model": MODELS,
    "augmentation": data.AUGMENTATIONS,
    "preprocess": data.PREPROCESSES,
    "batch_augmentation": BATCH_AUGMENTATIONS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


def look_up_names(config: TrainConfig, keys: Iterable[str]) -> None:
    """Checks names, so that a misspelt one fails before any data is opened.

    Raises:
      ConfigError, DataError, ModelError: a key's name is not registered.
    """
    for key in keys:
        if (name := getattr(config, key)) is not None:
            _NAMES[key][name]


def make_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """Returns the network that a configuration names; it has `num_classes` outputs by default.

    A custom model receives those of `dtype`, `remat`, `norm_axis_name` and `kernels` that its
    function accepts.

    Raises:
      ConfigError: the data has more classes, or the model does not support an option.
      ModelError: there is no such model or option.
    """
    classes = config.num_classes or num_classes
    if num_classes > classes:
        raise ConfigError(
            f"data set {config.dataset!r} has {num_classes} classes, the model only {classes}; "
            f"set config.num_classes={num_classes} or omit it"
        )
    options = {
        "dtype": config.dtype,
        "remat": config.remat,
        "norm_axis_name": DATA_AXIS if config.batch_norm == "global" else None,
        "kernels": "auto",
    }
    taken = accepted(MODELS[config.model], options)
    for key, default in (("dtype", "float32"), ("remat", False), ("norm_axis_name", None)):
        if key not in taken and options[key] != default:
            name = "batch_norm" if key == "norm_axis_name" else key
            raise ConfigError(
                f"model {config.model!r} takes no {key}; leave config.{name} at its default"
            )
    model: nn.Module = create_model(config.model, classes, **(taken | config.model_options))
    return model


def check(experiment: Experiment, mesh: Mesh) -> None:
    """Checks that the parts and the devices fit together.

    Raises:
      ConfigError, DataError: they do not; the message names the mismatch.
    """
    config = experiment.config
    share = config.batch_size // mesh.size
    if config.batch_size % mesh.size:
        raise ConfigError(
            f"config.batch_size={config.batch_size} does not divide over {mesh.size} devices; "
            f"make it a multiple of {mesh.size}"
        )
    if share % config.accumulate_steps:
        raise ConfigError(
            f"config.accumulate_steps={config.accumulate_steps} does not divide the {share} images "
            "per device; choose a divisor, or another batch_size"
        )
    channels = experiment.image_shape[2]
    eval_shape = experiment.eval_transform.output_shape(experiment.eval_source.image_shape)
    if channels != eval_shape[2]:
        raise ConfigError(
            f"the training images have {channels} channels, the evaluation images "
            f"{eval_shape[2]}; set config.channels to 1 or 3"
        )
    if config.color_augmentation == "pca" and channels != 3:
        raise ConfigError(
            f"config.color_augmentation='pca' needs images with 3 channels, not {channels}; "
            "set it to 'none'"
        )
    resident = data.can_be_resident(experiment.train_source, experiment.train_transform)
    if config.device_resident == "yes" and not resident:
        raise ConfigError(
            "config.device_resident='yes' needs a data set of arrays and augmentation 'none' or "
            f"'cifar', not {config.dataset!r} with {config.augmentation!r}; set it to 'auto'"
        )
    if config.loader_workers and resident_arrays(experiment, mesh) is None:
        share = math.prod(experiment.image_shape) * config.batch_size // jax.process_count()
        check_shared_memory(share, config.loader_workers)
    initial_normalization(experiment)
    lowers = config.on_nan == "rollback" or config.schedule == "plateau"
    if not callable(experiment.optimizer) and lowers:
        raise ConfigError(
            "on_nan='rollback' and schedule='plateau' lower the learning rate, but this optimizer "
            "has its own; hand in a function of the learning rate, or change these keys"
        )
    if config.train_parts:
        key, task = jax.random.key(0), experiment.make_task()
        shapes = jax.eval_shape(lambda: task.initialize(key, experiment.image_shape))
        parameter_mask(shapes["params"], config.train_parts)


def initial_normalization(experiment: Experiment) -> data.Normalization:
    """Returns the images' normalisation with a mean image of zeros, for a state to restore into."""
    if experiment.normalization is not None:
        return experiment.normalization
    shape = experiment.image_shape
    preprocess = experiment.config.preprocess
    return data.make_normalization(preprocess, shape[2], np.zeros(shape, np.float32))


def compute_normalization(experiment: Experiment) -> data.Normalization:
    """Returns the images' normalisation; a mean image averages the whole training split."""
    config = experiment.config
    if experiment.normalization is not None or not data.needs_pixel_mean(config.preprocess):
        return initial_normalization(experiment)
    mean = data.pixel_mean(
        experiment.train_source, experiment.eval_transform, on_bad_image=config.on_bad_image
    )
    return data.make_normalization(config.preprocess, experiment.image_shape[2], mean)


def resident_arrays(experiment: Experiment, mesh: Mesh) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the training images and labels if the devices keep them, else None."""
    choice = experiment.config.device_resident
    if choice == "no":
        return None
    on_cpu = mesh.devices.flat[0].platform == "cpu"  # A second copy there saves nothing.
    if choice == "auto" and on_cpu:
        return None
    arrays = data.resident_arrays(experiment.train_source, experiment.train_transform)
    if choice == "auto" and arrays and arrays[0].nbytes > MAX_RESIDENT_BYTES:
        return None
    return arrays


def steps_at_once(config: TrainConfig, mesh: Mesh) -> int:
    """Returns the number of steps per dispatch, if the devices keep the images.

    It divides the intervals of log lines, evaluations, checkpoints and traces; those in epochs end
    between two dispatches (see `next_due`). On the CPU it is one, because XLA's CPU back end runs
    convolutions many times slower inside a loop.
    """
    if mesh.devices.flat[0].platform == "cpu":
        return 1
    between = common_period(config)
    return max(k for k in range(1, MAX_STEPS_AT_ONCE + 1) if between % k == 0)


def train_iterator(experiment: Experiment, pixels: bool = True) -> data.TrainIterator:
    """Returns this host's endless batches from the first step; its state is a position.

    Args:
      experiment: the run's parts.
      pixels: False if the devices keep the images; batches then hold what to cut from them.
    """
    config = experiment.config
    dataset = data.train_batches(
        experiment.train_source,
        experiment.train_transform,
        batch_size=config.batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        on_bad_image=config.on_bad_image,
        pixels=pixels,
    )
    return data.train_iterator(
        dataset, num_threads=config.loader_threads, num_workers=config.loader_workers
    )


def eval_batches(experiment: Experiment, mesh: Mesh) -> data.EvalBatches:
    """Returns this host's share of the evaluation split, each image once."""
    config = experiment.config
    batch_size = config.eval_batch_size or config.batch_size
    return data.eval_batches(
        experiment.eval_source,
        experiment.eval_transform,
        batch_size=-(-batch_size // mesh.size) * mesh.size,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        on_bad_image=config.on_bad_image,
    )
