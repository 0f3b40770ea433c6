"""Evaluate one network or an ensemble, each image once, by the paper's protocols."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import count, output_file, picture_file, pixels
from resnet_jax.errors import UsageError

if TYPE_CHECKING:
    from resnet_jax.commands._subjects import Subject
    from resnet_jax.evaluation import ScoredBatch

_BATCH_SIZES = {"center": 128, "ten_crop": 64, "multi_scale": 16}


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax evaluate` on work directories or weights files.

    The last line on standard output is a JSON object with `num_examples`, `loss`, `top1_error`,
    `top5_error` (fractions), `protocol`, `dataset`, `split` and `networks`.

    Args:
      argv: the arguments after `evaluate`.

    Raises:
      UsageError, ConfigError, DataError, EvaluationError, ModelError, WeightsError: an input is
        missing, or the arguments do not fit together.
    """
    arguments = _parser().parse_args(argv)
    if bool(arguments.workdir) == bool(arguments.weights):
        raise UsageError("give either --workdir or --weights, one or more of them")
    if arguments.workdir and (arguments.model or arguments.preprocess):
        raise UsageError("--model and --preprocess belong to --weights; omit them for a run")

    # Not at the top: help and usage errors appear at once.
    from resnet_jax.commands import _subjects
    from resnet_jax.evaluation import ClassErrors, Predictions, evaluate_as, make_protocol
    from resnet_jax.runtime.devices import data_mesh

    confusion = arguments.confusion and picture_file(arguments.confusion)
    predictions_file = arguments.predictions and output_file(arguments.predictions)
    images = _subjects.Images(
        arguments.dataset,
        arguments.data_dir,
        arguments.split,
        arguments.image_size,
        arguments.resize,
    )
    if arguments.workdir:
        subject = _subjects.from_workdirs(arguments.workdir, arguments.checkpoint, images)
    else:
        subject = _subjects.from_weights(
            arguments.weights,
            arguments.model,
            arguments.preprocess,
            images,
            arguments.train_split,
        )
    protocol = make_protocol(
        arguments.protocol, subject.transform, arguments.scales, subject.on_bad_image
    )
    batch_size = arguments.batch_size or _BATCH_SIZES.get(protocol.name, 16)
    mesh = data_mesh()

    source = subject.source
    observers: list[Any] = [_Progress(len(source))]
    classes = ClassErrors(source.class_names)
    if arguments.per_class or confusion:
        observers.append(classes)
    if predictions_file:
        predictions = Predictions(len(source))
        observers.append(predictions)
    networks = [member.network for member in subject.members]
    if arguments.recompute_batch_norm:
        networks = _recompute(subject, arguments.recompute_batch_norm, batch_size)

    result: dict[str, Any] = evaluate_as(
        protocol, networks, source, mesh, batch_size=batch_size, observers=observers
    )
    if arguments.per_class:
        print(classes.format())
    if confusion:
        classes.plot(confusion)
    if predictions_file:
        describe = getattr(source, "describe", None)
        predictions.write(predictions_file, classes.class_names, describe)
    result |= {
        "protocol": protocol.name,
        "dataset": source.name,
        "split": source.split,
        "networks": [member.name for member in subject.members],
    }
    print(json.dumps(result))


def _recompute(subject: "Subject", num_images: int, batch_size: int) -> list[Any]:
    from resnet_jax.evaluation import recompute_batch_statistics
    from resnet_jax.runtime.devices import data_mesh

    networks = []
    for member in subject.members:
        images = member.training_images(num_images)
        networks.append(
            recompute_batch_statistics(member.network, images, data_mesh(), batch_size=batch_size)
        )
    return networks


class _Progress:
    """Shows the number of evaluated images on a terminal; an observer."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __call__(self, batch: "ScoredBatch") -> None:
        self._done += int(batch.mask.sum())
        if sys.stderr.isatty():
            end = "\n" if self._done == self._total else ""
            text = f"\r{self._done:,} of {self._total:,} images"
            print(text, end=end, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = _cli.ArgumentParser(
        prog="python -m resnet_jax evaluate",
        description=__doc__,
        epilog="Several networks form an ensemble: their softmax scores are averaged.",
    )
    add = parser.add_argument_group("networks").add_argument
    more: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    add("--workdir", metavar="DIR", help="work directories of train.py", **more)
    add(
        "--checkpoint",
        default="latest",
        metavar="best|latest|STEP",
        help="which checkpoint of a work directory (latest)",
    )
    add("--weights", metavar="FILE", help=".safetensors, .pth, .th, .pt, .npz or .h5", **more)
    add("--model", metavar="NAME", help="of all weights, or per file; see list_models()", **more)
    add(
        "--preprocess",
        metavar="NAME",
        help="torchvision, caffe, cifar or none; by default caffe for Keras's weights, cifar for "
        "CIFAR networks of save_weights, torchvision for all others",
        **more,
    )
    add(
        "--recompute_batch_norm",
        type=count,
        metavar="N",
        help="recompute batch statistics over one batch of N training images",
    )
    add = parser.add_argument_group("images").add_argument
    add("--dataset", metavar="NAME|FOLDER", help="a TFDS data set, or a folder of images")
    add("--data_dir", metavar="D", help="folder of TFDS data sets")
    add("--split", metavar="S", help="in TFDS's syntax (a run's own, or validation, test or val)")
    add(
        "--train_split",
        default="train",
        metavar="S",
        help="for --weights: the split for a mean image and batch statistics (train)",
    )
    add("--protocol", default="center", metavar="center|ten_crop|multi_scale")
    add("--image_size", type=pixels, metavar="PIXELS", help="height and width of crops (224)")
    add("--resize", type=pixels, metavar="PIXELS", help="shorter side before cropping (256)")
    add(
        "--scales",
        type=pixels,
        nargs="+",
        metavar="PIXELS",
        help="shorter sides for multi_scale (224 256 384 480 640)",
    )
    add("--batch_size", type=count, metavar="N", help="images at a time (128, 64 or 16)")
    add = parser.add_argument_group("results").add_argument
    add("--per_class", action="store_true", help="a table of errors per class")
    add("--confusion", metavar="FILE.png", help="a plot of the confusion matrix")
    add("--predictions", metavar="FILE.parquet", help="the scores of each image")
    return parser
