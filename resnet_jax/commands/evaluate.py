"""Evaluate one network or an ensemble, each image once, by the paper's protocols."""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.commands import _cli
from resnet_jax.commands._arguments import (
    WEIGHTS,
    add_preprocessing,
    count,
    picture_file,
    pixels,
    scores_file,
)
from resnet_jax.errors import UsageError

if TYPE_CHECKING:
    from resnet_jax.commands._subjects import Subject
    from resnet_jax.evaluation import ScoredBatch

_BATCH_SIZES = {"center": 128, "ten_crop": 64, "multi_scale": 16}


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax evaluate` on work directories or weights files.

    The last line on standard output is a JSON object with `num_examples`, `loss`, `top1_error`,
    `top5_error` (fractions), `protocol`, `dataset`, `split`, `networks` and, with `--per_class`,
    `per_class`, the records of `ClassErrors.rows`.

    Args:
      argv: the arguments after `evaluate`.

    Raises:
      UsageError, ConfigError, DataError, EvaluationError, ModelError, WeightsError: an input is
        missing, or the arguments do not fit together.
    """
    arguments = _parser().parse_args(argv)
    if bool(arguments.workdir) == bool(arguments.weights):
        raise UsageError("give either --workdir or --weights, one or more of them")
    if arguments.workdir and arguments.model:
        raise UsageError("--model belongs to --weights; omit it for a run")

    # Not at the top: help and usage errors appear at once.
    from resnet_jax.commands import _subjects
    from resnet_jax.data import image_name, notices
    from resnet_jax.evaluation import ClassErrors, Predictions, evaluate_as, make_protocol
    from resnet_jax.runtime.console import outlive_console
    from resnet_jax.runtime.devices import data_mesh
    from resnet_jax.runtime.pictures import drawing

    outlive_console()
    confusion = arguments.confusion and picture_file(arguments.confusion)
    predictions_file = arguments.predictions and scores_file(arguments.predictions)
    subject = _subjects.from_arguments(arguments)
    protocol = make_protocol(
        arguments.protocol, subject.transform, arguments.scales, subject.on_bad_image
    )
    batch_size = arguments.batch_size or _BATCH_SIZES.get(protocol.name, 16)
    mesh = data_mesh()

    source = subject.source
    lines = [*(one.describe() for one in subject.networks), *notices(source)]
    observers: list[Any] = [_Progress(len(source), lines)]
    classes = ClassErrors(source.class_names)
    if arguments.per_class or confusion:
        observers.append(classes)
    if predictions_file:
        predictions = Predictions(len(source), predictions_file.suffix)
        observers.append(predictions)
    networks = [one.network for one in subject.networks]
    if arguments.recompute_batch_norm:
        networks = _recompute(subject, arguments.recompute_batch_norm, batch_size)

    result: dict[str, Any] = evaluate_as(
        protocol, networks, source, mesh, batch_size=batch_size, observers=observers
    )
    if arguments.per_class:
        print(classes.format())
        result["per_class"] = classes.rows()
    result |= {
        "protocol": protocol.name,
        "dataset": source.name,
        "split": source.split,
        "networks": [one.name for one in subject.networks],
    }
    print(json.dumps(result), flush=True)  # Before files, which may fail.
    if predictions_file:
        describe = functools.partial(image_name, source)
        predictions.write(predictions_file, classes.class_names, describe)
    if confusion:
        with drawing(confusion):
            classes.plot(confusion)


def _recompute(subject: "Subject", num_images: int, batch_size: int) -> list[Any]:
    from resnet_jax.evaluation import recompute_batch_statistics
    from resnet_jax.runtime.devices import data_mesh

    networks = []
    for one, images_of in zip(subject.networks, subject.training_images, strict=True):
        images = images_of(num_images)
        networks.append(
            recompute_batch_statistics(one.network, images, data_mesh(), batch_size=batch_size)
        )
    return networks


class _Progress:
    """Prints notices with the first batch, and on a terminal the number of images; an observer."""

    def __init__(self, total: int, notices: Sequence[str]) -> None:
        self._done, self._total, self._notices = 0, total, notices

    def __call__(self, batch: "ScoredBatch") -> None:
        for notice in self._notices:
            print(f"resnet_jax: {notice}", file=sys.stderr)
        self._notices = ()
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
    add("--weights", metavar="FILE|NAME", help=WEIGHTS, **more)
    add("--model", metavar="NAME", help="of all weights, or per file; see list_models()", **more)
    add(
        "--recompute_batch_norm",
        type=count,
        metavar="N",
        help="recompute batch statistics over one batch of N training images",
    )
    add = parser.add_argument_group("images").add_argument
    add("--dataset", metavar="NAME|FOLDER|TABLE", help="a TFDS data set, or images of your own")
    add("--data_dir", metavar="D", help="folder of TFDS data sets")
    add("--split", metavar="S", help="in TFDS's syntax (a run's own, or validation, test or val)")
    add(
        "--train_split",
        default="train",
        metavar="S",
        help="for --weights: the split for a mean image and batch statistics (train)",
    )
    add("--protocol", default="center", metavar="center|ten_crop|multi_scale")
    add(
        "--scales",
        type=pixels,
        nargs="+",
        metavar="PIXELS",
        help="shorter sides for multi_scale (224 256 384 480 640)",
    )
    add("--batch_size", type=count, metavar="N", help="images at a time (128, 64 or 16)")
    add_preprocessing(parser, **more)
    add = parser.add_argument_group("results").add_argument
    add("--per_class", action="store_true", help="a table of errors, precision and recall")
    add("--confusion", metavar="FILE.png", help="a plot of the confusion matrix")
    add("--predictions", metavar="FILE.parquet|FILE.csv", help="the scores of each image")
    return parser
