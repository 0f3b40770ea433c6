"""The base class of transforms; `named.py` has those for training and evaluation."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.errors import DataError

NO_UNIFORMS = np.empty(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform(abc.ABC):
    """A function from an image to the pixels in a batch.

    Attributes:
      num_uniforms: number of random numbers per image; 0 for a deterministic transform.
      channels: number of output channels; None for the data set's own.
    """

    num_uniforms: ClassVar[int] = 0
    channels: int | None = None

    @abc.abstractmethod
    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the (height, width, channels) of transformed images.

        Args:
          image_shape: a source's `image_shape`; height and width are None where they vary.

        Raises:
          DataError: the transformed images have no common shape, or not that of `image_size`.
        """

    @abc.abstractmethod
    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image by `num_uniforms` random numbers in [0, 1)."""

    def draw(self, uniforms: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
        """Converts random numbers into parameters that a device can apply, by name.

        Raises:
          DataError: the transform runs only on the host.
        """
        raise DataError(f"{type(self).__name__} runs only on the host; use pixels=True")

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Transforms images of one shape; equals one call per image."""
        height, width, channels = images.shape[1:]
        out = np.empty((len(images), *self.output_shape((height, width, channels))), np.uint8)
        for row, (image, numbers) in enumerate(zip(images, uniforms, strict=True)):
            out[row] = self(image, numbers)
        return out
