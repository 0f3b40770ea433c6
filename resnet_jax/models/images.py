"""The channels and sizes of a network's images."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike

from resnet_jax.errors import ModelError, shown
from resnet_jax.models.checks import is_count, is_sequence


def input_channels(variables: Mapping[str, Any]) -> int:
    """Returns the number of image channels of a network's variables.

    It is that of the first convolution kernel, `[k, k, channels, features]`, under `stem`.

    Args:
      variables: `{"params", ...}`, or only the parameters.

    Raises:
      ModelError: there is no such kernel.
    """
    params = variables.get("params", variables)
    kernels = [leaf for leaf in jax.tree.leaves(params.get("stem", {})) if np.ndim(leaf) == 4]
    if not kernels:
        raise ModelError("the network has no stem with a convolution; give the image channels")
    return int(kernels[0].shape[2])


def usual_image_size(model: nn.Module) -> int:
    """Returns the paper's height and width of images: 32 for the "cifar" stem, otherwise 224."""
    return 32 if getattr(model, "stem", None) == "cifar" else 224


def image_sides(model: nn.Module, image_size: Any) -> tuple[int, int]:
    """Returns the height and width of images; for None the paper's.

    Raises:
      ModelError: `image_size` is not one or two numbers of pixels.
    """
    image_size = usual_image_size(model) if image_size is None else image_size
    sides = tuple(image_size) if is_sequence(image_size) else (image_size,) * 2
    if len(sides) != 2 or not all(map(is_count, sides)):
        raise ModelError(f"image_size must be one or two integers, not {shown(image_size)}")
    return sides


def check_images(params: Mapping[str, Any], images: ArrayLike) -> None:
    """Raises a `ModelError` unless images are [n, h, w, c] with the stem's channels."""
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape[1:]:
        raise ModelError(f"images must be [n, h, w, c] with h, w, c above 0, not {list(shape)}")
    if "stem" not in params:
        return
    channels = input_channels(params)
    if shape[3] != channels:
        raise ModelError(
            f"the images have {shape[3]} channels but the model takes {channels}; convert the"
            " images, or initialise the model with such images"
        )
