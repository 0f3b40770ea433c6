"""What a run starts from: initial weights, and the preprocessing that comes with them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from resnet_jax import data
from resnet_jax.data.sources.class_names import imagenet_if_known, match_classes
from resnet_jax.data.transforms.normalization import IMAGENET_DEVIATION, IMAGENET_MEAN
from resnet_jax.errors import ConfigError, DataError, WeightsError
from resnet_jax.interop import files, hub, layout, read_preprocessing, read_weights
from resnet_jax.interop.reading import is_repository
from resnet_jax.models import ResNet, input_channels
from resnet_jax.runtime.files import local_path
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.restore import open_run
from resnet_jax.training.workdir import read_kept_preprocessing


class InitialWeights(NamedTuple):
    """Weights to start from, opened once.

    Attributes:
      name: where they are, for messages.
      read: returns the variables that a model (and, with `skip_head`, a new classifier) gets.
      class_names: the classes of the first outputs; empty if unknown.
      num_outputs: number of outputs; zero if unknown.
      preprocessing: how their images are prepared; None if unknown.
    """

    name: str
    read: Callable[..., dict[str, Any]]
    class_names: tuple[str, ...]
    num_outputs: int
    preprocessing: data.Preprocessing | None


def open_initial(init_from: str, seed: int) -> InitialWeights:
    """Opens a weights file, a repository, shipped weights or another run's latest checkpoint.

    Args:
      init_from: weights (see `read_weights`), or a work directory.
      seed: the run's seed, for a new classifier.

    Raises:
      ConfigError: the file is missing, or the work directory has no checkpoint.
      WeightsError: the weights cannot be read.
    """
    key = jax.random.key(seed)
    folder = local_path(init_from)
    if folder.is_dir() and not any((folder / name).exists() for name in hub.WEIGHTS):
        run = open_run(folder)
        entries = layout.flatten(run.network.variables)

        def fit(model: ResNet, skip_head: bool = False) -> dict[str, Any]:
            fitted = layout.fit(model, layout.OURS, entries, folder.name, skip_head=skip_head)
            variables = layout.to_variables(fitted)
            return layout.with_new_head(model, variables, key) if skip_head else variables

        outputs = run.network.num_classes
        return InitialWeights(init_from, fit, run.class_names, outputs, run.preprocessing)
    if not is_repository(init_from):
        try:
            files.existing_file(init_from)
        except WeightsError as error:
            raise ConfigError(f"config.init_from: {error}") from error
    own = read_preprocessing(init_from)
    names = own.class_names if own else ()
    read = partial(read_weights, path=init_from, key=key)
    return InitialWeights(init_from, read, names, len(names), own)


def like_the_weights(
    experiment: Experiment, workdir: Path, weights: InitialWeights | None
) -> tuple[Experiment, data.Preprocessing | None]:
    """Returns the experiment with the preprocessing of its initial weights, and that.

    With `config.preprocess="weights"` images are normalised as the weights' own, and those of an
    evaluation also scaled and cropped as theirs; a given `config.image_size` is the size of the
    crop. A run that resumes has the preprocessing of its start. Parts handed in stay.

    Args:
      experiment: the run's parts.
      workdir: the run's work directory, which need not exist.
      weights: the initial weights; None for a run that resumes.

    Returns:
      The experiment, and the preprocessing; None with another `config.preprocess`.

    Raises:
      ConfigError: the run that resumes has lost its preprocessing.
    """
    config = experiment.config
    if config.preprocess != "weights":
        return experiment, None
    if weights is None:
        own = read_kept_preprocessing(workdir, experiment.image_shape)
        if own is None:
            raise ConfigError(f"{workdir} has lost preprocessing.json; restore it, or start anew")
    else:
        own = _of_weights(weights, experiment.image_shape)
        if config.image_size is not None:
            own = dataclasses.replace(own, image_size=(config.image_size, config.image_size))
    parts: dict[str, Any] = {"normalization": own.normalization()}
    if isinstance(experiment.eval_transform, data.ResizeCenterCrop):
        parts["eval_transform"] = own.transform()
    kept = {name: part for name, part in parts.items() if name not in experiment.handed_in}
    return dataclasses.replace(experiment, **kept), own


def _of_weights(weights: InitialWeights, image_shape: tuple[int, int, int]) -> data.Preprocessing:
    """Returns the preprocessing of initial weights for images of a shape.

    Weights that do not say it have torchvision's normalisation.
    """
    own = weights.preprocessing or data.Preprocessing(
        image_size=image_shape[:2],
        mean=IMAGENET_MEAN,
        std=IMAGENET_DEVIATION,
        source=f"torchvision, as {weights.name} does not say it",
    )
    if isinstance(own.mean, np.ndarray) and own.mean.shape != image_shape:
        own = dataclasses.replace(own, mean=tuple(own.mean.mean(axis=(0, 1)).tolist()))
    return own


def load_initial(
    weights: InitialWeights,
    model: nn.Module,
    channels: int,
    *,
    skip_head: bool,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the initial `{"params", "batch_stats"}`.

    A kept classifier gets the outputs of the data set's classes, matched by name if the weights
    name their classes: they may have more of them, or another order.

    Args:
      weights: the opened weights.
      model: the network that they must fit.
      channels: channels of the network's input.
      skip_head: whether to initialise a new classifier.
      class_names: the data set's classes.

    Raises:
      ConfigError: the model is not a `ResNet`, or the weights are for images with other channels,
        or do not know a class.
      WeightsError: the weights do not fit the model.
    """
    if not isinstance(model, ResNet):
        raise ConfigError("config.init_from needs a ResNet; load other weights in your own model")
    if skip_head:
        variables = weights.read(model, skip_head=True)
    elif weights.class_names:
        variables = _with_classes(weights, model, class_names)
    else:
        variables = _with_imagenets_classes(weights, model, class_names)
    expected = input_channels(model, variables)
    if channels != expected:
        raise ConfigError(
            f"config.init_from needs images with {expected} channels, not {channels}; "
            f"set config.channels={expected}"
        )
    return variables


def _with_classes(
    weights: InitialWeights, model: ResNet, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns weights with the classifier's outputs in the order of the data set's classes."""
    count = max(weights.num_outputs, model.num_classes)
    variables = weights.read(model.clone(num_classes=count))
    try:
        outputs = match_classes(
            class_names, weights.class_names, count, "the data set", weights.name
        )
    except DataError as error:
        raise ConfigError(f"{error}, or set config.skip_head=True for a new classifier") from error
    others = [output for output in range(count) if output not in set(outputs)]
    order = np.array([*outputs, *others][: model.num_classes])
    head = jax.tree.map(lambda leaf: leaf[..., order], variables["params"]["head"])
    return {**variables, "params": {**variables["params"], "head": head}}


def _with_imagenets_classes(
    weights: InitialWeights, model: ResNet, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns weights that do not name their classes; a thousand are ImageNet's if the data is."""
    known = imagenet_if_known(class_names) if class_names else ()
    if known and model.num_classes <= len(known):
        named = weights._replace(class_names=known, num_outputs=len(known))
        try:
            return _with_classes(named, model, class_names)
        except WeightsError:  # The classifier has another number of outputs.
            pass
    return weights.read(model)
