"""Reasons to end a run before its last step: signals, a time limit, a request."""

import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import jax

Item = TypeVar("Item")

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""The signals that end a run, its state saved."""


def parse_duration(text: str) -> float:
    """Returns the seconds in a duration such as `3h50m`, `90s` or `1d`.

    Raises:
      ValueError: the text is not a duration.
    """
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is not a duration; give one such as '3h50m' or '90s'")
    return float(
        sum(int(n or 0) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True))
    )


class Stopped(Exception):
    """Raised by an iterator of `Stop.unless_asked` to end it early."""


class Stop:
    """Records requests to end the run; inside its context, a first signal only makes a request.

    The signals are SIGTERM, SIGINT, SIGUSR1 (which SLURM sends before a preemption with
    `--signal=USR1`) and SIGHUP (a closed terminal), unless `nohup` had it ignored. A second signal
    ends the process at once, as without a handler. SIGHUP is never a second one, because a terminal
    that closes sends several. Python delivers signals only to the main thread, so none is recorded
    in another thread.

    Attributes:
      signal: the received signal, or None.
    """

    def __init__(self, stop_after: str | None = None) -> None:
        self.signal: int | None = None
        self._requested: str | None = None
        self._end = time.monotonic() + parse_duration(stop_after) if stop_after else None
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether the run must save its state and end."""
        return self._is_late() or self.signal is not None or self._requested is not None

    def request(self, reason: str) -> None:
        """Requests the end of the run; its last message states the reason."""
        self._requested = self._requested or reason

    def unless_asked(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields `items` and raises `Stopped` once the end of the run is requested.

        With several hosts it never stops early: a single host must not leave a collective.
        """
        for item in items:
            if self.asked() and jax.process_count() == 1:
                raise Stopped
            yield item

    def reason(self) -> str:
        """Returns the reason of the request, for a message."""
        if self.signal:
            return signal.Signals(self.signal).name
        if self._requested:
            return self._requested
        return "config.stop_after" if self._is_late() else "another host"

    def _is_late(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def __enter__(self) -> "Stop":
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if in_main_thread else ():
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.signal is not None:
            return
        if self.signal is not None:
            # A notebook's kernel must survive: there the handler from before takes over.
            is_notebook = "ipykernel" in sys.modules
            signal.signal(number, self._before[number] if is_notebook else signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
