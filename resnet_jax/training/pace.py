"""The rhythm of host and devices: how far ahead the host runs, who waits for whom, and traces."""

import collections
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from .step import Metrics
from .stop import Stop

MAX_STEPS_AHEAD = 4
"""How many times steps may have been sent to the devices and not be known to be done."""


class Pace:
    """Keeps the host a few steps ahead of the devices, so that neither waits for the other.

    With several hosts it also makes them end after the same step: each puts its wish to stop into
    its part of the batch, the step adds the wishes up along with its other sums, and all hosts read
    the same total from the step that is `MAX_STEPS_AHEAD` behind.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._sent: collections.deque[Metrics] = collections.deque()
        self._several_hosts = jax.process_count() > 1
        self._agreed = False
        self._waited = 0.0

    def next_batch(
        self, batches: Iterator[dict[str, np.ndarray]], steps: int = 1
    ) -> dict[str, np.ndarray]:
        """Returns the next batch; notes the time in which there was none and nothing to compute.

        Several steps' batches are stacked: `[steps, n, ...]`.
        """
        start = time.monotonic()
        taken = [next(batches) for _ in range(steps)]
        if not self._sent or is_ready(self._sent[-1]):
            self._waited += time.monotonic() - start
        if self._several_hosts:
            wish = np.full(jax.local_device_count(), self._stop.asked(), np.int32)
            taken = [{**batch, "stop": wish} for batch in taken]
        return taken[0] if steps == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *taken)

    def sent(self, metrics: Metrics) -> None:
        """Takes note of what was sent to the devices; waits if they are too far behind."""
        self._sent.append(metrics)
        if len(self._sent) > MAX_STEPS_AHEAD:
            done = self._sent.popleft()
            done["learning_rate"].block_until_ready()
            if self._several_hosts:
                self._agreed = bool(np.any(done["stop"]))

    def told_to_stop(self) -> bool:
        """Whether the run is to end here; the same answer on all hosts."""
        return self._agreed if self._several_hosts else self._stop.asked()

    def take_waited(self) -> float:
        """Returns the seconds that the devices have waited for data since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


def is_ready(tree: Any) -> bool:
    """Whether all arrays of `tree` have been computed, so that reading them would not wait."""
    return all(array.is_ready() for array in jax.tree.leaves(tree))


class Profile:
    """Writes a trace of some steps, for TensorBoard and Perfetto.

    Attributes:
      directory: where the trace goes.
      steps: the first and the last step to trace; none if empty.
      start_step: the step that the run goes on from, or 0. A run that goes on behind the first
        step to trace has no trace.
    """

    def __init__(self, directory: Path, steps: tuple[int, ...], start_step: int) -> None:
        self._directory = directory
        self._first, self._last = steps or (0, 0)
        self._begins_at_once = start_step + 1 == self._first
        self._tracing = False

    def sent(self, step: int, metrics: Metrics) -> None:
        """Takes note of a step sent to the devices; the trace begins and ends between two steps."""
        begins, ends = step + 1 == self._first, self._tracing and step == self._last
        if begins or ends:
            metrics["learning_rate"].block_until_ready()
        if begins:
            self._begin()
        elif ends:
            self._end()

    def __enter__(self) -> Self:
        if self._begins_at_once:
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._tracing:
            self._end()

    def _begin(self) -> None:
        jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
        self._tracing = True

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
