"""Measure and draw the responses of every 3x3 layer of one or more runs (the paper's Figure 7)."""

import argparse

from . import door
from ._arguments import count, picture_file, run_names


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax responses --workdir DIR... [--output FILE.png]`.

    Prints a table for each run and, at the end, the picture's path.

    Args:
      argv: the arguments after `responses`.

    Raises:
      UsageError, ConfigError, DataError, EvaluationError: a run or its images are not there, or
        the picture cannot be written as asked.
    """
    arguments = _parser().parse_args(argv)

    # Not at the top: help and wrong usage answer at once.
    from .. import data
    from ..evaluation import format_responses, layer_responses, plot_responses
    from ..parallel import data_mesh
    from . import _subjects

    output = arguments.output and picture_file(arguments.output)
    images = _subjects.Images(data_dir=arguments.data_dir, split=arguments.split)
    mesh = data_mesh()
    batch_size = -(-arguments.batch_size // mesh.size) * mesh.size
    runs = {}
    for workdir, name in zip(arguments.workdir, run_names(arguments.workdir), strict=True):
        subject = _subjects.from_workdirs([workdir], arguments.checkpoint, images)
        batches = data.eval_batches(
            subject.source,
            subject.transform,
            batch_size=batch_size,
            on_bad_image=subject.on_bad_image,
        )
        runs[name] = layer_responses(subject.members[0].network, batches, mesh)
    print(format_responses(runs))
    if output:
        plot_responses(runs, output)
        print(output)


def _parser() -> argparse.ArgumentParser:
    parser = door.ArgumentParser(
        prog="python -m resnet_jax responses",
        description=__doc__,
        epilog="A response is a layer's output after batch normalisation and before the "
        "activation or the addition; its standard deviation is over all images of the split.",
    )
    parser.add_argument(
        "--workdir",
        required=True,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="work directories of train.py",
    )
    parser.add_argument("--output", metavar="FILE.png", help="the picture to write")
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="best|latest|STEP",
        help="which checkpoint of each run (latest)",
    )
    parser.add_argument("--split", metavar="S", help="in TFDS's syntax (each run's own)")
    parser.add_argument("--data_dir", metavar="D", help="where TFDS data sets lie")
    parser.add_argument(
        "--batch_size", type=count, default=128, metavar="N", help="images at a time (128)"
    )
    return parser
