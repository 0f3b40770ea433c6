"""Detects which of several hosts' processes have died."""

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

from resnet_jax.runtime.devices import from_first_host

FOLDER = ".hosts"

_PATIENCE = 2.0
"""Seconds to wait for the kernel to release the lock of a process whose connections broke."""


class HostDied(ConnectionError):
    """The process of another host ended during a run."""


@contextlib.contextmanager
def watched_hosts(workdir: Path) -> Iterator[None]:
    """Converts JAX's error for a lost host into a line that names the process.

    Each process holds the kernel's lock (`flock`) on its own file in `.hosts`, which identifies it;
    the kernel releases the lock whenever the process ends. If the file system does not share locks
    between hosts, JAX's own error stays.

    Raises:
      HostDied: a collective operation failed because processes died.
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
        from_first_host("")  # A barrier: all hold their locks, and old files are overwritten.
        try:
            yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not _is_of_runtime(error):
                raise
            gone = _gone_soon(folder)
            own.truncate(0)  # This process ends because of the dead ones; it is not one of them.
            if not gone:
                raise
            raise HostDied(
                f"{', '.join(gone)} died; the same command resumes from the last checkpoint"
            ) from error


def _is_of_runtime(error: Exception) -> bool:
    """Whether an error is XLA's; some arrive as a plain ValueError that starts with a status."""
    return isinstance(error, jax.errors.JaxRuntimeError) or (
        type(error) is ValueError and re.match(r"[A-Z_]+: ", str(error)) is not None
    )


def _gone_soon(folder: Path) -> list[str]:
    """Returns the names of dead processes; waits up to `_PATIENCE` for one."""
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
    """Returns the names of processes without a lock, except those that ended because of others."""
    gone = []
    for path in _others(folder):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            who = json.loads(path.read_text(encoding="utf-8")) if _is_free(path) else {}
            gone.append(f"process {path.name} ({int(who['process'])} on {str(who['host'])[:64]})")
    return gone
