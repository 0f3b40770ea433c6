"""Draw the error curves of one or more runs in one picture."""

from typing import Any

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import count, picture_file
from resnet_jax.errors import UsageError
from resnet_jax.runtime.pictures import drawing
from resnet_jax.training import curves, records


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax plot DIR... --output FILE.png [--log] [--smooth STEPS]`.

    Args:
      argv: the arguments after `plot`.

    Raises:
      UsageError: a folder has no metrics, or the picture's path is invalid.
      NotDrawn: the picture cannot be drawn or written.
    """
    parser = _cli.ArgumentParser(prog="python -m resnet_jax plot", description=__doc__)
    parser.add_argument("workdir", nargs="+", metavar="DIR", help="a run's work directory")
    parser.add_argument("--output", required=True, metavar="FILE.png", help="the picture to write")
    parser.add_argument("--log", action="store_true", help="a logarithmic error axis")
    parser.add_argument(
        "--smooth",
        type=count,
        metavar="STEPS",
        help="average training errors over this many steps (a 200th of the run)",
    )
    arguments = parser.parse_args(argv)
    output = picture_file(arguments.output)
    names = curves.run_names(arguments.workdir)
    runs = {name: _read(workdir) for name, workdir in zip(names, arguments.workdir, strict=True)}
    with drawing(output):
        curves.draw_curves(runs, output, smooth_over=arguments.smooth, log_scale=arguments.log)
    print(output)


def _read(workdir: str) -> list[dict[str, Any]]:
    try:
        metrics = records.read_metrics(workdir)
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}; give a work directory of train.py"
        ) from error
    if not metrics:
        raise UsageError(f"{workdir} has no metrics yet; wait for the first log line")
    return metrics
