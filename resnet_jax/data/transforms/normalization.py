"""Normalisation of uint8 pixels into a network's input, on the device and inside the step.

Batches are copied to the device as uint8, a quarter of float32's bytes; XLA fuses normalisation
into the first convolution's input.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, UInt8

from resnet_jax.errors import DataError
from resnet_jax.registry import Registry, accepted

PREPROCESSES = Registry("preprocess", DataError)
"""Functions of (channels), or of (channels, pixel_mean), that return a `Normalization`."""

register_preprocess = PREPROCESSES.register
"""Decorator that registers a function that returns a `Normalization`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""ImageNet's mean and deviation per channel (RGB) on [0, 1], as torchvision has them."""

CAFFE_MEAN = tuple(value / 255 for value in (103.939, 116.779, 123.68))
CAFFE_DEVIATION = (1 / 255, 1 / 255, 1 / 255)
"""The authors' mean per channel (BGR) on [0, 1], and the deviation that scales to [0, 255]."""


class Normalization(struct.PyTreeNode):
    """`(image / 255 - mean) / deviation`, after reversing the channels for weights that need BGR.

    Attributes:
      mean: `[c]` per channel or `[h, w, c]` per pixel, in units of the full range (1 is white).
      deviation: `[c]`, in the same units.
      reverse_channels: whether to convert RGB to BGR before subtracting the mean.
    """

    mean: Float[Array, "..."]
    deviation: Float[Array, " c"]
    reverse_channels: bool = struct.field(pytree_node=False, default=False)

    def __call__(
        self,
        images: UInt8[Array | np.ndarray, "n h w c"],
        color_shift: Float[Array, "n c"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """Normalises a batch of uint8 images to float32 (to the mean's dtype if that is wider).

        Args:
          images: the loader's images.
          color_shift: colour to add to each image on [0, 1], such as `pca_shift`, or None.
        """
        pixels = jnp.asarray(images).astype(self.mean.dtype) / 255
        if color_shift is not None:
            pixels += color_shift[:, jnp.newaxis, jnp.newaxis, :].astype(pixels.dtype)
        if self.reverse_channels:
            pixels = pixels[..., ::-1]
        return (pixels - self.mean) / self.deviation


@register_preprocess("torchvision")
def _torchvision(channels: int) -> Normalization:
    _check_colour("torchvision", channels)
    return as_normalization(IMAGENET_MEAN, IMAGENET_DEVIATION)


@register_preprocess("caffe")
def _caffe(channels: int) -> Normalization:
    _check_colour("caffe", channels)
    return as_normalization(CAFFE_MEAN, CAFFE_DEVIATION, reverse_channels=True)


@register_preprocess("per_pixel_mean")
@register_preprocess("cifar")
def _per_pixel_mean(channels: int, pixel_mean: Float[np.ndarray, "h w c"]) -> Normalization:
    return as_normalization(pixel_mean, np.ones(channels))


@register_preprocess("none")
def _none(channels: int) -> Normalization:
    return as_normalization(np.zeros(channels), np.ones(channels))


@register_preprocess("weights")
def _weights(channels: int) -> Normalization:
    raise DataError(
        "preprocess 'weights' is that of config.init_from, which a training run reads; name "
        "another one here"
    )


def needs_pixel_mean(preprocess: str) -> bool:
    """Whether a preprocess subtracts the mean training image.

    Raises:
      DataError: the name is unknown.
    """
    return bool(accepted(PREPROCESSES[preprocess], {"pixel_mean": None}))


def make_normalization(
    preprocess: str, channels: int, pixel_mean: Float[np.ndarray, "h w c"] | None = None
) -> Normalization:
    """Returns the normalisation for a recipe or for a set of weights.

    Args:
      preprocess: `"torchvision"`, ImageNet's channel means and deviations; `"caffe"`, for the
        authors' released weights: BGR on [0, 255] minus channel means; `"per_pixel_mean"`, the
        paper's recipe (Sections 3.4 and 4.2): minus the mean training image; `"cifar"`, the same;
        `"none"`, unchanged [0, 1]; or a name of `register_preprocess`.
      channels: number of channels of the images, 1 or 3.
      pixel_mean: for `"per_pixel_mean"` and `"cifar"`, the mean training image on [0, 1].

    Raises:
      DataError: the name is unknown or needs three channels, or the mean image is missing.
    """
    make, arguments = PREPROCESSES[preprocess], {}
    if needs_pixel_mean(preprocess):
        if pixel_mean is None:
            raise DataError(
                f"preprocess {preprocess!r} needs the mean training image; pass pixel_mean"
            )
        arguments["pixel_mean"] = pixel_mean
    normalization: Normalization = make(channels, **arguments)
    return normalization


def _check_colour(preprocess: str, channels: int) -> None:
    if channels != 3:
        raise DataError(
            f"preprocess {preprocess!r} needs images of 3 channels, not {channels}; "
            "set channels=3 or choose preprocess 'cifar' or 'none'"
        )


def as_normalization(
    mean: Sequence[float] | np.ndarray,
    deviation: Sequence[float] | np.ndarray,
    reverse_channels: bool = False,
) -> Normalization:
    """Returns the normalisation with a mean and a deviation, see `Normalization`."""
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    return Normalization(
        jnp.asarray(mean, dtype), jnp.asarray(deviation, dtype), reverse_channels=reverse_channels
    )
