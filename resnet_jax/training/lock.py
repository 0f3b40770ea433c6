"""A work directory belongs to one run at a time."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .config import ConfigError

NAME = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without locks answer; there nothing can be refused."""


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a work directory.

    It is the kernel's `flock` on `.lock`, which also says who holds it: when the process ends, in
    whatever way, it is free again, and the file that stays behind means nothing. On a shared file
    system it holds between hosts as far as that system passes it on (NFS, GPFS, Lustre mounted
    with `flock`).

    Raises:
      ConfigError: another process holds it.
      OSError: the directory cannot be written.
    """
    with open(workdir / NAME, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"the work directory {workdir} is in use by {_holder(workdir)}; wait for it or "
                "stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
        file.flush()
        yield


def _holder(workdir: Path) -> str:
    try:
        holder = json.loads((workdir / NAME).read_text(encoding="utf-8"))
        return f"process {int(holder['process'])} on {str(holder['host'])[:64]}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
