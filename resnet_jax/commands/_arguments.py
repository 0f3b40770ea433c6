"""Argument types of the commands; quick to import."""

import argparse
import os
from pathlib import Path

from resnet_jax.errors import UsageError


def count(text: str) -> int:
    """Returns an integer of at least 1, for argparse."""
    if len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is more than 999999999")
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def pixels(text: str) -> int:
    """Returns a side length of an image in pixels, for argparse."""
    if count(text) > 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 10000 pixels")
    return int(text)


def output_file(path: str | Path) -> Path:
    """Returns a path to write to, after checking it.

    Raises:
      UsageError: the folder does not exist or is not writable, or the path is a folder.
    """
    file = Path(path).expanduser()
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}; create it first")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"{file.parent} is not writable; choose another folder")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give the name of a file")
    return file


def picture_file(path: str | Path) -> Path:
    """Returns a path to write a picture to, after checking its folder and suffix.

    Raises:
      UsageError: as for `output_file`, or matplotlib does not write this format.
    """
    from matplotlib.figure import Figure

    file = output_file(path)
    formats = Figure().canvas.get_supported_filetypes()
    if file.suffix.removeprefix(".").lower() not in formats:
        raise UsageError(
            f"cannot draw {file}: its suffix is not supported; choose from .{', .'.join(formats)}"
        )
    return file
