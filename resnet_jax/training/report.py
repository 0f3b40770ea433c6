"""What a run says while it works, in its log and its progress bar, without waiting for devices."""

import collections
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh

from ..evaluation import ErrorSums
from ..parallel import replicated
from .config import TrainConfig
from .health import EXPLODED, diverged, layers
from .pace import MAX_STEPS_AHEAD, is_ready
from .progress import Progress
from .records import MetricsLog
from .state import TrainState
from .step import Metrics

BOTTLENECK = 0.2
"""The part of the time that devices may wait for data before the run says so."""


MAX_STEPS_KEPT = 1000
"""How many steps of an interval can be looked back on for the first that was not well."""


class _Interval(NamedTuple):
    """The sums of a logging interval, on their way from the device, and what each step returned."""

    step: int
    sums: ErrorSums
    steps: collections.deque[Metrics]
    bad_images: int


class Report:
    """Collects the training's sums every `log_every` steps and writes them when they have arrived.

    Sums stay on the device between two lines and are part of the state, so a run that is taken up
    again writes the same lines as one that was never stopped. What is written is looked at first:
    `Diverged` ends a run that has come to make no sense.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        start_step: int,
        num_steps: int,
        mesh: Mesh,
        evaluated: bool,
        started: float,
    ) -> None:
        """Opens the records of `workdir`, less what they hold beyond the checkpoint.

        Args:
          config: the run.
          workdir: its work directory.
          start_step: the step of the checkpoint that the run goes on from, or 0.
          num_steps: the run's last step.
          mesh: the devices.
          evaluated: whether the evaluation that belongs to `start_step`, if any, was done by then.
          started: when the run began, by `time.monotonic()`.
        """
        self._is_writer = jax.process_index() == 0
        if self._is_writer:
            self._metrics_log = MetricsLog(workdir, resume_step=start_step, evaluated=evaluated)
            self._progress = Progress(num_steps, start_step)
        self._config, self._num_steps = config, num_steps
        self._zero_sums = jax.jit(ErrorSums.zero, out_shardings=replicated(mesh))
        self._arriving: collections.deque[_Interval] = collections.deque()
        self._steps: collections.deque[Metrics] = collections.deque(maxlen=MAX_STEPS_KEPT)
        self._step = start_step
        self._clock = (start_step, time.monotonic())
        self._waited, self._started = 0.0, started
        self._compiled = self._warned = False

    def step(
        self,
        step: int,
        state: TrainState,
        metrics: Metrics,
        waited: float = 0.0,
        bad_images: int = 0,
    ) -> TrainState:
        """Takes note of a step, or several at once, that have been sent to the devices.

        Args:
          step: number of updates that will be done with them.
          state: the state after them.
          metrics: what was returned.
          waited: seconds that the devices have waited for its data.
          bad_images: how many images could not be decoded and were replaced, so far.

        Returns:
          The state to go on with, its sums set back to zero where an interval ends.

        Raises:
          Diverged: an interval whose sums have arrived shows it.
        """
        self._waited += waited
        if not self._compiled:
            # Compiling is not part of the speed: wait for the first step, this once.
            metrics["learning_rate"].block_until_ready()
            self.say(f"first step after {time.monotonic() - self._started:.1f} s")
            self.restart_clock(step)
            self._layers = layers(state.params), layers(state.batch_stats)
            self._compiled = True
        self._step = step
        self._steps.append(metrics)
        if step % self._config.log_every == 0 or step == self._num_steps:
            self._arriving.append(_Interval(step, state.sums, self._steps, bad_images))
            self._steps = collections.deque(maxlen=MAX_STEPS_KEPT)
            state = state.replace(sums=self._zero_sums())
        while self._arriving and self._is_due(self._arriving[0]):
            self._write_interval(self._arriving.popleft())
        if self._is_writer:
            self._progress.update(step)
        return state

    def flush(self) -> None:
        """Waits for the sums on their way and writes them, before an evaluation or a checkpoint.

        Raises:
          Diverged: one of the steps so far was not well.
        """
        while self._arriving:
            self._write_interval(self._arriving.popleft())
        self._check(self._step, self._steps)

    def restart_clock(self, step: int) -> None:
        """Leaves the time since the last line out of `images_per_second`."""
        self._clock, self._waited = (step, time.monotonic()), 0.0

    def evaluation(self, step: int, split: str, result: dict[str, float]) -> None:
        """Writes an evaluation's result."""
        self._write(step, split, result)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        if self._is_writer:
            self._progress.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.flush()
        if self._is_writer:
            self._progress.close()
            self._metrics_log.close()

    def _write_interval(self, interval: _Interval) -> None:
        values = interval.sums.means()  # Waits here, if at all.
        since, then = self._clock
        self._clock = (interval.step, time.monotonic())
        steps, seconds = interval.step - since, self._clock[1] - then
        values["learning_rate"] = float(np.ravel(interval.steps[-1]["learning_rate"])[-1])
        if interval.bad_images:
            values["bad_images"] = interval.bad_images
        if steps:
            values["images_per_second"] = steps * self._config.batch_size / seconds
            values["seconds_per_step"] = seconds / steps
            values["data_seconds_per_step"] = self._waited / steps
            if self._waited > BOTTLENECK * seconds and not self._warned:
                self._warned = True
                self.say(
                    f"the loader is the bottleneck: {self._waited / seconds:.0%} of the time the "
                    "devices waited for data; see docs/data.md"
                )
        self._waited = 0.0
        self._write(interval.step, "train", values)
        self._check(interval.step, interval.steps, values["loss"])

    def _is_due(self, interval: _Interval) -> bool:
        """Whether an interval can be written without waiting; with several hosts, on all of them.

        They have to find out in the same step that the run has diverged.
        """
        if jax.process_count() > 1:
            return self._step >= interval.step + MAX_STEPS_AHEAD
        return is_ready(interval.sums)

    def _check(self, last: int, steps: collections.deque[Metrics], loss: float = 0.0) -> None:
        """Raises `Diverged` if the steps up to `last`, of the mean `loss`, were not all well."""
        if not steps or (steps[-1]["health"].is_finite() and loss <= EXPLODED):
            return
        each = [metrics for sent in steps for metrics in _one_by_one(sent)]
        bad = len(each) - 1
        for index, metrics in enumerate(each):
            if not metrics["health"].is_finite():
                bad = index
                break
        metrics = each[bad]
        raise diverged(
            last - len(each) + 1 + bad,
            metrics["health"],
            float(metrics["learning_rate"]),
            *self._layers,
        )

    def _write(self, step: int, split: str, values: dict[str, float]) -> None:
        if self._is_writer:
            self._metrics_log.write(step, split, **values)
            self._progress.log(step, split, **values)


def _one_by_one(metrics: Metrics) -> list[Metrics]:
    """What each step returned, of several that were sent at once."""
    if not np.ndim(metrics["learning_rate"]):
        return [metrics]
    arrays = jax.device_get(metrics)
    count = len(arrays["learning_rate"])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], arrays) for i in range(count)]
