"""Images of several sizes in one padded batch, each computed as if it were alone.

Padding changes an image's map in two kinds of layers: convolutions larger than 1x1 and the max pool
see it beyond the image's border. Here they see zeros in its place, as they do beyond the border of
an image alone (for the max pool, which follows an activation, zeros act like minus infinity).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.layers import Conv, MaxPool


def without_padding(
    sizes: Int[Array, "n 2"], height: int, width: int
) -> AbstractContextManager[None]:
    """Returns a context in which a network's layers do not see the padding of their images.

    It is about maps of whole images, so it must end before layers of regions are called.

    Args:
      sizes: height and width of each image, in the upper left corner.
      height: of the padded images.
      width: of the padded images.
    """

    def cut(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if isinstance(module, MaxPool) or (isinstance(module, Conv) and module.kernel_size > 1):
            args = (cut_padding(args[0], sizes, height, width), *args[1:])
        return call(*args, **kwargs)

    return nn.intercept_methods(cut)


def cut_padding(
    x: Float[Array, "n h2 w2 c2"], sizes: Int[Array, "n 2"], height: int, width: int
) -> Float[Array, "n h2 w2 c2"]:
    """Returns maps with zeros outside the images; the arguments are those of `own_part`."""
    return jnp.where(own_part(x, sizes, height, width)[..., None], x, 0)


def own_part(
    x: Float[Array, "n h2 w2 c2"], sizes: Int[Array, "n 2"], height: int, width: int
) -> Bool[Array, "n h2 w2"]:
    """Returns a mask of the map elements that belong to the images.

    Each layer maps a height h to ceil(h / stride) for any kernel size.

    Args:
      x: maps of padded images.
      sizes: height and width of each image.
      height: of the padded images.
      width: of the padded images.

    Raises:
      ModelError: the length of a map does not divide that of the images.
    """
    inside = []
    for axis, padded in ((1, height), (2, width)):
        length = x.shape[axis]
        if padded % length:
            raise ModelError(
                f"images padded to {height}x{width} do not fit the network's stride; pad to "
                "multiples of it"
            )
        own = -(-sizes[:, axis - 1] // (padded // length))
        inside.append(jnp.arange(length) < own[:, None])
    return inside[0][:, :, None] & inside[1][:, None, :]
