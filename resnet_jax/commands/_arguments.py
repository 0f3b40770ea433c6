"""Argument types of the commands; quick to import."""

import argparse
import os
from pathlib import Path
from typing import Any

from resnet_jax.errors import UsageError
from resnet_jax.runtime.files import local_path


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
      UsageError: the folder does not exist, is remote or is not writable, or the path is a folder.
    """
    file = local_path(path)
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent}; create it first")
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"{file.parent} is not writable; choose another folder")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give the name of a file")
    return file


def scores_file(path: str | Path) -> Path:
    """Returns a path to write scores to, after checking its folder and suffix.

    Raises:
      UsageError: as for `output_file`, or it ends neither in `.parquet` nor in `.csv`.
    """
    file = output_file(path)
    if file.suffix.lower() not in (".parquet", ".csv"):
        raise UsageError(f"cannot write scores to {file}: choose a name in .parquet or .csv")
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


WEIGHTS = (
    "a file (.safetensors, .pth, .th, .pt, .npz, .h5 or .keras), a repository on the Hugging Face "
    "Hub (OWNER/NAME), or a folder with a repository's files"
)
"""The help of `--weights`."""


def add_preprocessing(parser: argparse.ArgumentParser, **preprocess: Any) -> None:
    """Adds the options of `_networks.Choices`.

    Args:
      parser: the command's parser.
      **preprocess: further arguments of `add_argument` for `--preprocess`.
    """
    add = parser.add_argument_group(
        "preprocessing", "what the run or the weights say; each option replaces a part of it"
    ).add_argument
    add(
        "--preprocess",
        metavar="NAME",
        help="torchvision, caffe, cifar or none: mean, deviation and order of the channels",
        **preprocess,
    )
    add("--image_size", type=pixels, metavar="PIXELS", help="height and width of the crop")
    add("--resize", type=pixels, metavar="PIXELS", help="shorter side before the crop")
    add("--interpolation", metavar="NAME", help="filter of the resize: bilinear, bicubic, ...")
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        add(f"--{name}", type=float, nargs="+", metavar="X", help=f"{what} per channel on [0, 1]")


def check_network(arguments: argparse.Namespace) -> None:
    """Checks the options of `add_network`, before anything is imported.

    Raises:
      UsageError: not exactly one network is given, or an option does not belong to it.
    """
    if bool(arguments.workdir) == bool(arguments.weights):
        raise UsageError("give either --workdir or --weights")
    if arguments.workdir and (arguments.model or arguments.num_classes):
        raise UsageError("--model and --num_classes belong to --weights; omit them for a run")
    if arguments.num_classes and not arguments.model:
        raise UsageError("--num_classes needs --model; omit it, or give both")


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `_networks.open_one`: a run or weights, and the preprocessing."""
    add = parser.add_argument_group("network").add_argument
    add("--workdir", metavar="DIR", help="a work directory of train.py")
    add(
        "--checkpoint",
        default="latest",
        metavar="best|latest|STEP",
        help="which checkpoint of the work directory (latest)",
    )
    add("--weights", metavar="FILE|NAME", help=WEIGHTS)
    add("--model", metavar="NAME", help="of the weights, if they do not state it")
    add(
        "--num_classes",
        type=count,
        metavar="N",
        help="of the weights (1000, for CIFAR networks 10)",
    )
    add_preprocessing(parser)
