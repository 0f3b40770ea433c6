"""Batch statistics recomputed after training, as the authors did (paper, Appendix A).

Running statistics average over the batches of a network that was still changing. Here they are the
statistics of one giant batch of training images, as if the trained network normalised all images
together.

A layer's statistics depend on the normalisations before it, so they are computed sequentially. All
images pass a block up to its first normalisation, which yields its moments, then up to the second,
and so on. The block's output is kept as input of the next block. For N images this takes

- time: each convolution is computed two or three times, a bottleneck's first one four times; with
  the moments, four to six times a forward pass was measured on two cores, at any depth;
- host memory: N times the largest input or output of a block; in float32 that is 3.2 MB per image
  for ResNet-50 to 152 at 224 pixels, 0.8 MB for ResNet-18 and 34, 64 kB for the CIFAR networks.

Moments are computed per image and combined in float64, so they are the same for every batch size,
up to the network's own arithmetic.
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

from resnet_jax import data
from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.analyses.capture import ModulePath, Unit, capturing, chain, without_remat
from resnet_jax.evaluation.analyses.moments import ImageMoments, Moments, Statistic, image_moments
from resnet_jax.evaluation.network import Network, normalize
from resnet_jax.models import BatchNorm
from resnet_jax.runtime.devices import jit, replicate, shard_batch

_NORMALIZATIONS = (BatchNorm, nn.BatchNorm)


def recompute_batch_statistics(
    network: Network, images: UInt8[np.ndarray, "n h w c"], mesh: Mesh, *, batch_size: int
) -> Network:
    """Returns the network with the statistics of one batch of all images.

    They equal `batch_stats` after `model.apply(variables, all_images, train=True)` with a momentum
    of 1: layers normalise by the biased variance and store the unbiased one (Flax's own `BatchNorm`
    stores the biased one).

    Args:
      network: any network with batch normalisation that accepts `train=False`.
      images: images as in a training step.
      mesh: the devices.
      batch_size: images per pass through a block; the result does not depend on it.

    Raises:
      EvaluationError: the network has no batch normalisation, or there are no images.
    """
    model, variables = network.model, network.variables
    if not variables.get("batch_stats"):
        raise EvaluationError(
            "the network has no batch normalisation to recompute statistics for; omit the "
            "recomputation, or use the network before folding"
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

    units = chain(without_remat(model), variables, images.shape[1:])
    recomputed = {}
    for unit in units:
        own = replicate({name: _at(tree, unit.path) for name, tree in variables.items()}, mesh)
        for norm, kind in _norms(unit, own, maps[0].shape[1:]):
            moments = Moments()
            for part in maps:
                of_part = _input_moments(unit.module, unit.kwargs, own, on_devices(part), norm)
                moments.add(of_part, slice(len(part)))
            old = _at(own["batch_stats"], norm)
            kept = moments.variance if kind is nn.BatchNorm else moments.unbiased_variance
            own["batch_stats"] = _with(
                own["batch_stats"], norm, _statistics(moments.mean, moments.variance, old)
            )
            recomputed[unit.path + norm] = _statistics(moments.mean, kept, old)
        if unit is units[-1]:
            break
        for index, part in enumerate(maps):
            # One at a time, so that each map is freed once its successor exists.
            out = _output(unit.module, unit.kwargs, own, on_devices(part))
            maps[index] = np.asarray(out)[: len(part)]

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
    """Returns the first images of a training epoch, augmented, in memory.

    Args:
      source: the training split.
      transform: the training transform.
      count: number of images; a smaller split repeats with other augmentations.
      seed: seed of the order and the augmentation of batches of one image; a run with this seed
        sees other ones.
      on_bad_image: as for `data.train_batches`.

    Raises:
      DataError: an image cannot be decoded, or images do not fit the transform.
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


@partial(jit, static_argnames=("module", "kwargs", "norm"))
def _input_moments(
    module: nn.Module, kwargs: Any, variables: Any, x: Float[Array, "n ..."], norm: ModulePath
) -> ImageMoments:
    """Returns the moments of the input of one of a unit's normalisations.

    XLA removes the layers after the normalisation, because nothing uses them.
    """
    inputs: dict[ModulePath, Array] = {}
    with capturing(_NORMALIZATIONS, lambda module, x, _: inputs.update({module.path: x})):
        module.apply(variables, x, **dict(kwargs))
    return image_moments(inputs[norm], over_channels=False)


@partial(jit, static_argnames=("module", "kwargs"))
def _output(module: nn.Module, kwargs: Any, variables: Any, x: Float[Array, "n ..."]) -> Any:
    return module.apply(variables, x, **dict(kwargs))


def _norms(
    unit: Unit, variables: Any, map_shape: tuple[int, ...]
) -> list[tuple[ModulePath, type[nn.Module]]]:
    """Returns the paths and classes of a unit's normalisations, in the order of the calls."""
    norms: list[tuple[ModulePath, type[nn.Module]]] = []
    with capturing(_NORMALIZATIONS, lambda module, *_: norms.append((module.path, type(module)))):
        jax.eval_shape(lambda: unit(variables, jnp.zeros((1, *map_shape))))
    if len(dict(norms)) < len(norms):
        raise EvaluationError("a batch normalisation is called twice; use one per call")
    return norms


def _without_remat(model: nn.Module) -> nn.Module:
    return model.clone(remat=False) if getattr(model, "remat", False) else model


def _statistics(mean: Statistic, variance: Statistic, like: Any) -> dict[str, Array]:
    return {
        "mean": jnp.asarray(mean, like["mean"].dtype),
        "var": jnp.asarray(variance, like["var"].dtype),
    }


def _at(tree: Any, path: ModulePath) -> Any:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _with(tree: Any, path: ModulePath, value: Any) -> Any:
    """Returns the tree with another value at a path."""
    flat = traverse_util.flatten_dict(tree)
    return traverse_util.unflatten_dict(
        flat | {path + below: leaf for below, leaf in traverse_util.flatten_dict(value).items()}
    )
