"""Draw the error curves of one or more runs in one picture."""

from pathlib import Path
from typing import Any

from ..training import records
from . import door
from ._arguments import count, picture_file, run_names


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax plot DIR... --output FILE.png [--log] [--smooth STEPS]`.

    Args:
      argv: the arguments after `plot`.

    Raises:
      door.UsageError: a folder holds no metrics, or the picture cannot be written as asked.
    """
    parser = door.ArgumentParser(prog="python -m resnet_jax plot", description=__doc__)
    parser.add_argument(
        "workdir", nargs="+", type=Path, metavar="DIR", help="a run's work directory"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.png", help="the picture to write"
    )
    parser.add_argument("--log", action="store_true", help="a logarithmic axis of errors")
    parser.add_argument(
        "--smooth",
        type=count,
        metavar="STEPS",
        help="average training errors over so many steps; by default over a 200th of the run",
    )
    arguments = parser.parse_args(argv)
    output = picture_file(arguments.output)
    names = run_names(arguments.workdir)
    runs = {name: _read(workdir) for name, workdir in zip(names, arguments.workdir, strict=True)}
    records.plot_curves(runs, output, smooth_over=arguments.smooth, log_scale=arguments.log)
    print(output)


def _read(workdir: Path) -> list[dict[str, Any]]:
    try:
        metrics = records.read_metrics(workdir)
    except OSError as error:
        raise door.UsageError(
            f"cannot read {error.filename}: {error.strerror}; give a work directory of train.py"
        ) from error
    if not metrics:
        raise door.UsageError(f"{workdir} holds no metrics yet; wait for the first log line")
    return metrics
