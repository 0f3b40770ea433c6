"""Which of several hosts' processes are still there."""

import contextlib
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from ..parallel import from_first_host

FOLDER = ".hosts"

_PATIENCE = 2.0
"""Seconds within which the lock of a process is free whose connections have been cut."""


class HostDied(ConnectionError):
    """The process of another host has ended in the middle of a run."""


@contextlib.contextmanager
def watched_hosts(workdir: Path) -> Iterator[None]:
    """Turns what JAX raises when it has lost another host into a line that names the process.

    Each process holds the kernel's lock (`flock`) on a file of its own in `.hosts`, which says who
    it is; whatever ends a process frees its lock. Where the file system does not pass locks on
    between hosts nobody is named, and JAX's own error stays.

    Raises:
      HostDied: a collective operation failed, and processes have gone.
    """
    if jax.process_count() == 1:
        yield
        return
    folder = workdir / FOLDER
    folder.mkdir(exist_ok=True)
    with open(folder / str(jax.process_index()), "a+", encoding="utf-8") as own:
        with contextlib.suppress(OSError):
            fcntl.flock(own, fcntl.LOCK_EX)
        own.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, own)
        own.flush()
        from_first_host("")  # All have their locks now; what earlier runs left is overwritten.
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not _is_of_runtime(error):
                raise
            gone = _gone_soon(folder)
            own.truncate(0)  # This process goes because of them, and is none of them.
            if not gone:
                raise
            raise HostDied(
                f"{', '.join(gone)} died; the same command goes on from the last checkpoint"
            ) from error


def _is_of_runtime(error: Exception) -> bool:
    """Tells XLA's errors from this package's: some arrive as a plain ValueError with a status."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (
        type(error) is ValueError and re.match(r"[A-Z_]+: ", str(error)) is not None
    )


def _gone_soon(folder: Path) -> list[str]:
    """Names the processes that are gone; waits a moment if there are none."""
    end = time.monotonic() + _PATIENCE
    while not (gone := _gone(folder)) and time.monotonic() < end:
        time.sleep(0.05)
    return gone


def _others(folder: Path) -> list[Path]:
    own = jax.process_index()
    return [folder / str(index) for index in range(jax.process_count()) if index != own]


def _is_free(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _gone(folder: Path) -> list[str]:
    """Names the processes that hold their locks no more, but those that left because of others."""
    gone = []
    for path in _others(folder):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            who = json.loads(path.read_text(encoding="utf-8")) if _is_free(path) else {}
            gone.append(f"process {path.name} ({int(who['process'])} on {str(who['host'])[:64]})")
    return gone
