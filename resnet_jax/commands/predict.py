"""Predict the five most likely classes of each image."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import count, pixels
from resnet_jax.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from resnet_jax.data import Transform
    from resnet_jax.evaluation import Network
    from resnet_jax.training.restore import TrainedRun

_NUM_CLASSES_SHOWN = 5
_BATCH_SIZE = 32
_BAR_LENGTH = 30


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A network, the transform of its images, and the names of its classes."""

    network: "Network"
    transform: "Transform"
    image_shape: tuple[int, int, int]
    class_names: Sequence[str]


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax predict`, with the network of a run or of a weights file.

    With `--json` it prints one JSON object per line and image: `image`, the path, and
    `predictions`, a list of `label`, `name` and `score` (the softmax), the most likely first.

    Args:
      argv: the arguments after `predict`.

    Raises:
      UsageError, ConfigError, DataError, ModelError, WeightsError: an image, the run or the weights
        are missing or cannot be read, or they do not fit together.
    """
    arguments = _parser().parse_args(argv)
    if bool(arguments.workdir) == bool(arguments.weights):
        raise UsageError("give either --workdir or --weights")
    of_weights = (arguments.model, arguments.preprocess, arguments.num_classes)
    if arguments.workdir and any(of_weights):
        raise UsageError(
            "--model, --num_classes and --preprocess belong to --weights; omit them for a run"
        )

    # Not at the top: help and usage errors appear at once.
    import numpy as np

    subject = _from_workdir(arguments) if arguments.workdir else _from_weights(arguments)
    images = [_read(path, subject) for path in arguments.images]
    scores = _scores(subject.network, np.stack(images))
    for path, row in zip(arguments.images, scores, strict=True):
        labels = np.argsort(-row, kind="stable")[:_NUM_CLASSES_SHOWN].tolist()
        predictions = [
            {"label": label, "name": subject.class_names[label], "score": float(row[label])}
            for label in labels
        ]
        if arguments.json:
            print(json.dumps({"image": path, "predictions": predictions}))
        else:
            print("\n".join([path, *_table(predictions), ""]))


def _from_workdir(arguments: argparse.Namespace) -> _Subject:
    from resnet_jax import data
    from resnet_jax.data.sources.class_names import readable_class_names
    from resnet_jax.training.restore import open_run

    run = open_run(arguments.workdir, arguments.checkpoint)
    config = run.config
    class_names, image_shape = _classes_and_shape(run, arguments.data_dir)
    transform = data.eval_transform(config.augmentation, config.image_size, channels=run.channels)
    shape = transform.output_shape(image_shape)
    if arguments.image_size:
        transform = data.eval_transform("imagenet", arguments.image_size, channels=run.channels)
        shape = transform.output_shape(image_shape)
    elif not isinstance(transform, data.ResizeCenterCrop) and shape[0] == shape[1]:
        # Leaves an image of this size unchanged, and crops others to it.
        transform = data.eval_transform("imagenet", shape[0], shape[0], channels=run.channels)
    names = list(readable_class_names(class_names))
    names += [f"class {label}" for label in range(len(names), run.network.num_classes)]
    return _Subject(run.network, transform, shape, names)


def _classes_and_shape(
    run: "TrainedRun", data_dir: str | None
) -> tuple[Sequence[str], tuple[int | None, int | None, int]]:
    """Returns the class names and the images' shape, from the run or its data set (old runs)."""
    from resnet_jax import data
    from resnet_jax.training.workdir import read_dataset

    if known := read_dataset(run.workdir).get("eval"):
        return known["classes"], tuple(known["image_shape"])
    config = run.config
    source = data.open_source(config.dataset, config.eval_split, data_dir or config.data_dir)
    return source.class_names, source.image_shape


def _from_weights(arguments: argparse.Namespace) -> _Subject:
    from resnet_jax import data
    from resnet_jax.commands._subjects import usual_preprocess
    from resnet_jax.commands.summary import usual_num_classes
    from resnet_jax.data.sources.class_names import imagenet_class_names
    from resnet_jax.evaluation import Network
    from resnet_jax.interop import load_model, read_weights
    from resnet_jax.interop.native import read_pixel_mean
    from resnet_jax.models import create_model, input_channels, usual_image_size

    path = arguments.weights
    if arguments.model is None:
        if arguments.num_classes:
            raise UsageError("--num_classes needs --model; omit it, or give both")
        model, variables = load_model(path)
        model = model.clone(kernels="auto")
    else:
        num_classes = arguments.num_classes or usual_num_classes(arguments.model)
        model = create_model(arguments.model, num_classes, kernels="auto")
        variables = read_weights(model, path)
    channels = input_channels(model, variables)
    preprocess = arguments.preprocess or usual_preprocess(path, model)
    mean = read_pixel_mean(path) if data.needs_pixel_mean(preprocess) else None
    if mean is None and data.needs_pixel_mean(preprocess):
        raise UsageError(
            f"--preprocess {preprocess} subtracts the mean training image, which {path} does not "
            "contain; use --workdir, or choose torchvision, caffe or none"
        )
    normalization = data.make_normalization(preprocess, channels, mean)
    size, resize = arguments.image_size, None
    if size is None and usual_image_size(model) == 32:
        size = resize = 32 if mean is None else mean.shape[0]
    transform = data.eval_transform("imagenet", size or 224, resize, channels=channels)
    shape = transform.output_shape((None, None, channels))
    names = [f"class {label}" for label in range(model.num_classes)]
    if model.num_classes == len(imagenet_class_names()):
        names = list(imagenet_class_names().values())
    return _Subject(Network(model, variables, normalization), transform, shape, names)


def _read(path: str, subject: _Subject) -> "np.ndarray":
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give image files") from error
    try:
        pixels = subject.transform(content)
    except OSError as error:
        raise UsageError(f"cannot use {path}: {error}; give image files") from error
    if pixels.shape != subject.image_shape:
        height, width, _ = subject.image_shape
        raise UsageError(f"{path} does not have the size {height}x{width}; give --image_size")
    return pixels


def _scores(network: "Network", images: "np.ndarray") -> "np.ndarray":
    """Returns the softmax of each image, computed in batches of one shape."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    size = min(len(images), _BATCH_SIZE)
    padding = np.zeros((-len(images) % size, *images.shape[1:]), np.uint8)
    batches = np.split(np.concatenate([images, padding]), (len(images) + len(padding)) // size)
    scores = [jax.nn.softmax(network.logits(jnp.asarray(batch))) for batch in batches]
    return np.concatenate(scores)[: len(images)]


def _table(predictions: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(prediction["name"]) for prediction in predictions)
    return [
        f"  {prediction['name']:{width}}  {prediction['score']:6.1%}  {_bar(prediction['score'])}"
        for prediction in predictions
    ]


def _bar(score: float) -> str:
    try:
        "█▏".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(_BAR_LENGTH * score)
    whole, eighths = divmod(round(8 * _BAR_LENGTH * score), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def _parser() -> argparse.ArgumentParser:
    parser = _cli.ArgumentParser(prog="python -m resnet_jax predict", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    add = parser.add_argument_group("network").add_argument
    add("--workdir", metavar="DIR", help="a work directory of train.py")
    add(
        "--checkpoint",
        default="latest",
        metavar="best|latest|STEP",
        help="which checkpoint of the work directory (latest)",
    )
    add(
        "--data_dir",
        metavar="D",
        help="folder of the data set of an old run, which names the classes",
    )
    add("--weights", metavar="FILE", help=".safetensors, .pth, .th, .pt, .npz or .h5")
    add("--model", metavar="NAME", help="of the weights, if the file does not state it")
    add(
        "--num_classes",
        type=count,
        metavar="N",
        help="of the weights (1000, for CIFAR networks 10)",
    )
    add(
        "--preprocess",
        metavar="NAME",
        help="torchvision, caffe, cifar or none; by default caffe for Keras's weights, cifar for "
        "CIFAR networks of save_weights, torchvision for all others",
    )
    add(
        "--image_size",
        type=pixels,
        metavar="PIXELS",
        help="height and width of the crop, from a shorter side of 8/7 of it (the network's)",
    )
    return parser
