"""Images of several sizes in one padded batch, each scored as if it were alone.

The layers do not see the padding (`resnet_jax.models.padded`), and the average covers only the
image's part of the map.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.errors import EvaluationError
from resnet_jax.models import ResNet
from resnet_jax.models.padded import cut_padding, own_part, without_padding

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
      EvaluationError: the network is not a `ResNet` with a named stem (the operations of a custom
        stem are unknown).
      ModelError: the network's stride does not divide the height or width.
    """
    if not isinstance(model, ResNet) or not isinstance(model.stem, str):
        raise EvaluationError(
            "images of several sizes need a ResNet with a named stem; evaluate with one size"
        )
    height, width = images.shape[1:3]
    with without_padding(sizes, height, width):
        features: Any = model.apply(variables, images, train=False, method="features")
    x = next(reversed(features.values()))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    own = jnp.sum(own_part(x, sizes, height, width), axis=(1, 2))
    pooled = jnp.sum(cut_padding(x, sizes, height, width), axis=(1, 2)) / own[:, None]
    head = variables["params"]["head"]
    return pooled @ head["kernel"] + head["bias"]


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
