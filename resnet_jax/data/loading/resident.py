"""Data sets that reside on the devices: steps receive indices and crop parameters, not pixels.

`train_batches(..., pixels=False)` makes these numbers from the same seed as the pixels, so the
images of a step are bit for bit the same as those made on the host.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int32, UInt8

from resnet_jax.data.sources.base import ArraySource, Source
from resnet_jax.data.transforms.base import Transform
from resnet_jax.data.transforms.named import AsIs, PadCropMirror


def can_be_resident(source: Source, transform: Transform) -> bool:
    """Whether the source holds arrays, and `cut` can do what the transform does.

    A transform of one's own may do more than the class that it derives from.
    """
    return isinstance(source, ArraySource) and type(transform) in (AsIs, PadCropMirror)


def resident_arrays(
    source: Source, transform: Transform
) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]] | None:
    """Returns the images and labels from which `cut` makes batches, or None if not possible."""
    if not (isinstance(source, ArraySource) and can_be_resident(source, transform)):
        return None
    whole = AsIs(channels=transform.channels)
    return whole.batch(source.images, np.empty((len(source), 0))), source.labels


def cut(
    transform: Transform,
    resident: tuple[UInt8[Array, "n h w c"], Int32[Array, " n"]],
    draw: Mapping[str, Any],
) -> tuple[UInt8[Array, "b h w c"], Int32[Array, " b"]]:
    """Returns the images and labels of a batch; runs inside a compiled program.

    Args:
      transform: the transform that drew the parameters.
      resident: the result of `resident_arrays`.
      draw: an element of `train_batches(..., pixels=False)`.
    """
    images, labels = resident
    batch, label = images[draw["index"]], labels[draw["index"]]
    if not isinstance(transform, PadCropMirror):
        return batch, label
    b, height, width, channels = batch.shape
    pad = transform.padding
    fill = jnp.broadcast_to(jnp.asarray(transform.fill, jnp.uint8), channels)
    padded = jnp.broadcast_to(fill, (b, height + 2 * pad, width + 2 * pad, channels))
    padded = lax.dynamic_update_slice(padded, batch, (0, pad, pad, 0))

    def crop(image: Array, top: Array, left: Array) -> Array:
        return lax.dynamic_slice(image, (top, left, 0), (height, width, channels))

    batch = jax.vmap(crop)(padded, draw["top"], draw["left"])
    return jnp.where(draw["mirror"][:, None, None, None], batch[:, :, ::-1], batch), label
