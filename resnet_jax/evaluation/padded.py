"""Images of several sizes in one batch, each scored as if it were alone.

Padding changes an image's logits in three places: convolutions of more than one pixel see it
beside the image's border, the max pool sees it, and the average pool counts it. Here the first two
see zeros in its place, which is what they see beyond the border of an image that is alone (for the
max pool, which follows an activation, zeros are as good as minus infinity), and the average is
taken over the image's own part of the map.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from ..models import Conv, ResNet
from ..models.resnet import Stem
from .errors import EvaluationError

MULTIPLE = 32
"""Heights and widths to pad to are multiples of this, the stride of the networks in the paper."""


def padded_logits(
    model: nn.Module,
    variables: Any,
    images: Float[Array, "n h w c"],
    sizes: Int[Array, "n 2"],
) -> Float[Array, "n classes"]:
    """Returns the logits that each image has alone: fully convolutional, any size in one batch.

    Args:
      model: a `ResNet`.
      variables: its `params` and `batch_stats`.
      images: normalised, in the upper left corner of the padding, which may hold anything finite.
        Height and width with the padding are multiples of the network's stride.
      sizes: height and width of each image, at least 1.

    Raises:
      EvaluationError: a height or width that the network's stride does not divide, or a network
        whose logits are not the head's from the last map's average.
    """
    if not isinstance(model, ResNet):
        raise EvaluationError("images of several sizes need a ResNet; evaluate with one size")
    height, width = images.shape[1:3]

    def cut(x: Float[Array, "n h2 w2 c2"]) -> Float[Array, "n h2 w2 c2"]:
        return jnp.where(_own_part(x, sizes, height, width)[..., None], x, 0)

    def without_padding(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if isinstance(module, Conv) and module.kernel_size > 1:
            return call(cut(args[0]), *args[1:], **kwargs)
        out = call(*args, **kwargs)
        # The max pool is next.
        return cut(out) if isinstance(module, Stem) else out

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
    """Which elements of a map belong to the images.

    Every layer turns a height h into ceil(h / stride), whatever its kernel.
    """
    inside = []
    for axis, padded in ((1, height), (2, width)):
        length = x.shape[axis]
        if padded % length:
            raise EvaluationError(
                f"images padded to {height}x{width} do not fit the network's stride; pad to "
                f"multiples of it"
            )
        own = -(-sizes[:, axis - 1] // (padded // length))
        inside.append(jnp.arange(length) < own[:, None])
    return inside[0][:, :, None] & inside[1][:, None, :]


def mirrored(images: jax.Array, sizes: Int[Array, "n 2"] | None = None) -> Any:
    """Returns the images mirrored left to right; padded ones stay in their upper left corner."""
    if sizes is None:
        return images[:, :, ::-1]
    width = images.shape[2]
    # Columns of the padding are left where they are.
    columns = jnp.arange(width)
    own = sizes[:, 1:]
    source = jnp.where(columns < own, own - 1 - columns, columns)
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)
