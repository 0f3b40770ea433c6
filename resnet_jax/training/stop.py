"""When a run has to end before its last step: signals, and a limit on its time."""

import re
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Self, TypeVar

import jax

Item = TypeVar("Item")

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def parse_duration(text: str) -> float:
    """Returns the seconds in a duration such as `3h50m`, `90s` or `1d`.

    Raises:
      ValueError: it is none.
    """
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration such as '3h50m' or '90s'")
    return float(
        sum(int(n or 0) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True))
    )


class Stopped(Exception):
    """Raised out of an iteration that `Stop.unless_asked` ends early."""


class Stop:
    """Notes what asks the run to end; while it is entered, signals do no more than that.

    SIGTERM, SIGINT and SIGUSR1 (what SLURM sends before a preemption if `--signal=USR1` says so)
    ask once; the second one ends the process at once, as if nobody had listened.

    Attributes:
      signal: the signal that came, or None.
    """

    def __init__(self, stop_after: str | None = None) -> None:
        self.signal: int | None = None
        self._end = time.monotonic() + parse_duration(stop_after) if stop_after else None
        self._before: dict[int, object] = {}

    def asked(self) -> bool:
        """Whether the run is to save its state and end."""
        return self._is_late() or self.signal is not None

    def unless_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Passes `items` on and raises `Stopped` once the run is to end.

        With several hosts it lets them all finish, for one alone must not leave a collective.
        """
        for item in items:
            if self.asked() and jax.process_count() == 1:
                raise Stopped
            yield item

    def reason(self) -> str:
        """Returns what asked, for a message."""
        if self.signal:
            return signal.Signals(self.signal).name
        return "config.stop_after" if self._is_late() else "another host"

    def _is_late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
