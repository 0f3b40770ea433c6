"""Paths as users write them, and atomic file writes."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.errors import UsageError


def has_home() -> bool:
    """Whether `~` is a folder: `HOME` is set, or the system's list of users has this one."""
    return not os.path.expanduser("~").startswith("~")


def expanded(path: str | os.PathLike[str]) -> str:
    """Returns a path with the home folder in place of `~`; it may be remote (`gs://`).

    Raises:
      UsageError: there is no home folder, so `~` would become a folder of this name.
    """
    text = os.path.expanduser(path)
    if text.startswith("~"):
        raise UsageError(
            f"there is no home folder for {os.fspath(path)}; set HOME, or write the path in full "
            "(./~ for a folder of this name)"
        )
    return text


def local_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path in this machine's file system, with the home folder in place of `~`.

    Raises:
      UsageError: the path is remote (`gs://`, `s3://`, `hdfs://`), or there is no home folder.
    """
    text = expanded(path)
    if re.match(r"[A-Za-z][\w+.-]+:/", text):
        raise UsageError(
            f"{text} is not in this machine's file system; give a local or mounted path"
        )
    return Path(text)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file that replaces `path` on success.

    Raises:
      OSError: the file cannot be written; `path` stays unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all, even if the process is killed.

    Raises:
      OSError: the file cannot be written; `path` stays unchanged.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
