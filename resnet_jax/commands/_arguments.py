"""What commands do with their arguments; no command itself, and quick to import."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import door


def count(text: str) -> int:
    """Returns a whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def output_file(path: str | Path) -> Path:
    """Returns a path to write to, after a look at its folder.

    Raises:
      UsageError: there is no such folder, or the path is one.
    """
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        raise door.UsageError(f"there is no folder {file.parent}; make it first")
    if file.is_dir():
        raise door.UsageError(f"{file} is a folder; give the name of a file")
    return file


def run_names(workdirs: Sequence[str | Path]) -> list[str]:
    """Returns what runs are called: by their folders, or in full where two have the same name."""
    names = [Path(workdir).resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]
