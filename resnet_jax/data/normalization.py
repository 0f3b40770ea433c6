"""From uint8 pixels to the numbers a network sees, on the device and inside the step.

Batches cross the bus as uint8, a quarter of float32's bytes; XLA fuses what is here into the
first convolution's input.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, UInt8

from .errors import DataError, nearest

PREPROCESSES = ("torchvision", "caffe", "cifar", "per_pixel_mean", "none")
"""Names that `make_normalization` and `--preprocess` take."""

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class Normalization(struct.PyTreeNode):
    """`(image / 255 - mean) / deviation`, with the channels reversed first where weights want BGR.

    Attributes:
      mean: `[c]` per channel or `[h, w, c]` per pixel, in units of the full range (1 is white).
      deviation: `[c]`, in the same units.
      reverse_channels: whether RGB becomes BGR before the mean is subtracted.
    """

    mean: Float[Array, "..."]
    deviation: Float[Array, " c"]
    reverse_channels: bool = struct.field(pytree_node=False, default=False)

    def __call__(
        self, images: UInt8[Array, "n h w c"], color_shift: Float[Array, "n c"] | None = None
    ) -> Float[Array, "n h w c"]:
        """Normalises a batch of uint8 images to float32 (to the mean's dtype if that is wider).

        Args:
          images: as they come from the loader.
          color_shift: what to add to each image on [0, 1], such as `pca_shift`; nothing if None.
        """
        pixels = images.astype(self.mean.dtype) / 255
        if color_shift is not None:
            pixels += color_shift[:, jnp.newaxis, jnp.newaxis, :].astype(pixels.dtype)
        if self.reverse_channels:
            pixels = pixels[..., ::-1]
        return (pixels - self.mean) / self.deviation


def make_normalization(
    preprocess: str, channels: int, pixel_mean: Float[np.ndarray, "h w c"] | None = None
) -> Normalization:
    """Returns the normalisation that a set of weights or a recipe goes with.

    Args:
      preprocess: `"torchvision"`, ImageNet's channel means and deviations; `"caffe"`, the authors'
        released weights: BGR on [0, 255] less a channel mean; `"per_pixel_mean"`, the paper's
        recipe (Sections 3.4 and 4.2): the mean training image subtracted; `"cifar"`, the same;
        `"none"`, [0, 1] as it is.
      channels: the number of channels of the images, 1 or 3.
      pixel_mean: for `"per_pixel_mean"` and `"cifar"`, the mean training image on [0, 1].

    Raises:
      DataError: an unknown name, a three-channel normalisation of grey images, or no mean image.
    """
    if preprocess not in PREPROCESSES:
        raise DataError(
            f"unknown preprocess {preprocess!r}{nearest(preprocess, PREPROCESSES)}; "
            f"there are {', '.join(PREPROCESSES)}"
        )
    if preprocess in ("torchvision", "caffe") and channels != 3:
        raise DataError(
            f"preprocess {preprocess!r} needs images of 3 channels, not {channels}; "
            "set channels=3 or choose preprocess 'cifar' or 'none'"
        )
    if preprocess == "torchvision":
        return _normalization(_IMAGENET_MEAN, _IMAGENET_DEVIATION)
    if preprocess == "caffe":
        mean = np.asarray(_CAFFE_MEAN_BGR) / 255
        return _normalization(mean, np.full(3, 1 / 255), reverse_channels=True)
    if preprocess == "none":
        return _normalization(np.zeros(channels), np.ones(channels))
    if pixel_mean is None:
        raise DataError(f"preprocess {preprocess!r} needs the mean training image; pass pixel_mean")
    return _normalization(pixel_mean, np.ones(channels))


def _normalization(
    mean: Sequence[float] | np.ndarray,
    deviation: Sequence[float] | np.ndarray,
    reverse_channels: bool = False,
) -> Normalization:
    dtype = jax.dtypes.canonicalize_dtype(jnp.float64)
    return Normalization(
        jnp.asarray(mean, dtype), jnp.asarray(deviation, dtype), reverse_channels=reverse_channels
    )
