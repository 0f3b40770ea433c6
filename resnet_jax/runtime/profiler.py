"""Traces of some steps, for TensorBoard and Perfetto."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Writes a trace of some steps, for TensorBoard and Perfetto.

    Attributes:
      directory: the trace's folder.
      steps: the first and the last step to trace; none if empty.
      start_step: the step that the run resumes from, or 0. A run that resumes after the first step
        to trace writes no trace.
    """

    def __init__(self, directory: Path, steps: tuple[int, ...], start_step: int) -> None:
        self._directory = directory
        self._first, self._last = steps or (0, 0)
        self._begins_at_once = start_step + 1 == self._first
        self._tracing = False

    def sent(self, step: int, metrics: Any) -> None:
        """Records a step sent to the devices; the trace starts and ends between two steps."""
        begins, ends = step + 1 == self._first, self._tracing and step == self._last
        if begins or ends:
            jax.block_until_ready(metrics)
        if begins:
            self._begin()
        elif ends:
            self._end()

    def __enter__(self) -> "Profile":
        if self._begins_at_once:
            self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tracing:
            self._end()

    def _begin(self) -> None:
        jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
        self._tracing = True

    def _end(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
