"""What a run starts from: initial weights, and the preprocessing that comes with them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import PRNGKeyArray

from resnet_jax import data
from resnet_jax.data.sources.class_names import imagenet_if_known, match_classes
from resnet_jax.data.transforms.normalization import IMAGENET_DEVIATION, IMAGENET_MEAN
from resnet_jax.errors import ConfigError, DataError, WeightsError
from resnet_jax.interop import files, hub, layout, read_preprocessing, read_weights
from resnet_jax.interop.reading import is_repository
from resnet_jax.models import ResNet, input_channels
from resnet_jax.runtime.files import local_path
from resnet_jax.training.checkpoint import find_steps
from resnet_jax.training.experiment import Experiment
from resnet_jax.training.restore import open_run
from resnet_jax.training.workdir import read_kept_preprocessing


def like_the_weights(
    experiment: Experiment, workdir: Path
) -> tuple[Experiment, data.Preprocessing | None]:
    """Returns the experiment with the preprocessing of its initial weights, and that.

    With `config.preprocess="weights"` images are normalised as the weights' own, and those of an
    evaluation also scaled and cropped as theirs; a given `config.image_size` is the size of the
    crop. A run that resumes has the preprocessing of its start. Parts handed in stay.

    Args:
      experiment: the run's parts.
      workdir: the run's work directory, which need not exist.

    Returns:
      The experiment, and the preprocessing; None with another `config.preprocess`.

    Raises:
      ConfigError, WeightsError: there are no such weights.
    """
    config = experiment.config
    if config.preprocess != "weights":
        return experiment, None
    own = None
    if find_steps(workdir / "checkpoints"):
        own = read_kept_preprocessing(workdir, experiment.image_shape)
    if own is None:
        own = _of_weights(str(config.init_from), experiment.image_shape)
        if config.image_size is not None:
            own = dataclasses.replace(own, image_size=(config.image_size, config.image_size))
    parts: dict[str, Any] = {"normalization": own.normalization()}
    if isinstance(experiment.eval_transform, data.ResizeCenterCrop):
        parts["eval_transform"] = own.transform()
    kept = {name: part for name, part in parts.items() if name not in experiment.handed_in}
    return dataclasses.replace(experiment, **kept), own


def _of_weights(init_from: str, image_shape: tuple[int, int, int]) -> data.Preprocessing:
    """Returns the preprocessing of initial weights for images of a shape.

    Weights that do not say it have torchvision's normalisation.
    """
    source = _run_in(init_from)
    own = read_preprocessing(init_from) if source is None else open_run(source).preprocessing
    if own is None:
        own = data.Preprocessing(
            image_size=image_shape[:2],
            mean=IMAGENET_MEAN,
            std=IMAGENET_DEVIATION,
            source=f"torchvision, as {init_from} does not say it",
        )
    if isinstance(own.mean, np.ndarray) and own.mean.shape != image_shape:
        own = dataclasses.replace(own, mean=tuple(own.mean.mean(axis=(0, 1)).tolist()))
    return own


def _run_in(init_from: str) -> Path | None:
    """Returns the work directory that a source of weights is, or None."""
    source = local_path(init_from)
    is_run = source.is_dir() and not any((source / name).exists() for name in hub.WEIGHTS)
    return source if is_run else None


def load_initial(
    init_from: str | None,
    model: nn.Module,
    channels: int,
    *,
    skip_head: bool,
    seed: int,
    class_names: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Returns the initial `{"params", "batch_stats"}` from weights or another run, or None.

    A kept classifier gets the outputs of the data set's classes, matched by name if the weights
    name their classes: they may have more of them, or another order.

    Args:
      init_from: weights (see `read_weights`), or a work directory, whose latest checkpoint is used;
        None for none.
      model: the network that the weights must fit.
      channels: channels of the network's input.
      skip_head: whether to initialise a new classifier from the seed.
      seed: the run's seed.
      class_names: the data set's classes.

    Raises:
      ConfigError: the model is not a `ResNet`, the file is missing, the work directory has no
        checkpoint, the weights are for images with other channels, or do not know a class.
      WeightsError: the weights do not fit the model.
    """
    if init_from is None:
        return None
    if not isinstance(model, ResNet):
        raise ConfigError("config.init_from needs a ResNet; load other weights in your own model")
    read, known = _initial_weights(init_from, jax.random.key(seed))
    if skip_head:
        variables = read(model, skip_head=True)
    elif known:
        variables = _with_classes(read, model, known, class_names, init_from)
    else:
        variables = _with_imagenets_classes(read, model, class_names, init_from)
    expected = input_channels(model, variables)
    if channels != expected:
        raise ConfigError(
            f"config.init_from needs images with {expected} channels, not {channels}; "
            f"set config.channels={expected}"
        )
    return variables


def _initial_weights(
    init_from: str, key: PRNGKeyArray
) -> tuple[Callable[..., dict[str, Any]], tuple[str, ...]]:
    """Returns a function of (model, skip_head) that reads weights, and the classes they name."""
    if not is_repository(init_from):
        try:
            files.existing_file(init_from)
        except WeightsError as error:
            raise ConfigError(f"config.init_from: {error}") from error
    if source := _run_in(init_from):
        run = open_run(source)
        entries = layout.flatten(run.network.variables)

        def fit(model: ResNet, skip_head: bool = False) -> dict[str, Any]:
            fitted = layout.fit(model, layout.OURS, entries, source.name, skip_head=skip_head)
            variables = layout.to_variables(fitted)
            return layout.with_new_head(model, variables, key) if skip_head else variables

        return fit, run.class_names
    own = read_preprocessing(init_from)
    return partial(read_weights, path=init_from, key=key), own.class_names if own else ()


def _with_classes(
    read: Callable[..., dict[str, Any]],
    model: ResNet,
    known: Sequence[str],
    class_names: Sequence[str],
    init_from: str,
) -> dict[str, Any]:
    """Returns weights with the classifier's outputs in the order of the data set's classes."""
    count = max(len(known), model.num_classes)
    variables = read(model.clone(num_classes=count))
    try:
        outputs = match_classes(class_names, known, count, "the data set", init_from)
    except DataError as error:
        raise ConfigError(f"{error}, or set config.skip_head=True for a new classifier") from error
    others = [output for output in range(count) if output not in set(outputs)]
    order = np.array([*outputs, *others][: model.num_classes])
    head = jax.tree.map(lambda leaf: leaf[..., order], variables["params"]["head"])
    return {**variables, "params": {**variables["params"], "head": head}}


def _with_imagenets_classes(
    read: Callable[..., dict[str, Any]],
    model: ResNet,
    class_names: Sequence[str],
    init_from: str,
) -> dict[str, Any]:
    """Returns weights that do not name their classes; a thousand are ImageNet's if the data is."""
    known = imagenet_if_known(class_names) if class_names else ()
    if known and model.num_classes <= len(known):
        try:
            return _with_classes(read, model, known, class_names, init_from)
        except WeightsError:  # The classifier has another number of outputs.
            pass
    return read(model)
