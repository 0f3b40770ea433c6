"""Write a run's network to one file that needs only JAX to run."""

import json
from typing import TYPE_CHECKING, cast

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import output_file, pixels

if TYPE_CHECKING:
    from resnet_jax.models import ResNet
    from resnet_jax.training.restore import TrainedRun


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax export --workdir DIR --output FILE`.

    The file is that of `resnet_jax.export`: a `jax.export` program with the weights inside, for
    any batch size. The last line on standard output is a JSON object that describes the input:
    `input` (the shape) and the normalisation, `(pixels / 255 - mean) / deviation`, with a `mean`
    and a `deviation` per channel, in the order of `channels`. If the mean is an image of the
    input's size, it is written beside the file and `mean` is its path.

    Args:
      argv: the arguments after `export`.

    Raises:
      ConfigError, DataError, UsageError, WeightsError: the run, its checkpoint or the data set is
        missing, or the file cannot be written.
    """
    parser = _cli.ArgumentParser(prog="python -m resnet_jax export", description=__doc__)
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
    parser.add_argument("--data_dir", metavar="D", help="folder of TFDS data sets (the run's)")
    arguments = parser.parse_args(argv)
    output = output_file(arguments.output)

    # Not at the top: help and usage errors appear at once.
    import numpy as np

    from resnet_jax.evaluation.network import fitted
    from resnet_jax.interop import export
    from resnet_jax.training.restore import open_run

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

    The data set is opened only if neither the configuration nor a mean image gives the size.

    Args:
      run: the run.
      data_dir: the folder of data sets, if not the run's.

    Raises:
      DataError: the data set is missing.
    """
    from resnet_jax import data

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
