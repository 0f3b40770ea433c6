"""Write a trained network to one file that needs only JAX to run."""

import json
import sys
from typing import TYPE_CHECKING, cast

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import add_network, check_network, output_file
from resnet_jax.errors import UsageError
from resnet_jax.runtime.files import write_atomically

if TYPE_CHECKING:
    from resnet_jax.models import ResNet


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax export --workdir DIR|--weights FILE --output FILE`.

    The file is that of `resnet_jax.export`: a `jax.export` program with the weights inside, for
    any batch size. The last line on standard output is a JSON object that describes the input. It
    is also written beside the file, as FILE.json. It has `input` (the shape) and the normalisation,
    `(pixels / 255 - mean) / deviation`, with a `mean` and a `deviation` per channel, in the order
    of `channels`. If the mean is an image of the input's size, it is written beside the file and
    `mean` is its path. `resize`, `crop_mode` and `interpolation` are those of `data.Preprocessing`;
    `class_names` has one name per logit.

    Args:
      argv: the arguments after `export`.

    Raises:
      ConfigError, DataError, UsageError, WeightsError: the run, its checkpoint or the data set is
        missing, or the file cannot be written.
    """
    parser = _cli.ArgumentParser(prog="python -m resnet_jax export", description=__doc__)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    add_network(parser)
    arguments = parser.parse_args(argv)
    check_network(arguments)
    output = output_file(arguments.output)

    # Not at the top: help and usage errors appear at once.
    import numpy as np

    from resnet_jax.commands._networks import open_one, output_names
    from resnet_jax.evaluation.network import fitted
    from resnet_jax.interop import export

    trained = open_one(arguments)
    network, preprocessing = trained.network, trained.preprocessing
    if preprocessing.image_size is None:
        raise UsageError(f"{trained.name} does not state the size of its images; give --image_size")
    height, width = preprocessing.image_size
    model = cast("ResNet", network.model)
    export(model, network.variables, output, image_size=(height, width))
    normalization = fitted(network.normalization, (height, width))
    mean = np.asarray(normalization.mean, np.float32)
    mean_file = output.with_name(f"{output.name}.mean.npy")
    if mean.ndim == 3:
        np.save(mean_file, mean)
    channels = preprocessing.channels
    described = {
        "path": str(output),
        "checkpoint": trained.name,
        "input": ["n", height, width, channels],
        "output": ["n", model.num_classes],
        "mean": str(mean_file) if mean.ndim == 3 else mean.tolist(),
        "deviation": np.asarray(normalization.deviation, np.float32).tolist(),
        "channels": _channels(channels, normalization.reverse_channels),
        "resize": preprocessing.resize,
        "crop_mode": preprocessing.crop_mode,
        "interpolation": preprocessing.interpolation,
        "class_names": output_names(trained),
    }
    write_atomically(
        output.with_name(f"{output.name}.json"), json.dumps(described, indent=2) + "\n"
    )
    print(f"resnet_jax: {trained.describe()}", file=sys.stderr)
    print(json.dumps(described))


def _channels(count: int, reverse: bool) -> str:
    if count == 3:
        return "BGR" if reverse else "RGB"
    return {1: "L", 4: "RGBA"}.get(count, str(count))
