"""Lengths, boundaries and periods, in steps or in epochs, and notices about them."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax

from resnet_jax.errors import ConfigError
from resnet_jax.training.config import TrainConfig

_EVERY = 1000
"""Steps between evaluations and between checkpoints, by default."""


def in_steps(steps: int | None, epochs: float | None, batch_size: int, train_size: int) -> int:
    """Returns a length in steps, given in steps or in passes over `train_size` images."""
    return steps if steps is not None else round((epochs or 0) * train_size / batch_size)


def lengths(config: TrainConfig, train_size: int) -> tuple[int, int]:
    """Returns the lengths of the run and of its schedule, in steps."""

    def steps(of: str) -> int:
        given = getattr(config, f"{of}_steps"), getattr(config, f"{of}_epochs")
        return in_steps(*given, config.batch_size, train_size)

    return max(1, steps("num")), steps("schedule")


def boundaries_in_steps(config: TrainConfig, train_size: int) -> tuple[int, ...]:
    """Returns the steps at which schedule `step` decays, before any stretching.

    Raises:
      ConfigError: two boundaries in epochs are the same step, or one is before the first step.
    """
    if not config.boundaries_epochs:
        return config.boundaries
    epochs = config.boundaries_epochs
    return _increasing(
        tuple(in_steps(None, each, config.batch_size, train_size) for each in epochs),
        f"config.boundaries_epochs={epochs}",
    )


def _increasing(steps: tuple[int, ...], given: str) -> tuple[int, ...]:
    if steps and (steps[0] < 1 or list(steps) != sorted(set(steps))):
        raise ConfigError(
            f"{given} are steps {steps} here, which must be positive and increasing; lengthen the "
            "run, lower config.batch_size, or set others"
        )
    return steps


def config_in_steps(config: TrainConfig, train_size: int) -> tuple[TrainConfig, int]:
    """Returns a configuration with the schedule's lengths in steps, and the schedule's length.

    The learning rate is scaled by the batch size, and `scale_schedule` is applied.

    Args:
      config: the run's configuration.
      train_size: images in the training split, for lengths in epochs.

    Raises:
      ConfigError: boundaries in epochs, or scaled, do not differ or are before the first step.
    """
    peak = config.learning_rate
    if config.learning_rate_batch_size:
        peak *= config.batch_size / config.learning_rate_batch_size
    warmup = in_steps(config.warmup_steps, config.warmup_epochs, config.batch_size, train_size)
    num_steps, length = lengths(config, train_size)
    boundaries = boundaries_in_steps(config, train_size)
    if config.scale_schedule:
        stretch = num_steps / length
        warmup, length = round(warmup * stretch), num_steps
        boundaries = _increasing(
            tuple(np.rint(np.asarray(boundaries) * stretch).astype(int).tolist()),
            f"the scaled boundaries {boundaries}",
        )
    given = dataclasses.replace(
        config,
        learning_rate=peak,
        learning_rate_batch_size=None,
        warmup_steps=warmup,
        warmup_epochs=None,
        boundaries=boundaries,
        boundaries_epochs=(),
    )
    return given, length


class Periods(NamedTuple):
    """Steps between the evaluations and between the checkpoints of a run.

    A period in epochs is not rounded, so that the last of N epochs ends at the step that N epochs
    round to.
    """

    evaluation: float
    checkpoint: float

    def next_due(self, step: int) -> int:
        """Returns the first step after `step` with an evaluation or a checkpoint."""
        return min(next_due(step, period) for period in self)


def periods(config: TrainConfig, train_size: int) -> Periods:
    """Returns the periods of a run whose training split has `train_size` images."""

    def steps(every: int | None, epochs: float | None) -> float:
        if epochs is None:
            return float(every or _EVERY)
        return max(1.0, epochs * train_size / config.batch_size)

    return Periods(
        steps(config.eval_every, config.eval_every_epochs),
        steps(config.checkpoint_every, config.checkpoint_every_epochs),
    )


def common_period(config: TrainConfig) -> int:
    """Returns the greatest number of steps that divides all periods given in steps, and the trace.

    See `next_due` for periods in epochs.
    """
    first, last = config.profile_steps or (1, 0)
    evaluation = 0 if config.eval_every_epochs else config.eval_every or _EVERY
    checkpoint = 0 if config.checkpoint_every_epochs else config.checkpoint_every or _EVERY
    return math.gcd(config.log_every, evaluation, checkpoint, first - 1, last)


def is_due(step: int, period: float) -> bool:
    """Whether a multiple of `period`, rounded to a step, is `step`; not before the first step."""
    return step > 0 and round(round(step / period) * period) == step


def next_due(step: int, period: float) -> int:
    """Returns the first step after `step` at which `is_due`."""
    count = math.floor(step / period)
    while (due := round(count * period)) <= step:
        count += 1
    return due


def unfitted_schedule(config: TrainConfig, train_size: int, run: int) -> list[str]:
    """Returns a notice if the schedule's length differs from the run's.

    Args:
      config: the run's configuration.
      train_size: images in the training split, for lengths in epochs.
      run: length of the run in steps.
    """
    _, length = lengths(config, train_size)
    if config.schedule == "step":
        fits = run > boundaries_in_steps(config, train_size)[-1]
    else:
        fits = run == length or config.schedule != "cosine"
    if fits or config.scale_schedule:
        return []
    ended = config.schedule == "cosine" and run > length
    idle = f" with learning rate 0 after step {length}" if ended else ""
    return [
        f"the {config.schedule} schedule is made for {length} steps, but the run ends after {run}"
        f"{idle}; --config.scale_schedule=True fits it to the run"
    ]


def idle_schedule(schedule: optax.Schedule, start: int, end: int, workdir: Path) -> list[str]:
    """Returns a notice if a resumed run's last steps have the learning rate 0.

    Args:
      schedule: the learning rate by the number of completed updates; once 0, it stays 0.
      start: step of the checkpoint that the run resumes from.
      end: the run's last step.
      workdir: the run's work directory.
    """
    if start >= end or float(schedule(end - 1)) != 0:
        return []
    low, high = start, end - 1  # The first update without effect is in here.
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if float(schedule(middle)) == 0 else (middle + 1, high)
    return [
        f"the schedule has ended: steps {low + 1} to {end} change nothing, with learning rate 0. "
        "A run keeps its schedule; to train on, take a new --workdir with "
        f"--config.init_from={workdir} and a schedule of these steps"
    ]


def other_batch_size(config: TrainConfig, recipe: TrainConfig, train_size: int) -> list[str]:
    """Returns a notice if another batch size changes the epochs of a recipe with steps as length.

    Args:
      config: the run's configuration.
      recipe: the recipe's own, without the command line's changes.
      train_size: images in the training split.
    """
    steps, size, before = config.num_steps, config.batch_size, recipe.batch_size
    if size == before or steps is None or steps != recipe.num_steps or config.scale_schedule:
        return []
    return [
        f"{steps} steps of {size} images are {steps * size / train_size:.3g} epochs; the recipe's "
        f"{steps} steps of {before} are {steps * before / train_size:.3g}: for as many, set "
        f"--config.num_steps={max(1, round(steps * before / size))} --config.scale_schedule=True"
    ]
