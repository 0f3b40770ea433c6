"""A run's progress: a live bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from resnet_jax.runtime.console import Console, unfailing

_REDRAW_SECONDS = 0.1


class Progress:
    """Shows step, loss, error, images per second and time left; an observer.

    On a terminal and in a notebook, one line is redrawn in place, at most ten times per second;
    elsewhere each call of `log` prints one plain line. It takes only host numbers, so it never
    waits for a device.

    Whatever the stream cannot take is dropped: a terminal that is gone ends no run.

    Args:
      total_steps: the step at which the run ends.
      start_step: the step at which this process starts; above zero if it resumes.
      stream: the output stream; by default standard output.
      eval_split: the evaluated split.
      headline: the metric to show as the error.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        stream: TextIO | None = None,
        *,
        eval_split: str = "eval",
        headline: str = "top1_error",
    ) -> None:
        self._stream = unfailing(sys.stdout if stream is None else stream)
        self._live = _is_live(self._stream)
        self._eval_split = eval_split
        self._forms = {
            "loss": "loss {:.3f}",
            headline: "error {:.1%}",
            "images_per_second": "{:.0f} images/s",
        }
        self._total_steps = total_steps
        self._step = self._timed_from_step = start_step
        self._timed_from: float | None = None
        self._drawn_at = -_REDRAW_SECONDS
        self._metrics: list[str] = []
        self._blocks = "━─" if _can_encode(self._stream, "━─") else "#-"

    def update(self, step: int) -> None:
        """Sets the number of completed steps; cheap enough to call at each step."""
        self._step = step
        now = time.monotonic()
        if self._timed_from is None:
            # The first step compiles, so the remaining time is estimated from later steps.
            self._timed_from, self._timed_from_step = now, step
        if self._live and now - self._drawn_at >= _REDRAW_SECONDS:
            self._draw()

    def on_train_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows training metrics."""
        self.log(step, "train", **metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows an evaluation's metrics."""
        self.log(step, self._eval_split, **metrics)

    def log(self, step: int, split: str, **values: float) -> None:
        """Shows metrics: training metrics in the bar or as a plain line, others on their own line.

        Args:
          step: the number of steps after which they were measured.
          split: `"train"`, or the name of the evaluated split.
          **values: `loss`, the headline (a fraction), `images_per_second`; others are not shown.
        """
        metrics = [
            form.format(values[name]) for name, form in self._forms.items() if name in values
        ]
        if split != "train":
            self.write("  ".join([self._position(step), split, *metrics]))
        elif self._live:
            self._metrics = metrics
            self._draw()
        else:
            self._print("  ".join([self._position(step), *metrics, *self._left()]))

    def write(self, message: str) -> None:
        """Prints a separate line above the bar."""
        if self._live:
            self._stream.write("\r\x1b[K")
        self._print(message)
        if self._live:
            self._draw()

    def close(self) -> None:
        """Draws the bar a last time and ends its line."""
        if self._live:
            self._draw()
            self._print("")
            self._live = False

    def _position(self, step: int) -> str:
        return f"step {step:{len(str(self._total_steps))}d}/{self._total_steps}"

    def _left(self) -> list[str]:
        done = self._step - self._timed_from_step
        if self._timed_from is None or done <= 0:
            return []
        seconds_per_step = (time.monotonic() - self._timed_from) / done
        return [f"{_clock(seconds_per_step * (self._total_steps - self._step))} left"]

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        parts = [self._position(self._step), *self._metrics, *self._left()]
        width = _columns(self._stream) - 1
        length = min(30, width - len("  ".join(parts)) - 2)
        if length >= 5:
            filled = length * self._step // max(self._total_steps, 1)
            parts.insert(1, self._blocks[0] * filled + self._blocks[1] * (length - filled))
        self._stream.write(f"\r{'  '.join(parts)[:width]}\x1b[K")
        self._stream.flush()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _is_live(stream: Console) -> bool:
    """Whether a line can be redrawn: on a terminal, and in the output of a notebook's cell."""
    if type(stream.wrapped).__module__.startswith("ipykernel"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _clock(seconds: float) -> str:
    """Formats hours, minutes and seconds: 0:07, 12:34, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _columns(stream: Console) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _can_encode(stream: Console, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
