"""Images of several sizes in one padded batch, each scored as if it were alone.

Padding would change an image's logits in three places: convolutions larger than 1x1 and the max
pool see it beyond the image's border, and the average pool counts it. Here the first two see zeros
in its place, as they do beyond the border of an image alone (for the max pool, which follows an
activation, zeros act like minus infinity). The average covers only the image's part of the map.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.errors import EvaluationError
from resnet_jax.models import Conv, MaxPool, ResNet

MULTIPLE = 32
"""Padded heights and widths are multiples of this, the stride of the paper's networks."""


def padded_logits(
    model: nn.Module,
    variables: Any,
    images: Float[Array, "n h w c"],
    sizes: Int[Array, "n 2"],
) -> Float[Array, "n classes"]:
    """Returns the logits that each image would have alone, fully convolutionally.

    Args:
      model: a `ResNet`.
      variables: its `params` and `batch_stats`.
      images: normalised images in the upper left corner; the padding may hold any finite values.
        Padded heights and widths are multiples of the network's stride.
      sizes: height and width of each image, at least 1.

    Raises:
      EvaluationError: the network's stride does not divide the height or width, or the network is
        not a `ResNet` with a named stem (the operations of a custom stem are unknown).
    """
    if not isinstance(model, ResNet) or not isinstance(model.stem, str):
        raise EvaluationError(
            "images of several sizes need a ResNet with a named stem; evaluate with one size"
        )
    height, width = images.shape[1:3]

    def cut(x: Float[Array, "n h2 w2 c2"]) -> Float[Array, "n h2 w2 c2"]:
        return jnp.where(_own_part(x, sizes, height, width)[..., None], x, 0)

    def without_padding(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if isinstance(module, MaxPool) or (isinstance(module, Conv) and module.kernel_size > 1):
            return call(cut(args[0]), *args[1:], **kwargs)
        return call(*args, **kwargs)

    with nn.intercept_methods(without_padding):
        features: Any = model.apply(variables, images, train=False, method="features")
    x = next(reversed(features.values()))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    part = _own_part(x, sizes, height, width)
    pooled = jnp.sum(cut(x), axis=(1, 2)) / jnp.sum(part, axis=(1, 2))[:, None]
    head = variables["params"]["head"]
    return pooled @ head["kernel"] + head["bias"]


def _own_part(
    x: Float[Array, "n h2 w2 c2"], sizes: Int[Array, "n 2"], height: int, width: int
) -> Bool[Array, "n h2 w2"]:
    """Returns a mask of the map elements that belong to the images.

    Each layer maps a height h to ceil(h / stride) for any kernel size.
    """
    inside = []
    for axis, padded in ((1, height), (2, width)):
        length = x.shape[axis]
        if padded % length:
            raise EvaluationError(
                f"images padded to {height}x{width} do not fit the network's stride; pad to "
                "multiples of it"
            )
        own = -(-sizes[:, axis - 1] // (padded // length))
        inside.append(jnp.arange(length) < own[:, None])
    return inside[0][:, :, None] & inside[1][:, None, :]


def mirrored(images: jax.Array, sizes: Int[Array, "n 2"] | None = None) -> Any:
    """Returns the images mirrored left to right; padded ones stay in their upper left corner."""
    if sizes is None:
        return images[:, :, ::-1]
    width = images.shape[2]
    # Columns of padding stay in place.
    columns = jnp.arange(width)
    own = sizes[:, 1:]
    source = jnp.where(columns < own, own - 1 - columns, columns)
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)
