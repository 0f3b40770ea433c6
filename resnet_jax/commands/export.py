"""Write a run's network as one file that runs with JAX alone."""

import json
from typing import TYPE_CHECKING, cast

from . import door
from ._arguments import output_file, pixels

if TYPE_CHECKING:
    from ..models import ResNet
    from ..training.trained import TrainedRun


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax export --workdir DIR --output FILE`.

    The file is what `resnet_jax.export` writes: a program of `jax.export` with the weights inside,
    for batches of any size. The last line on standard output is a JSON object that says what goes
    in: `input` (the shape) and the normalisation, `(pixels / 255 - mean) / deviation`, with a
    `mean` and a `deviation` for each channel, in the order of `channels`. Where a mean image of
    the input's size was subtracted, it is written beside the file and `mean` is its path.

    Args:
      argv: the arguments after `export`.

    Raises:
      ConfigError, DataError, UsageError, WeightsError: the run, its checkpoint or the data set is
        not there, or the file cannot be written.
    """
    parser = door.ArgumentParser(prog="python -m resnet_jax export", description=__doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a work directory")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="best|latest|STEP",
        help="which checkpoint (latest)",
    )
    parser.add_argument(
        "--image_size", type=pixels, metavar="PIXELS", help="height and width (the run's)"
    )
    parser.add_argument("--data_dir", metavar="D", help="where TFDS data sets lie now")
    arguments = parser.parse_args(argv)
    output = output_file(arguments.output)

    # Not at the top: help and wrong usage answer at once.
    import numpy as np

    from ..evaluation.network import fitted
    from ..interop import export
    from ..training.trained import open_run

    run = open_run(arguments.workdir, arguments.checkpoint)
    model = cast("ResNet", run.network.model)
    height, width = (
        (arguments.image_size, arguments.image_size)
        if arguments.image_size
        else image_size(run, arguments.data_dir)
    )
    export(model, run.network.variables, output, image_size=(height, width))
    normalization = fitted(run.network.normalization, (height, width))
    mean = np.asarray(normalization.mean, np.float32)
    mean_file = output.with_name(f"{output.name}.mean.npy")
    if mean.ndim == 3:
        np.save(mean_file, mean)
    described = {
        "path": str(output),
        "checkpoint": str(run.path),
        "input": ["n", height, width, run.channels],
        "output": ["n", model.num_classes],
        "mean": str(mean_file) if mean.ndim == 3 else mean.tolist(),
        "deviation": np.asarray(normalization.deviation, np.float32).tolist(),
        "channels": _channels(run.channels, normalization.reverse_channels),
    }
    print(json.dumps(described))


def image_size(run: "TrainedRun", data_dir: str | None = None) -> tuple[int, int]:
    """Returns the height and width of the images that a run's network was evaluated on.

    The data set is opened only where neither the configuration nor a mean image tells.

    Args:
      run: the run.
      data_dir: where data sets lie, if not where the run found them.

    Raises:
      DataError: the data set is not there.
    """
    from .. import data

    config, mean = run.config, run.network.normalization.mean
    if config.augmentation == "imagenet" and config.image_size:
        return config.image_size, config.image_size
    if mean.ndim == 3:
        return mean.shape[0], mean.shape[1]
    source = data.open_source(config.dataset, config.eval_split, data_dir or config.data_dir)
    transform = data.eval_transform(config.augmentation, config.image_size, channels=run.channels)
    return transform.output_shape(source.image_shape)[:2]


def _channels(count: int, reverse: bool) -> str:
    if count == 3:
        return "BGR" if reverse else "RGB"
    return {1: "L", 4: "RGBA"}.get(count, str(count))
