"""Networks from work directories and weights, with the preprocessing that they want."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from resnet_jax import data
from resnet_jax.commands.summary import usual_num_classes
from resnet_jax.data.sources.class_names import imagenet_class_names
from resnet_jax.errors import UsageError, WeightsError
from resnet_jax.evaluation import Network
from resnet_jax.interop import open_weights, read_preprocessing, read_weights
from resnet_jax.interop.native import is_native_file
from resnet_jax.models import ResNet, create_model, input_channels, usual_image_size
from resnet_jax.training.restore import TrainedRun, open_run


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and the images that it takes.

    Attributes:
      name: its origin, for messages and records.
      network: the model, its variables and the normalisation of its images.
      preprocessing: how its images are made.
    """

    name: str
    network: Network
    preprocessing: data.Preprocessing

    def describe(self) -> str:
        """Returns one line about the images that the network takes, and from where this is."""
        return f"{self.name} takes {self.preprocessing.describe()}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """The command line's preprocessing; None where the network's own stays.

    Attributes:
      preprocess: a name of `data.PREPROCESSES`, which sets mean, deviation and channel order.
      image_size: height and width of the crop.
      resize: the shorter side before the crop.
      interpolation: the filter, "bilinear" or "bicubic".
      mean: the mean per channel on [0, 1].
      std: the deviation per channel on [0, 1].
    """

    preprocess: str | None = None
    image_size: int | None = None
    resize: int | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace, preprocess: str | None) -> "Choices":
        """Returns the choices of parsed arguments, with one of their names of a preprocess."""
        chosen = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(cls)}
        chosen["preprocess"] = preprocess
        for name in ("mean", "std"):
            chosen[name] = tuple(chosen[name]) if chosen[name] else None
        return cls(**chosen)

    def applied(
        self, own: data.Preprocessing, channels: int, mean_image: np.ndarray | None = None
    ) -> data.Preprocessing:
        """Returns a network's preprocessing with these choices.

        Args:
          own: the network's.
          channels: channels of the network's input.
          mean_image: the mean training image, for a `preprocess` that subtracts it.

        Raises:
          DataError, UsageError: a choice is unknown or does not fit.
        """
        changed: dict[str, Any] = {}
        if self.preprocess is not None:
            normalization = data.make_normalization(self.preprocess, channels, mean_image)
            own = own.with_normalization(normalization)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, channels):
                wanted = f"1 or {channels}" if channels > 1 else "1"
                raise UsageError(f"--{name} has {len(values)} numbers; give {wanted}")
            if values is not None:
                changed[name] = values * (channels // len(values))
        if self.interpolation is not None:
            changed["interpolation"] = self.interpolation
        if self.image_size is not None:
            changed["image_size"] = (self.image_size, self.image_size)
        if self.resize is not None:
            size = self.image_size or min(own.image_size or (224,))
            if size > self.resize:
                raise UsageError(
                    f"a crop of {size} does not fit into a shorter side of {self.resize}; give a "
                    f"--resize of {size} or more, or a smaller --image_size"
                )
            changed |= {"image_size": (size, size), "crop_share": size / self.resize}
        if not changed and self.preprocess is None:
            return own
        return dataclasses.replace(own, **changed, source=f"{own.source}, changed by options")


def from_run(run: TrainedRun, choices: Choices) -> Trained:
    """Returns the network of a run.

    Raises:
      UsageError: the run's preprocessing was handed in, and the choices have no image size.
      DataError: a choice does not fit.
    """
    own = run.preprocessing
    if own is None:
        if choices.image_size is None:
            refuse_handed_in(run, "eval_transform", "give --image_size")
        own = _plain(run.channels, (224, 224), class_names=run.class_names, source=str(run.workdir))
        own = own.with_normalization(run.network.normalization)
    mean_image = own.mean if isinstance(own.mean, np.ndarray) else None
    return _trained(str(run.path), run.network, choices.applied(own, run.channels, mean_image))


def open_one(arguments: argparse.Namespace) -> Trained:
    """Returns the network of `--workdir` or `--weights`, the options of `add_network`.

    Raises:
      ConfigError, DataError, ModelError, UsageError, WeightsError: an input is missing or does not
        fit.
    """
    choices = Choices.of(arguments, arguments.preprocess)
    if arguments.workdir:
        run = open_run(arguments.workdir, arguments.checkpoint)
        return from_run(run, choices)
    counts = (arguments.num_classes or usual_num_classes(arguments.model or ""),)
    return from_weights(arguments.weights, arguments.model, counts, choices)


def refuse_handed_in(run: TrainedRun, part: str, remedy: str) -> None:
    """Raises a UsageError if a part was handed in, which a command cannot make."""
    if part in run.parts:
        raise UsageError(f"{run.workdir} had {part} {run.parts[part]} handed in; {remedy}")


def from_weights(
    source: str,
    model_name: str | None,
    num_classes: Sequence[int],
    choices: Choices,
    mean_image: Callable[[data.Transform], np.ndarray] | None = None,
    whole: bool = False,
) -> Trained:
    """Returns the network of a weights file, of a repository on the hub or of a folder.

    Args:
      source: the file, folder, or OWNER/NAME.
      model_name: the network, if the source does not state it.
      num_classes: its possible numbers of classes, if the name is given.
      choices: the command line's preprocessing.
      mean_image: returns the mean training image of a transform, if the source lacks it.
      whole: whether to leave images as they are if the source does not state their size.

    Raises:
      ModelError, WeightsError: there is no such network, or the weights do not fit it.
      DataError, UsageError: the preprocessing does not fit.
    """
    if model_name is None:
        model, variables = open_weights(source)
    else:
        model, variables = _named(source, model_name, num_classes)
    model = model.clone(kernels="auto")
    channels = input_channels(model, variables)
    own = read_preprocessing(source)
    name = choices.preprocess
    if own is None:
        size = usual_image_size(model)
        own = _plain(
            channels,
            None if whole else (size, size),
            crop_share=1.0 if size == 32 else 0.875,
            source="what is usual, as the weights do not say it",
        )
        name = name or ("cifar" if size == 32 and is_native_file(source) else "torchvision")
    mean = own.mean if isinstance(own.mean, np.ndarray) else None
    if name and data.needs_pixel_mean(name) and mean is None:
        if mean_image is None:
            raise UsageError(
                f"--preprocess {name} subtracts the mean training image, which "
                f"{source} does not contain; use --workdir, or choose torchvision, caffe or none"
            )
        mean = mean_image(own.transform())
    if name:
        own = own.with_normalization(data.make_normalization(name, channels, mean))
    network = Network(model, variables, own.normalization())
    return _trained(source, network, choices.applied(own, channels, mean))


def output_names(trained: Trained) -> tuple[str, ...]:
    """Returns a name for each output of a network; unknown ones are numbered."""
    count = trained.network.num_classes
    names = trained.preprocessing.class_names
    if not names and count == len(imagenet_class_names()):
        names = tuple(imagenet_class_names())
    return (*names, *(f"class {label}" for label in range(len(names), count)))[:count]


def _named(
    source: str, model_name: str, num_classes: Sequence[int]
) -> tuple[ResNet, dict[str, Any]]:
    """Returns a named network with the first number of classes that fits the weights."""
    failure = None
    for count in dict.fromkeys(num_classes):
        model = create_model(model_name, count)
        try:
            return model, read_weights(model, source)
        except WeightsError as error:
            failure = failure or error
            if not error.misshaped:
                break
    raise failure or UsageError("the number of classes is unknown; give --num_classes")


def _plain(channels: int, image_size: tuple[int, int] | None, **fields: Any) -> data.Preprocessing:
    """Returns a preprocessing that does not normalise."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    return data.Preprocessing(image_size=image_size, mean=mean, std=std, **fields)


def _trained(name: str, network: Network, preprocessing: data.Preprocessing) -> Trained:
    """Returns the network with the normalisation of its preprocessing."""
    network = dataclasses.replace(network, normalization=preprocessing.normalization())
    return Trained(name, network, preprocessing)
