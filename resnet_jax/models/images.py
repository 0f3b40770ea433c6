"""The channels and sizes of a network's images."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.typing import ArrayLike

from resnet_jax.errors import ModelError, shown
from resnet_jax.models.checks import is_count, is_sequence


def stem_kernel(model: nn.Module) -> tuple[str, ...]:
    """Returns the place in `params` of the first convolution kernel that images reach.

    Args:
      model: a network whose `params` have a `stem`.

    Raises:
      ModelError: it has none, or no convolution there.
    """
    if isinstance(getattr(model, "stem", None), str):
        return "stem", "conv", "kernel"
    kernels: list[tuple[str, ...]] = []

    def trace() -> None:
        # A side effect, because JAX sorts the names in a traced function's result.
        params = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)["params"]
        flat = traverse_util.flatten_dict(params.get("stem", {}))
        kernels.extend(("stem", *path) for path, leaf in flat.items() if leaf.ndim == 4)

    jax.eval_shape(trace)
    if not kernels:
        raise ModelError("the network has no stem with a convolution; give the image channels")
    return kernels[0]


def input_channels(model: nn.Module, variables: Mapping[str, Any]) -> int:
    """Returns the number of image channels that a network's variables are for.

    Args:
      model: the network.
      variables: its variables, `{"params", ...}`.

    Raises:
      ModelError: there is no convolution kernel under `stem`.
    """
    kernel = variables["params"]
    for name in stem_kernel(model):
        kernel = kernel[name]
    return int(kernel.shape[2])


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


def check_images(images: ArrayLike, channels: int | None) -> None:
    """Raises a `ModelError` unless images are [n, h, w, c], with `channels` if that is known."""
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape[1:]:
        raise ModelError(f"images must be [n, h, w, c] with h, w, c above 0, not {list(shape)}")
    if channels is not None and shape[3] != channels:
        raise ModelError(
            f"the images have {shape[3]} channels but the model takes {channels}; convert the"
            " images, or initialise the model with such images"
        )
