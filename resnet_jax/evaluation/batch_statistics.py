"""Batch statistics recomputed after training, as the authors did (paper, Appendix A).

Running statistics are a moving average over batches, of networks that still changed. Here they are
those of one giant batch of training images, as if the network normalised all of them together.

A layer's statistics depend on how the layers before it normalise. Therefore the layers are taken
one after the other: all images go through a block as far as its first normalisation, whose moments
are then known; as far as the second, now that the first is known; and so on. What leaves the block
is kept for the next one. For N images this takes

- time: each convolution is computed two or three times, four with a bottleneck's first one; with
  the moments, four to six times a forward pass was measured on two cores, whatever the depth;
- memory of the host: N times the largest map that a block takes or gives, once; in float32 that is
  3.2 MB an image for ResNet-50 to 152 at 224 pixels, 0.8 MB for ResNet-18 and 34, 64 kB for the
  CIFAR networks.

Moments are taken image by image and combined in float64, so they are the same for every batch size
as far as the network's own arithmetic is.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from .. import data
from ..models import BasicBlock, BatchNorm, BottleneckBlock, max_pool
from ..models.resnet import ResNet, Stem
from ..parallel import jit, replicate, shard_batch
from .errors import EvaluationError
from .moments import ImageMoments, Moments, image_moments
from .network import Network, normalize
from .watching import watching

Path = tuple[str, ...]


def recompute_batch_statistics(
    network: Network, images: UInt8[np.ndarray, "n h w c"], mesh: Mesh, *, batch_size: int
) -> Network:
    """Returns the network with the statistics that one batch of all the images gives.

    They are what `model.apply(variables, all_images, train=True)` leaves in `batch_stats` with a
    momentum of 1: layers normalise by the biased variance, and the unbiased one is kept.

    Args:
      network: a `ResNet` with batch normalisation, and its variables.
      images: as a training step takes them.
      mesh: the devices.
      batch_size: how many images go through a block at once; the result does not depend on it.

    Raises:
      EvaluationError: the network has no batch normalisation, or there are no images.
    """
    model, variables = network.model, network.variables
    if not isinstance(model, ResNet) or not variables.get("batch_stats"):
        raise EvaluationError(
            "the network has no batch normalisation to recompute statistics for; leave the "
            "recomputing out, or take the network as it was before it was folded"
        )
    if not len(images):
        raise EvaluationError("statistics cannot be recomputed over 0 images; give more")
    batch_size = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    starts = range(0, len(images), batch_size)

    def on_devices(part: np.ndarray) -> jax.Array:
        missing = batch_size - len(part)
        if missing:
            part = np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1))
        return shard_batch({"part": part}, mesh)["part"]

    maps: list[np.ndarray] = [images[start : start + batch_size] for start in starts]
    for index, part in enumerate(maps):
        whole = _normalize(network.normalization, on_devices(part))
        maps[index] = np.asarray(whole)[: len(part)]

    recomputed = {}
    for place, unit in _units(model, variables, images.shape[1:]):
        own = replicate({name: _at(tree, place) for name, tree in variables.items()}, mesh)
        for norm in _norms(unit, own, maps[0].shape[1:]):
            moments = Moments()
            for part in maps:
                of_part = _input_moments(unit, own, on_devices(part), norm)
                moments.add(of_part, slice(len(part)))
            old = _at(own["batch_stats"], norm)
            own["batch_stats"] = _with(
                own["batch_stats"], norm, _statistics(moments.mean, moments.variance, old)
            )
            recomputed[place + norm] = _statistics(moments.mean, moments.unbiased_variance, old)
        pooled = isinstance(unit, Stem) and model.stem == "imagenet"
        for index, part in enumerate(maps):
            # One after the other, so that a map is freed when the next one has come.
            maps[index] = np.asarray(_output(unit, own, on_devices(part), pooled))[: len(part)]

    batch_stats = variables["batch_stats"]
    for norm, statistics in recomputed.items():
        batch_stats = _with(batch_stats, norm, statistics)
    return dataclasses.replace(network, variables={**variables, "batch_stats": batch_stats})


def training_images(
    source: data.Source,
    transform: data.Transform,
    count: int,
    seed: int,
    on_bad_image: str = "error",
) -> UInt8[np.ndarray, "n h w c"]:
    """Returns the first images of an epoch of training, augmented as there, in memory.

    Args:
      source: the training split.
      transform: what becomes of an image in training.
      count: how many; if the split has fewer, they come again, augmented in another way.
      seed: what order and augmentation follow from. They are those of batches of one image, so
        the run with this seed saw others.
      on_bad_image: as for `data.train_batches`.

    Raises:
      DataError: an image that cannot be decoded, or images that do not fit the transform.
    """
    batches = data.train_batches(
        source, transform, batch_size=1, seed=seed, on_bad_image=on_bad_image
    )
    images = np.empty((count, *transform.output_shape(source.image_shape)), np.uint8)
    iterator = data.train_iterator(batches)
    for index in range(count):
        images[index] = next(iterator)["image"][0]
    iterator.close()
    return images


_normalize = jax.jit(normalize)


@partial(jit, static_argnames=("unit", "norm"))
def _input_moments(
    unit: nn.Module, variables: Any, x: Float[Array, "n h w c"], norm: Path
) -> ImageMoments:
    """The moments of what a normalisation of the unit is given.

    What lies behind the normalisation is not computed, for nothing asks for it.
    """
    inputs: dict[Path, Array] = {}
    with watching(BatchNorm, lambda module, x, _: inputs.update({module.path: x})):
        unit.apply(variables, x)
    return image_moments(inputs[norm], over_channels=False)


@partial(jit, static_argnames=("unit", "pooled"))
def _output(unit: nn.Module, variables: Any, x: Float[Array, "n h w c"], pooled: bool) -> Any:
    y: Any = unit.apply(variables, x)
    return max_pool(y) if pooled else y


def _units(
    model: ResNet, variables: Any, image_shape: tuple[int, ...]
) -> list[tuple[Path, nn.Module]]:
    """The stem and the blocks, each by itself, with their places in the variables, in order."""
    units: list[tuple[Path, nn.Module]] = []

    def note(module: nn.Module, *_: Any) -> None:
        # Without names, so that equal blocks share their compiled programs.
        units.append((module.path, module.clone(parent=None, name=None)))

    with watching((Stem, BasicBlock, BottleneckBlock), note):
        _trace(model.clone(remat=False), variables, image_shape, method="features")
    return units


def _norms(unit: nn.Module, variables: Any, map_shape: tuple[int, ...]) -> list[Path]:
    """The places of a unit's normalisations, in the order in which they are called."""
    norms: list[Path] = []
    with watching(BatchNorm, lambda module, *_: norms.append(module.path)):
        _trace(unit, variables, map_shape)
    return norms


def _trace(module: nn.Module, variables: Any, shape: tuple[int, ...], **kwargs: Any) -> None:
    jax.eval_shape(lambda: module.apply(variables, jnp.zeros((1, *shape)), **kwargs))


def _statistics(mean: np.ndarray, variance: np.ndarray, like: Any) -> dict[str, Array]:
    return {
        "mean": jnp.asarray(mean, like["mean"].dtype),
        "var": jnp.asarray(variance, like["var"].dtype),
    }


def _at(tree: Any, place: Path) -> Any:
    for name in place:
        tree = tree[name]
    return tree


def _with(tree: Any, place: Path, value: Any) -> Any:
    """The tree with another value in one place."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(
        flat | {place + path: leaf for path, leaf in traverse_util.flatten_dict(value).items()}
    )
