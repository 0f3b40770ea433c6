"""Opens networks from work directories or weights files, and the images to evaluate them on."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from resnet_jax import data
from resnet_jax.errors import UnknownSplitError, UsageError
from resnet_jax.evaluation import Network, training_images
from resnet_jax.interop import files, load_model, read_weights
from resnet_jax.interop.keras import KERAS_ENDINGS
from resnet_jax.interop.native import is_native, read_pixel_mean
from resnet_jax.models import ResNet, create_model, input_channels, usual_image_size
from resnet_jax.training.restore import TrainedRun, open_run

_EVALUATION_SPLITS = ("validation", "test", "val")


@dataclasses.dataclass(frozen=True)
class Member:
    """A network, alone or in an ensemble.

    Attributes:
      name: the network's origin.
      network: the network.
      training_images: returns a number of its training images.
    """

    name: str
    network: Network
    training_images: Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Subject:
    """Networks, and the images to evaluate them on.

    Attributes:
      members: one network, or an ensemble.
      source: the split.
      transform: the images' transform.
      on_bad_image: `"error"` or `"skip"`, for images that cannot be decoded.
    """

    members: Sequence[Member]
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
      image_size: height and width of the crops.
      resize: the shorter side before cropping.
    """

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    image_size: int | None = None
    resize: int | None = None

    def transform(self, otherwise: data.Transform) -> data.Transform:
        """Returns the requested crop, or `otherwise` if none is requested."""
        if self.image_size is None and self.resize is None:
            return otherwise
        return self.crop(otherwise.channels)

    def crop(self, channels: int | None) -> data.Transform:
        """Returns the centre crop, by default 224 from 256 pixels."""
        image_size = self.image_size or 224
        return data.eval_transform("imagenet", image_size, self.resize, channels=channels)


def from_workdirs(workdirs: Sequence[str], checkpoint: str, images: Images) -> Subject:
    """Opens runs and the images that the first one was evaluated on.

    Args:
      workdirs: work directories of one or more runs.
      checkpoint: `"best"`, `"latest"` or a number of steps.
      images: images to evaluate on instead.

    Raises:
      UsageError: the runs do not fit together.
      ConfigError, DataError: a run or the data set is missing.
    """
    runs = [open_run(workdir, checkpoint) for workdir in workdirs]
    transforms = [images.transform(_eval_transform(run)) for run in runs]
    first, transform = runs[0], transforms[0]
    for run, other in zip(runs, transforms, strict=True):
        if images.dataset is None and run.config.dataset != first.config.dataset:
            raise UsageError(
                f"{run.workdir} was trained on {run.config.dataset!r}, {first.workdir} on "
                f"{first.config.dataset!r}; give --dataset, or evaluate them separately"
            )
        if other != transform:
            raise UsageError(
                f"{run.workdir} and {first.workdir} take images of different sizes or channels; "
                "give --image_size and --resize, or evaluate them separately"
            )
    if images.dataset is None:
        _refuse_handed_in(first, "eval_source", "give --dataset")
    if images.image_size is None:
        for run in runs:
            _refuse_handed_in(run, "eval_transform", "give --image_size")
    source = data.open_source(
        images.dataset or first.config.dataset,
        images.split or first.config.eval_split,
        images.data_dir or first.config.data_dir,
        on_bad_image=first.config.on_bad_image,
    )
    members = [Member(str(run.path), run.network, _images_of(run, images)) for run in runs]
    return _checked(Subject(members, source, transform, first.config.on_bad_image))


def from_weights(
    paths: Sequence[str],
    models: Sequence[str],
    preprocesses: Sequence[str],
    images: Images,
    train_split: str,
) -> Subject:
    """Opens weights files and a data set.

    Args:
      paths: files of any format that `--weights` accepts.
      models: one name per file, one for all, or none if the files state it.
      preprocesses: one name per file, one for all, or none to follow from the file and the model.
      images: images to evaluate on; the data set must be named.
      train_split: the split for mean images and recomputed statistics.

    Raises:
      UsageError: there is no data set, or the numbers of names and files differ.
      DataError, ModelError, WeightsError: an input is missing, or they do not fit together.
    """
    if images.dataset is None:
        raise UsageError("--weights needs --dataset; name a TFDS data set or a folder")
    source = _open_split(images.dataset, images.split, images.data_dir)
    is_one_size = None not in source.image_shape
    members, transforms = [], []
    for path, model_name, preprocess in zip(
        paths,
        _one_each("--model", models, len(paths)),
        _one_each("--preprocess", preprocesses, len(paths)),
        strict=True,
    ):
        if model_name is None:
            model, variables = load_model(path)
            model = model.clone(kernels="auto")
        else:
            model = create_model(model_name, source.num_classes, kernels="auto")
            variables = read_weights(model, path)
        channels = input_channels(model, variables)
        whole = data.eval_transform("none", channels=channels)
        transform = images.transform(whole if is_one_size else images.crop(channels))
        first_images = partial(_first_images, images, train_split, transform)
        preprocess = preprocess or usual_preprocess(path, model)
        mean = None
        if data.needs_pixel_mean(preprocess):
            mean = read_pixel_mean(path)
            if mean is None:
                mean = data.pixel_mean(_train_source(images, train_split), transform)
        normalization = data.make_normalization(preprocess, channels, mean)
        members.append(Member(path, Network(model, variables, normalization), first_images))
        transforms.append(transform)
    if any(transform != transforms[0] for transform in transforms):
        raise UsageError(
            "the weights are for images of different channels; evaluate them separately"
        )
    return _checked(Subject(members, source, transforms[0]))


def _train_source(images: Images, split: str) -> data.Source:
    return data.open_source(str(images.dataset), split, images.data_dir)


def _first_images(images: Images, split: str, transform: data.Transform, count: int) -> np.ndarray:
    return training_images(_train_source(images, split), transform, count, seed=0)


def _eval_transform(run: TrainedRun) -> data.Transform:
    config = run.config
    return data.eval_transform(config.augmentation, config.image_size, channels=run.channels)


def _images_of(run: TrainedRun, images: Images) -> Callable[[int], np.ndarray]:
    def first_images(count: int) -> np.ndarray:
        config = run.config
        for part in ("train_source", "train_transform"):
            _refuse_handed_in(run, part, "recompute statistics in Python")
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


def _refuse_handed_in(run: TrainedRun, part: str, remedy: str) -> None:
    """Raises UsageError if a part was handed in, which a command cannot make."""
    if part in run.parts:
        raise UsageError(f"{run.workdir} had {part} {run.parts[part]} handed in; {remedy}")


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


def usual_preprocess(weights: str, model: ResNet) -> str:
    """Returns the usual preprocess of a file's weights, as in docs/pretrained.md."""
    path = Path(weights).expanduser()
    if path.suffix in KERAS_ENDINGS:
        return "caffe"
    own = path.suffix == ".safetensors" and is_native(files.read_safetensors(path)[1])
    return "cifar" if own and usual_image_size(model) == 32 else "torchvision"


def _one_each(option: str, values: Sequence[str], count: int) -> Sequence[str | None]:
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UsageError(
            f"{option} is given {len(values)} times for {count} weights files; give it once, or "
            "once per file"
        )
    return values if len(values) == count else [values[0]] * count


def _checked(subject: Subject) -> Subject:
    classes = {member.network.num_classes for member in subject.members}
    if len(classes) > 1:
        raise UsageError(
            f"the networks have {' and '.join(map(str, sorted(classes)))} classes, so their scores "
            "cannot be averaged; evaluate them separately"
        )
    if subject.source.num_classes > min(classes):
        raise UsageError(
            f"{subject.source.name!r} has {subject.source.num_classes} classes, the network only "
            f"{min(classes)}; choose the data set of its training"
        )
    return subject
