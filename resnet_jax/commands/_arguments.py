"""What commands do with their arguments; no command itself, and quick to import."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from . import door


def count(text: str) -> int:
    """Returns a whole number of at least 1, for argparse."""
    if len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is more than 999999999")
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def pixels(text: str) -> int:
    """Returns a side of an image, for argparse."""
    if count(text) > 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 10000 pixels")
    return int(text)


def output_file(path: str | Path) -> Path:
    """Returns a path to write to, after a look at its folder.

    Raises:
      UsageError: there is no such folder, it may not be written to, or the path is one.
    """
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        raise door.UsageError(f"there is no folder {file.parent}; make it first")
    if not os.access(file.parent, os.W_OK):
        raise door.UsageError(f"{file.parent} may not be written to; choose another folder")
    if file.is_dir():
        raise door.UsageError(f"{file} is a folder; give the name of a file")
    return file


def picture_file(path: str | Path) -> Path:
    """Returns a path to draw to, after a look at its folder and its ending.

    Raises:
      UsageError: as `output_file`, or for an ending that matplotlib does not write.
    """
    from matplotlib.figure import Figure

    file = output_file(path)
    formats = Figure().canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in formats:
        raise door.UsageError(
            f"cannot draw {file}: its ending is not supported; choose one of .{', .'.join(formats)}"
        )
    return file


def run_names(workdirs: Sequence[str | Path]) -> list[str]:
    """Returns what runs are called: by their folders, or in full where two have the same name."""
    names = [Path(workdir).resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]
