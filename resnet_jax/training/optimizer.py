"""Optimisers, and the learning rate of each step: schedule, warm-up, plateau and rollbacks."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.errors import ConfigError, one_line
from resnet_jax.models import train_only
from resnet_jax.registry import Registry
from resnet_jax.training.config import TrainConfig, resolve
from resnet_jax.training.lengths import config_in_steps

Optimizer: TypeAlias = optax.GradientTransformation | Callable[[Any], optax.GradientTransformation]
"""A function of the learning rate, which the step calls for each update, or a transformation that
has its own learning rate."""

OPTIMIZERS = Registry("optimizer")
"""Functions of (config, schedule) that return an `optax.GradientTransformation`. The schedule
returns the current update's learning rate for any count."""

SCHEDULES = Registry("schedule")
"""Functions of (config, num_steps) that return an `optax.Schedule`. `config.learning_rate` is the
peak, scaled by the batch size, and lengths are in steps. `make_schedule` adds the warm-up."""

register_optimizer = OPTIMIZERS.register
"""Decorates a function of (config, schedule) that returns a transformation, by a name."""

register_schedule = SCHEDULES.register
"""Decorates a function of (config, num_steps) that returns an `optax.Schedule`, by a name."""

ERROR_DECAY = 0.98
"""Decay of the moving average of the training error, which spans about fifty steps."""

PLATEAU_THRESHOLD = 1e-4
"""An evaluation error improves on the best if it is lower by more than this fraction of it."""


@register_optimizer("sgd")
def _sgd(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum in PyTorch's order (`torch.optim.SGD`).

    gradient += weight_decay * parameter; velocity = momentum * velocity + gradient;
    update = -learning_rate * velocity.
    """
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_decayed(config)),
        optax.trace(decay=config.momentum, **config.optimizer_options),
        optax.stateless(lambda updates, _: jax.tree.map(lambda u: -schedule(0) * u, updates)),
    )


def _decoupled(make: Callable[..., Any], config: TrainConfig, schedule: optax.Schedule) -> Any:
    """An optimiser of optax's whose weight decay is not a part of the gradient."""
    decay = {"weight_decay": config.weight_decay, "mask": _decayed(config)}
    return make(schedule, **decay, **config.optimizer_options)


register_optimizer("adamw")(partial(_decoupled, optax.adamw))
register_optimizer("lamb")(partial(_decoupled, optax.lamb))


@register_optimizer("lars")
def _lars(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    mask = True if config.decay_scales_and_biases else kernels
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=mask,
        trust_ratio_mask=mask,
        momentum=config.momentum,
        **config.optimizer_options,
    )


@register_optimizer("rmsprop")
def _rmsprop(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """RMSprop as in `torch.optim.RMSprop`: weight decay is added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_decayed(config)),
        optax.rmsprop(schedule, momentum=config.momentum, **config.optimizer_options),
    )


def _decayed(config: TrainConfig) -> Callable[[Any], Any] | None:
    """Returns the mask of weight decay: all parameters, as in the paper, or the kernels."""
    return None if config.decay_scales_and_biases else kernels


def kernels(params: Any) -> Any:
    """Returns a mask of `params`: True for convolution and classifier kernels, False elsewhere."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


_OPTIONS = {
    "sgd": optax.trace,
    "adamw": optax.adamw,
    "lamb": optax.lamb,
    "lars": optax.lars,
    "rmsprop": optax.rmsprop,
}
"""The function that takes the `optimizer_options` of each optimiser."""


def options_in_effect(config: TrainConfig) -> dict[str, Any]:
    """Returns the `optimizer_options` that differ from the optimiser's defaults."""
    taken = _OPTIONS.get(config.optimizer)
    known = inspect.signature(taken).parameters if taken else {}
    return {
        name: value
        for name, value in config.optimizer_options.items()
        if name not in known or value != known[name].default
    }


def make_optimizer(config: TrainConfig) -> Callable[[Any], optax.GradientTransformation]:
    """Returns the optimiser that a configuration names, as a function of the learning rate.

    Raises:
      ConfigError: the optimiser is unknown or does not accept the options.
    """
    make = OPTIMIZERS[config.optimizer]

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        made: optax.GradientTransformation = make(config, lambda _: learning_rate)
        return made

    try:
        optimizer(0.0)
    except TypeError as error:
        raise ConfigError(
            f"optimizer {config.optimizer!r} does not take config.optimizer_options="
            f"{dict(config.optimizer_options)} ({one_line(str(error), 100)})"
        ) from error
    return optimizer


def of_parts(optimizer: Optimizer, parts: Sequence[str]) -> Optimizer:
    """Returns an optimiser of these parts of a network alone, `config.train_parts`; all if none."""
    if not parts:
        return optimizer
    if callable(optimizer):
        return lambda learning_rate: train_only(optimizer(learning_rate), parts)
    return train_only(optimizer, parts)


def transformation(optimizer: Optimizer, learning_rate: Any = 0.0) -> optax.GradientTransformation:
    """Returns the optimiser's transformation for a learning rate."""
    return optimizer(learning_rate) if callable(optimizer) else optimizer


@register_schedule("constant")
@register_schedule("plateau")
def _constant(config: TrainConfig, num_steps: int) -> optax.Schedule:
    """The constant peak; with "plateau", evaluation errors lower it, see `LearningRate`."""
    return lambda count: jnp.asarray(config.learning_rate, jnp.float32)


@register_schedule("step")
def _step(config: TrainConfig, num_steps: int) -> optax.Schedule:
    """Decays by `decay_factor` at each boundary (paper, Section 4.2: 32k and 48k iterations)."""
    boundaries = np.asarray(config.boundaries)

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        decays = jnp.sum(count >= jnp.asarray(boundaries))
        rate = jnp.asarray(config.learning_rate, jnp.float32)
        return rate * jnp.asarray(config.decay_factor, jnp.float32) ** decays

    return schedule


@register_schedule("cosine")
def _cosine(config: TrainConfig, num_steps: int) -> optax.Schedule:
    """Falls along half a cosine to zero at the schedule's end and stays there."""
    warmup = config.warmup_steps or 0

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        done = (count - warmup) / max(num_steps - warmup, 1)
        rate = jnp.asarray(config.learning_rate, jnp.float32)
        return rate * (0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1))))

    return schedule


def make_schedule(config: TrainConfig, train_size: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of completed updates.

    Linear warm-up reaches the peak at update `warmup_steps`; the first update uses
    `1 / warmup_steps` of it. The schedule that `config.schedule` names follows.

    Args:
      config: the run's configuration.
      train_size: images in the training split, for lengths in epochs.

    Raises:
      ConfigError: the schedule is unknown.
    """
    given, length = config_in_steps(config, train_size)
    after_warmup = SCHEDULES[config.schedule](given, length)
    peak, warmup = given.learning_rate, given.warmup_steps

    def schedule(count: int | Int[Array, ""]) -> Float[Array, ""]:
        count = jnp.asarray(count)
        rate = after_warmup(count)
        if warmup:
            rate = jnp.where(count < warmup, peak * (count + 1) / warmup, rate)
        return jnp.asarray(rate, jnp.float32)

    return schedule


class Feedback(struct.PyTreeNode):
    """The errors' effect on the learning rate so far; part of the checkpoint.

    Attributes:
      train_error: moving average of the batches' errors; it starts at one.
      warm: whether the warm-up by training error is over.
      scale: factor from the plateau schedule and rollbacks that multiplies the learning rate.
      best_error: lowest evaluation error so far.
      stale: consecutive evaluations that did not improve on it.
    """

    train_error: Float[Array, ""]
    warm: Bool[Array, ""]
    scale: Float[Array, ""]
    best_error: Float[Array, ""]
    stale: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step: the schedule, adjusted by errors.

    Attributes:
      schedule: the learning rate as a function of the number of completed updates.
      warmup_until_error: until the training error first falls below it, the rate is
        `warmup_learning_rate` (paper, Section 4.2, for 110 layers: 0.01 until below 80 %).
      warmup_learning_rate: see `warmup_until_error`.
      plateau_patience: if given, the rate is multiplied by `decay_factor` after more than this many
        consecutive evaluations without improvement (`torch.optim.lr_scheduler.ReduceLROnPlateau`).
      decay_factor: see `plateau_patience`.
    """

    schedule: optax.Schedule
    warmup_until_error: float | None = None
    warmup_learning_rate: float = 0.01
    plateau_patience: int | None = None
    decay_factor: float = 0.1

    def start(self) -> Feedback:
        """Returns the feedback before the first step."""
        return Feedback(
            train_error=jnp.ones((), jnp.float32),
            warm=jnp.asarray(self.warmup_until_error is None),
            scale=jnp.ones((), jnp.float32),
            best_error=jnp.full((), jnp.inf, jnp.float32),
            stale=jnp.zeros((), jnp.int32),
        )

    def __call__(self, count: int | Int[Array, ""], feedback: Feedback) -> Float[Array, ""]:
        """Returns the learning rate of the update after `count` updates."""
        rate = self.schedule(count) * feedback.scale
        if self.warmup_until_error is None:
            return rate
        warmup = jnp.float32(self.warmup_learning_rate) * feedback.scale
        return jnp.where(feedback.warm, rate, warmup)

    def after_step(self, feedback: Feedback, error: Float[Array, ""]) -> Feedback:
        """Returns the feedback after a batch with this error (a fraction)."""
        train_error = ERROR_DECAY * feedback.train_error + (1 - ERROR_DECAY) * error
        train_error = train_error.astype(jnp.float32)
        warm = feedback.warm
        if self.warmup_until_error is not None:
            warm |= train_error < self.warmup_until_error
        return feedback.replace(train_error=train_error, warm=warm)

    def after_evaluation(self, feedback: Feedback, error: float) -> Feedback:
        """Returns the feedback after an evaluation with this error (a fraction)."""
        improved = error < feedback.best_error * (1 - PLATEAU_THRESHOLD)
        stale = jnp.where(improved, 0, feedback.stale + 1)
        decays = jnp.asarray(False)
        if self.plateau_patience is not None:
            decays = stale > self.plateau_patience
        return feedback.replace(
            scale=jnp.where(decays, feedback.scale * self.decay_factor, feedback.scale),
            best_error=jnp.where(improved, jnp.float32(error), feedback.best_error),
            stale=jnp.where(decays, 0, stale),
        )


def make_learning_rate(
    config: TrainConfig, train_size: int, schedule: optax.Schedule | None = None
) -> LearningRate:
    """Returns the learning rate that a configuration describes.

    Args:
      config: the run's configuration.
      train_size: images in the training split, for lengths in epochs.
      schedule: replaces the schedule that the configuration names.
    """
    return LearningRate(
        make_schedule(config, train_size) if schedule is None else schedule,
        config.warmup_until_error,
        config.warmup_learning_rate,
        config.plateau_patience if config.schedule == "plateau" else None,
        config.decay_factor,
    )


def learning_rate(
    config: ConfigDict | TrainConfig, step: int, train_size: int | None = None
) -> float:
    """Returns the learning rate of a step of a run, before any adjustment by errors.

    Args:
      config: the recipe.
      step: the step, counted from 1.
      train_size: images in the training split; by default read from it if lengths are in epochs.
    """
    config = resolve(config) if isinstance(config, ConfigDict) else config
    if train_size is None:
        train_size = training_size(config)
    rate = make_learning_rate(config, train_size)
    return float(rate(jnp.int32(step - 1), rate.start()))


def training_size(config: TrainConfig) -> int:
    """Returns the number of training images if a length is given in epochs, else 1."""
    epochs = (config.num_epochs, config.warmup_epochs, config.schedule_epochs)
    if not any((*epochs, config.boundaries_epochs)):
        return 1
    return len(data.open_source(config.dataset, config.train_split, config.data_dir))
