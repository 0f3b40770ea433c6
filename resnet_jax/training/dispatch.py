"""Dispatch: the host sends steps to the devices ahead of time, within a limit."""

import collections
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from resnet_jax.runtime.interrupts import Stop
from resnet_jax.training.step import StepMetrics

MAX_STEPS_AHEAD = 4
"""Maximum number of dispatches to the devices that are not known to be complete."""


class Dispatch:
    """Keeps the host a few steps ahead of the devices, so that neither waits for the other.

    With several hosts it also makes them end after the same step: each host puts its stop request
    into its part of the batch, the step sums the requests, and `MAX_STEPS_AHEAD` dispatches later
    all hosts read the same total.

    Attributes:
      done_step: the last step that the devices are known to have completed.
    """

    def __init__(self, stop: Stop, start_step: int = 0) -> None:
        self.done_step = start_step
        self._stop = stop
        self._sent: collections.deque[tuple[int, StepMetrics]] = collections.deque()
        self._several_hosts = jax.process_count() > 1
        self._agreed = False
        self._waited = 0.0

    def next_batch(
        self, batches: Iterator[dict[str, np.ndarray]], steps: int = 1
    ) -> dict[str, np.ndarray]:
        """Returns the next batch and measures how long idle devices waited for it.

        The batches of several steps are stacked: `[steps, n, ...]`.
        """
        start = time.monotonic()
        taken = [next(batches) for _ in range(steps)]
        if not self._sent or is_ready(self._sent[-1][1]):
            self._waited += time.monotonic() - start
        if self._several_hosts:
            wish = np.full(jax.local_device_count(), self._stop.asked(), np.int32)
            taken = [{**batch, "stop": wish} for batch in taken]
        return taken[0] if steps == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *taken)

    def sent(self, step: int, metrics: StepMetrics) -> None:
        """Records the last step sent to the devices; waits if they are too far behind."""
        self._sent.append((step, metrics))
        if len(self._sent) > MAX_STEPS_AHEAD:
            self.done_step, done = self._sent.popleft()
            done["stop"].block_until_ready()
            if self._several_hosts:
                self._agreed = bool(np.any(done["stop"]))
        for sent_step, sent_metrics in self._sent:
            if not is_ready(sent_metrics["stop"]):
                break
            self.done_step = sent_step

    def told_to_stop(self) -> bool:
        """Whether the run must end now; the same on all hosts."""
        return self._agreed if self._several_hosts else self._stop.asked()

    def take_waited(self) -> float:
        """Returns the seconds that the devices have waited for data since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited


def is_ready(tree: Any) -> bool:
    """Whether all arrays of `tree` are computed, so that reading them does not wait."""
    return all(array.is_ready() for array in jax.tree.leaves(tree))
