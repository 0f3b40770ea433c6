"""What a run says while it works, in its log and its progress bar, without waiting for devices."""

import collections
import time
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from ..evaluation import ErrorSums
from ..parallel import replicate
from .progress import Progress
from .records import MetricsLog
from .state import TrainState
from .step import Metrics


class _Interval(NamedTuple):
    """The sums of a logging interval, on their way from the device."""

    step: int
    sums: ErrorSums
    metrics: Metrics

    def has_arrived(self) -> bool:
        """Whether reading the sums would not wait."""
        return all(array.is_ready() for array in jax.tree.leaves(self.sums))


class Report:
    """Collects the training's sums every `log_every` steps and writes them when they have arrived.

    Sums stay on the device between two lines and are part of the state, so a run that is taken up
    again writes the same lines as one that was never stopped.
    """

    def __init__(
        self,
        workdir: Path,
        start_step: int,
        num_steps: int,
        *,
        batch_size: int,
        log_every: int,
        mesh: Mesh,
    ) -> None:
        """Opens the records of `workdir`, less what they hold beyond `start_step`."""
        self._metrics_log = MetricsLog(workdir, resume_step=start_step)
        self._progress = Progress(num_steps, start_step)
        self._num_steps, self._log_every = num_steps, log_every
        self._batch_size, self._mesh = batch_size, mesh
        self._arriving: collections.deque[_Interval] = collections.deque()
        self._clock = (start_step, time.monotonic())
        self._first = True

    def step(self, step: int, state: TrainState, metrics: Metrics) -> TrainState:
        """Takes note of a step that has been sent to the devices.

        Returns:
          The state to go on with, its sums set back to zero where an interval ends.
        """
        if self._first:
            # Compiling is not part of the speed: wait for the first step, this once.
            self._first = False
            metrics["learning_rate"].block_until_ready()
            self.restart_clock(step)
        if step % self._log_every == 0 or step == self._num_steps:
            self._arriving.append(_Interval(step, state.sums, metrics))
            state = state.replace(sums=replicate(ErrorSums.zero(), self._mesh))
        while self._arriving and self._arriving[0].has_arrived():
            self._write_interval(self._arriving.popleft())
        self._progress.update(step)
        return state

    def flush(self) -> None:
        """Waits for the sums on their way and writes them."""
        while self._arriving:
            self._write_interval(self._arriving.popleft())

    def restart_clock(self, step: int) -> None:
        """Leaves the time since the last line out of `images_per_second`."""
        self._clock = (step, time.monotonic())

    def evaluation(self, step: int, split: str, result: dict[str, float]) -> None:
        """Writes an evaluation's result."""
        self._write(step, split, result)

    def say(self, text: str) -> None:
        """Prints a line without disturbing the progress bar."""
        self._progress.write(text)

    def close(self) -> None:
        """Writes what is left and ends the progress bar."""
        self.flush()
        self._progress.close()
        self._metrics_log.close()

    def _write_interval(self, interval: _Interval) -> None:
        values = interval.sums.means()  # Waits here, if at all.
        since, then = self._clock
        self._clock = (interval.step, time.monotonic())
        images = (interval.step - since) * self._batch_size
        values["learning_rate"] = float(interval.metrics["learning_rate"])
        values["images_per_second"] = images / (self._clock[1] - then) if images else 0.0
        self._write(interval.step, "train", values)

    def _write(self, step: int, split: str, values: dict[str, float]) -> None:
        self._metrics_log.write(step, split, **values)
        self._progress.log(step, split, **values)
