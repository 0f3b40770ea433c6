"""Measure and draw the responses of each 3x3 layer of one or more runs (the paper's Figure 7)."""

import argparse

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import count, picture_file


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax responses --workdir DIR... [--output FILE.png]`.

    Prints a table per run and, at the end, the picture's path.

    Args:
      argv: the arguments after `responses`.

    Raises:
      UsageError, ConfigError, DataError, EvaluationError: a run or its images are missing, or the
        picture cannot be written.
    """
    arguments = _parser().parse_args(argv)

    # Not at the top: help and usage errors appear at once.
    from resnet_jax import data
    from resnet_jax.commands import _subjects
    from resnet_jax.commands._networks import Choices
    from resnet_jax.evaluation import format_responses, layer_responses, plot_responses
    from resnet_jax.runtime.devices import data_mesh
    from resnet_jax.runtime.pictures import drawing
    from resnet_jax.training.curves import run_names

    output = arguments.output and picture_file(arguments.output)
    images = _subjects.Images(data_dir=arguments.data_dir, split=arguments.split)
    mesh = data_mesh()
    batch_size = -(-arguments.batch_size // mesh.size) * mesh.size
    runs = {}
    for workdir, name in zip(arguments.workdir, run_names(arguments.workdir), strict=True):
        subject = _subjects.from_workdirs([workdir], arguments.checkpoint, images, [Choices()])
        batches = data.eval_batches(
            subject.source,
            subject.transform,
            batch_size=batch_size,
            on_bad_image=subject.on_bad_image,
        )
        runs[name] = layer_responses(subject.networks[0].network, batches, mesh)
    print(format_responses(runs))
    if output:
        with drawing(output):
            plot_responses(runs, output)
        print(output)


def _parser() -> argparse.ArgumentParser:
    parser = _cli.ArgumentParser(
        prog="python -m resnet_jax responses",
        description=__doc__,
        epilog="A response is a layer's output after batch normalisation, before the activation or "
        "addition; its standard deviation is over all images of the split.",
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
    parser.add_argument("--data_dir", metavar="D", help="folder of TFDS data sets")
    parser.add_argument(
        "--batch_size", type=count, default=128, metavar="N", help="images at a time (128)"
    )
    return parser
