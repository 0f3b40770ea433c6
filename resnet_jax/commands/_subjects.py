"""What is evaluated: networks of work directories or weights files, and the images for them.

No command, for its name begins with an underscore.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .. import data
from ..evaluation import Network, training_images
from ..interop import files, load_model, read_weights
from ..interop.keras import KERAS_ENDINGS
from ..interop.native import is_native, read_pixel_mean
from ..models import ResNet, create_model
from ..training.trained import TrainedRun, open_run
from . import door

_EVALUATION_SPLITS = ("validation", "test", "val")


@dataclasses.dataclass(frozen=True)
class Member:
    """A network, alone or of an ensemble.

    Attributes:
      name: where it comes from.
      network: the network.
      training_images: returns so many of the images that it was trained on.
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
      transform: what becomes of an image of it.
      on_bad_image: `"error"` or `"skip"`, for images that cannot be decoded.
    """

    members: Sequence[Member]
    source: data.Source
    transform: data.Transform
    on_bad_image: str = "error"


@dataclasses.dataclass(frozen=True)
class Images:
    """What the command line says of the images; None where it is for the network to say.

    Attributes:
      dataset: name or folder.
      data_dir: where data sets lie.
      split: in TFDS's syntax.
      image_size: height and width of the crops.
      resize: the shorter side that they are cut from.
    """

    dataset: str | None = None
    data_dir: str | None = None
    split: str | None = None
    image_size: int | None = None
    resize: int | None = None

    def transform(self, otherwise: data.Transform) -> data.Transform:
        """Returns the crop that is asked for, or what else becomes of an image."""
        if self.image_size is None and self.resize is None:
            return otherwise
        return self.crop(otherwise.channels)

    def crop(self, channels: int | None) -> data.Transform:
        """Returns the centre crop, 224 of 256 by default."""
        image_size = self.image_size or 224
        return data.eval_transform("imagenet", image_size, self.resize, channels=channels)


def from_workdirs(workdirs: Sequence[str], checkpoint: str, images: Images) -> Subject:
    """Opens runs and the images that the first of them was evaluated on.

    Args:
      workdirs: of one or more runs.
      checkpoint: `"best"`, `"latest"` or a number of steps.
      images: what to evaluate on instead.

    Raises:
      UsageError: the runs do not go together.
      ConfigError, DataError: a run or the data set is not there.
    """
    runs = [open_run(workdir, checkpoint) for workdir in workdirs]
    transforms = [images.transform(_eval_transform(run)) for run in runs]
    first, transform = runs[0], transforms[0]
    for run, other in zip(runs, transforms, strict=True):
        if images.dataset is None and run.config.dataset != first.config.dataset:
            raise door.UsageError(
                f"{run.workdir} was trained on {run.config.dataset!r}, {first.workdir} on "
                f"{first.config.dataset!r}; give --dataset, or evaluate them one by one"
            )
        if other != transform:
            raise door.UsageError(
                f"{run.workdir} and {first.workdir} take images of different sizes or channels; "
                "give --image_size and --resize, or evaluate them one by one"
            )
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
      paths: files of any ending that `--weights` takes.
      models: a name for each, or one for all; none where the files say it.
      preprocesses: a name for each, or one for all, or none to go by the file and the model.
      images: what to evaluate on; the data set must be named.
      train_split: what mean images and recomputed statistics are taken over.

    Raises:
      UsageError: no data set, or not as many names as files.
      DataError, ModelError, WeightsError: one of them is not there, or they do not fit.
    """
    if images.dataset is None:
        raise door.UsageError("--weights needs --dataset; name a TFDS data set or a folder")
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
        channels = variables["params"]["stem"]["conv"]["kernel"].shape[2]
        whole = data.eval_transform("none", channels=channels)
        transform = images.transform(whole if is_one_size else images.crop(channels))
        first_images = partial(_first_images, images, train_split, transform)
        preprocess = preprocess or usual_preprocess(path, model)
        mean = None
        if preprocess in ("cifar", "per_pixel_mean"):
            mean = read_pixel_mean(path)
            if mean is None:
                mean = data.pixel_mean(_train_source(images, train_split), transform)
        normalization = data.make_normalization(preprocess, channels, mean)
        members.append(Member(path, Network(model, variables, normalization), first_images))
        transforms.append(transform)
    if any(transform != transforms[0] for transform in transforms):
        raise door.UsageError(
            "the weights are for images of different channels; evaluate them one by one"
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
        except data.DataError as error:
            if "no split" not in str(error):
                raise
    raise door.UsageError(
        f"{dataset!r} has none of the splits {', '.join(_EVALUATION_SPLITS)}; give --split"
    )


def usual_preprocess(weights: str, model: ResNet) -> str:
    """What weights of a kind usually go with, as docs/pretrained.md lists it."""
    path = Path(weights).expanduser()
    if path.suffix in KERAS_ENDINGS:
        return "caffe"
    own = path.suffix == ".safetensors" and is_native(files.read_safetensors(path)[1])
    return "cifar" if own and model.stem == "cifar" else "torchvision"


def _one_each(option: str, values: Sequence[str], count: int) -> Sequence[str | None]:
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise door.UsageError(
            f"{option} is given {len(values)} times for {count} weights files; give it once, or "
            "once for each"
        )
    return values if len(values) == count else [values[0]] * count


def _checked(subject: Subject) -> Subject:
    classes = {member.network.num_classes for member in subject.members}
    if len(classes) > 1:
        raise door.UsageError(
            f"the networks have {' and '.join(map(str, sorted(classes)))} classes, which do not "
            "average; evaluate them one by one"
        )
    if subject.source.num_classes > min(classes):
        raise door.UsageError(
            f"{subject.source.name!r} has {subject.source.num_classes} classes, the network only "
            f"{min(classes)}; choose the data set that it was trained on"
        )
    return subject
