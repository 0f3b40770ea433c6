"""What a configuration names, opened and checked: data, network, normalisation, device counts."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import Mesh

from .. import data
from ..models import ResNet, create_model
from ..parallel import DATA_AXIS
from .config import ConfigError, TrainConfig, check_boundaries, lengths

MAX_RESIDENT_BYTES = 2**30
"""How large the images may be that the devices keep without being asked to."""

MAX_STEPS_AT_ONCE = 50
"""How many steps the devices are sent at a time at most; a signal waits until they are done."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration's parts, ready to use; making one writes nothing.

    Attributes:
      model: the network, not yet initialised.
      train_source: the training split, images encoded or uint8.
      eval_source: the split whose error is reported.
      train_transform: what turns a training image into the uint8 crop that the step sees.
      eval_transform: the same for evaluation.
      image_shape: height, width and channels of those crops.
      normalization: of those crops; a mean image, where there is to be one, is still zero.
      num_steps: length of the run.
      eval_batch_size: images an evaluation step, a multiple of the device count.
    """

    model: ResNet
    train_source: data.Source
    eval_source: data.Source
    train_transform: data.Transform
    eval_transform: data.Transform
    image_shape: tuple[int, int, int]
    normalization: data.Normalization
    num_steps: int
    eval_batch_size: int


def open_experiment(config: TrainConfig, mesh: Mesh) -> Experiment:
    """Opens the data and makes the network, and checks that they and the devices fit together.

    Raises:
      ConfigError, ModelError, DataError: they do not; the message names what does not fit.
    """
    if config.batch_size % mesh.size:
        raise ConfigError(
            f"config.batch_size={config.batch_size} does not divide over {mesh.size} devices; "
            f"make it a multiple of {mesh.size}"
        )
    if config.batch_size // mesh.size % config.accumulate_steps:
        raise ConfigError(
            f"a device's {config.batch_size // mesh.size} images do not divide into "
            f"config.accumulate_steps={config.accumulate_steps} parts; make batch_size a multiple"
        )
    train_source, eval_source = (
        data.open_source(config.dataset, split, config.data_dir, on_bad_image=config.on_bad_image)
        for split in (config.train_split, config.eval_split)
    )
    num_steps, end = lengths(config, len(train_source))
    check_boundaries(config, end if config.scale_schedule else max(end, num_steps))
    num_classes = config.num_classes or train_source.num_classes
    if train_source.num_classes > num_classes:
        raise ConfigError(
            f"data set {config.dataset!r} has {train_source.num_classes} classes, the model only "
            f"{num_classes}; set config.num_classes={train_source.num_classes} or leave it out"
        )
    train_transform = data.train_transform(
        config.augmentation, config.image_size, channels=config.channels
    )
    eval_transform = data.eval_transform(
        config.augmentation, config.image_size, channels=config.channels
    )
    image_shape = train_transform.output_shape(train_source.image_shape)
    eval_shape = eval_transform.output_shape(eval_source.image_shape)
    if image_shape[2] != eval_shape[2]:
        raise ConfigError(
            f"the training images have {image_shape[2]} channels, those of evaluation "
            f"{eval_shape[2]}; set config.channels to 1 or 3"
        )
    if config.color_augmentation == "pca" and image_shape[2] != 3:
        raise ConfigError(
            f"config.color_augmentation='pca' needs images of 3 channels, not {image_shape[2]}; "
            "leave it out"
        )
    if config.device_resident == "yes" and not data.can_be_resident(train_source, train_transform):
        raise ConfigError(
            "config.device_resident='yes' needs a data set of arrays and augmentation 'none' or "
            f"'cifar', not {config.dataset!r} with {config.augmentation!r}; leave it at 'auto'"
        )
    model = create_model(
        config.model,
        num_classes=num_classes,
        dtype=config.dtype,
        remat=config.remat,
        norm_axis_name=DATA_AXIS if config.batch_norm == "global" else None,
        **{"kernels": "auto", **config.model_options},
    )
    eval_batch_size = config.eval_batch_size or config.batch_size
    return Experiment(
        model=model,
        train_source=train_source,
        eval_source=eval_source,
        train_transform=train_transform,
        eval_transform=eval_transform,
        image_shape=image_shape,
        normalization=data.make_normalization(
            config.preprocess, image_shape[2], np.zeros(image_shape, np.float32)
        ),
        num_steps=num_steps,
        eval_batch_size=-(-eval_batch_size // mesh.size) * mesh.size,
    )


def compute_normalization(config: TrainConfig, experiment: Experiment) -> data.Normalization:
    """Returns the images' normalisation; a mean image is taken over the whole training split."""
    if config.preprocess not in ("cifar", "per_pixel_mean"):
        return experiment.normalization
    pixel_mean = data.pixel_mean(
        experiment.train_source, experiment.eval_transform, on_bad_image=config.on_bad_image
    )
    return data.make_normalization(config.preprocess, experiment.image_shape[2], pixel_mean)


def resident_dataset(
    config: TrainConfig, experiment: Experiment, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the training images and labels if the devices are to keep them, else None."""
    if config.device_resident == "no":
        return None
    on_cpu = mesh.devices.flat[0].platform == "cpu"  # Which would keep them twice, for nothing.
    if config.device_resident == "auto" and on_cpu:
        return None
    arrays = data.resident_arrays(experiment.train_source, experiment.train_transform)
    if config.device_resident == "auto" and arrays and arrays[0].nbytes > MAX_RESIDENT_BYTES:
        return None
    return arrays


def steps_at_once(config: TrainConfig, mesh: Mesh) -> int:
    """Returns how many steps the devices are sent at a time, if they keep the images.

    As many as fit between whatever else happens: lines of the log, evaluations, checkpoints, the
    steps of a trace. XLA's CPU back end runs convolutions inside a loop many times slower than
    outside, so there it is one.
    """
    if mesh.devices.flat[0].platform == "cpu":
        return 1
    first, last = config.profile_steps or (1, 0)
    between = math.gcd(
        config.log_every, config.eval_every, config.checkpoint_every, first - 1, last
    )
    return max(k for k in range(1, MAX_STEPS_AT_ONCE + 1) if between % k == 0)


def train_iterator(
    config: TrainConfig, experiment: Experiment, pixels: bool = True
) -> data.TrainIterator:
    """Returns this host's endless batches, from the first step on; its state is a position.

    Args:
      config: the run.
      experiment: its parts.
      pixels: False where the devices keep the images: batches say then what to cut from them.
    """
    dataset = data.train_batches(
        experiment.train_source,
        experiment.train_transform,
        batch_size=config.batch_size,
        seed=config.seed,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        on_bad_image=config.on_bad_image,
        pixels=pixels,
    )
    return data.train_iterator(
        dataset, num_threads=config.loader_threads, num_workers=config.loader_workers
    )


def eval_batches(config: TrainConfig, experiment: Experiment) -> data.EvalBatches:
    """Returns this host's share of the evaluation split, every image of it once."""
    return data.eval_batches(
        experiment.eval_source,
        experiment.eval_transform,
        batch_size=experiment.eval_batch_size,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
        on_bad_image=config.on_bad_image,
    )
