"""The networks and images of an evaluation, from work directories or weights files."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from resnet_jax import data
from resnet_jax.commands import _networks
from resnet_jax.commands._networks import Choices, Trained, output_names, refuse_handed_in
from resnet_jax.commands.summary import usual_num_classes
from resnet_jax.data.sources.class_names import match_classes
from resnet_jax.data.sources.relabelled import relabelled
from resnet_jax.errors import UnknownSplitError, UsageError
from resnet_jax.evaluation import training_images
from resnet_jax.training.restore import TrainedRun, open_run

_EVALUATION_SPLITS = ("validation", "test", "val")


@dataclasses.dataclass(frozen=True)
class Subject:
    """Networks, and the images to evaluate them on.

    Attributes:
      networks: one network, or an ensemble.
      training_images: for each network a function that returns a number of its training images.
      source: the split; its labels are the networks' outputs.
      transform: the images' transform.
      on_bad_image: `"error"` or `"skip"`, for images that cannot be decoded.
    """

    networks: Sequence[Trained]
    training_images: Sequence[Callable[[int], np.ndarray]]
    source: data.Source
    transform: data.Transform
    on_bad_image: str = "error"


@dataclasses.dataclass(frozen=True)
class Images:
    """The command line's choice of images; None where the network determines it.

    Attributes:
      dataset: a name or folder.
      data_dir: the folder of data sets.
      split: a split in TFDS's syntax.
    """

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None


def from_arguments(arguments: argparse.Namespace) -> Subject:
    """Opens what the arguments of `evaluate` name.

    Raises:
      UsageError, ConfigError, DataError, ModelError, WeightsError: as below.
    """
    images = Images(arguments.dataset, arguments.data_dir, arguments.split)
    sources = arguments.workdir or arguments.weights
    choices = [
        Choices.of(arguments, name)
        for name in _one_each("--preprocess", arguments.preprocess, len(sources))
    ]
    if arguments.workdir:
        return from_workdirs(sources, arguments.checkpoint, images, choices)
    return from_weights(sources, arguments.model, images, arguments.train_split, choices)


def from_workdirs(
    workdirs: Sequence[str], checkpoint: str, images: Images, choices: Sequence[Choices]
) -> Subject:
    """Opens runs and the images that the first one was evaluated on.

    Args:
      workdirs: work directories of one or more runs.
      checkpoint: `"best"`, `"latest"` or a number of steps.
      images: images to evaluate on instead.
      choices: the preprocessing to use instead, of each run.

    Raises:
      UsageError: the runs do not fit together.
      ConfigError, DataError: a run or the data set is missing, or classes do not match.
    """
    runs = [open_run(workdir, checkpoint) for workdir in workdirs]
    first = runs[0]
    for run in runs:
        if images.dataset is None and run.config.dataset != first.config.dataset:
            raise UsageError(
                f"{run.workdir} was trained on {run.config.dataset!r}, {first.workdir} on "
                f"{first.config.dataset!r}; give --dataset, or evaluate them separately"
            )
    if images.dataset is None:
        refuse_handed_in(first, "eval_source", "give --dataset")
    trained = [_networks.from_run(run, one) for run, one in zip(runs, choices, strict=True)]
    source = data.open_source(
        images.dataset or first.config.dataset,
        images.split or first.config.eval_split,
        images.data_dir or first.config.data_dir,
        on_bad_image=first.config.on_bad_image,
    )
    training = [_images_of(run, images) for run in runs]
    return _subject(trained, training, source, first.config.on_bad_image)


def from_weights(
    paths: Sequence[str],
    models: Sequence[str],
    images: Images,
    train_split: str,
    choices: Sequence[Choices],
) -> Subject:
    """Opens weights files and a data set.

    Args:
      paths: files, folders or repositories that `--weights` accepts.
      models: one name per file, one for all, or none if the files state it.
      images: images to evaluate on; the data set must be named.
      train_split: the split for mean images and recomputed statistics.
      choices: the preprocessing to use instead, of each file.

    Raises:
      UsageError: there is no data set, or the numbers of names and files differ.
      DataError, ModelError, WeightsError: an input is missing, or they do not fit together.
    """
    if images.dataset is None:
        raise UsageError("--weights needs --dataset; name a TFDS data set or a folder")
    source = _open_split(images.dataset, images.split, images.data_dir)

    def mean_image(transform: data.Transform) -> np.ndarray:
        return data.pixel_mean(_train_source(images, train_split), transform)

    trained = [
        _networks.from_weights(
            path,
            name,
            (source.num_classes, usual_num_classes(name or "")),
            chosen,
            mean_image,
            whole=None not in source.image_shape,
        )
        for path, name, chosen in zip(
            paths, _one_each("--model", models, len(paths)), choices, strict=True
        )
    ]
    training = [
        partial(_first_images, images, train_split, _transform(one, source)) for one in trained
    ]
    return _subject(trained, training, source)


def _subject(
    trained: Sequence[Trained],
    training: Sequence[Callable[[int], np.ndarray]],
    source: data.Source,
    on_bad_image: str = "error",
) -> Subject:
    """Returns the networks with the source, whose labels become the networks' outputs."""
    transforms = [_transform(one, source) for one in trained]
    classes = {one.network.num_classes for one in trained}
    if len(classes) > 1:
        raise UsageError(
            f"the networks have {' and '.join(map(str, sorted(classes)))} classes, so their scores "
            "cannot be averaged; evaluate them separately"
        )
    outputs = [
        match_classes(
            source.class_names,
            one.preprocessing.class_names,
            one.network.num_classes,
            repr(source.name),
            one.name,
        )
        for one in trained
    ]
    for one, transform, matched in zip(trained, transforms, outputs, strict=True):
        if transform != transforms[0]:
            raise UsageError(
                f"{one.name} and {trained[0].name} take images of different sizes or channels; "
                "give --image_size and --resize, or evaluate them separately"
            )
        if matched != outputs[0]:
            raise UsageError(
                f"{one.name} and {trained[0].name} have their classes in different orders, so "
                "their scores cannot be averaged; evaluate them separately"
            )
    names = [*output_names(trained[0])]
    for output, name in zip(outputs[0], source.class_names, strict=True):
        names[output] = name
    source = relabelled(source, outputs[0], names)
    return Subject(trained, training, source, transforms[0], on_bad_image)


def _transform(trained: Trained, source: data.Source) -> data.Transform:
    """Returns the transform of a network's images; those of its size are left as they are."""
    preprocessing = trained.preprocessing
    has_the_size = preprocessing.image_size == source.image_shape[:2]
    if preprocessing.image_size is None or (has_the_size and preprocessing.crop_share == 1):
        return data.eval_transform("none", channels=preprocessing.channels)
    return preprocessing.transform()


def _train_source(images: Images, split: str) -> data.Source:
    return data.open_source(str(images.dataset), split, images.data_dir)


def _first_images(images: Images, split: str, transform: data.Transform, count: int) -> np.ndarray:
    return training_images(_train_source(images, split), transform, count, seed=0)


def _images_of(run: TrainedRun, images: Images) -> Callable[[int], np.ndarray]:
    def first_images(count: int) -> np.ndarray:
        config = run.config
        for part in ("train_source", "train_transform"):
            refuse_handed_in(run, part, "recompute statistics in Python")
        source = data.open_source(
            config.dataset,
            config.train_split,
            images.data_dir or config.data_dir,
            on_bad_image=config.on_bad_image,
        )
        transform = data.train_transform(
            config.augmentation, config.image_size, channels=run.channels
        )
        return training_images(source, transform, count, config.seed, config.on_bad_image)

    return first_images


def _open_split(dataset: str, split: str | None, data_dir: str | None) -> data.Source:
    if split is not None:
        return data.open_source(dataset, split, data_dir)
    for name in _EVALUATION_SPLITS:
        try:
            return data.open_source(dataset, name, data_dir)
        except UnknownSplitError:
            continue
    raise UsageError(
        f"{dataset!r} has none of the splits {', '.join(_EVALUATION_SPLITS)}; give --split"
    )


def _one_each(option: str, values: Sequence[str], count: int) -> Sequence[str | None]:
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UsageError(
            f"{option} is given {len(values)} times for {count} networks; give it once, or once "
            "per network"
        )
    return values if len(values) == count else [values[0]] * count
