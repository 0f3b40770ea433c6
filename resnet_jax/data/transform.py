"""What a transform is; `transforms.py` lists those that there are."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from .errors import DataError

NO_UNIFORMS = np.empty(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform(abc.ABC):
    """What becomes of an image before it enters a batch.

    Attributes:
      num_uniforms: how many random numbers one image takes; 0 if nothing is random.
      channels: how many channels come out; None for as many as the data set declares.
    """

    num_uniforms: ClassVar[int] = 0
    channels: int | None = None

    @abc.abstractmethod
    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the (height, width, channels) that images of a shape come out with.

        Args:
          image_shape: a source's; height and width are None where they vary.

        Raises:
          DataError: such images do not all come out with one shape, or not with `image_size`.
        """

    @abc.abstractmethod
    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image, by `num_uniforms` numbers in [0, 1)."""

    def draw(self, uniforms: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
        """Returns what the random numbers come to, an array a name, for a device to do it.

        Raises:
          DataError: only the host can do what this transform does.
        """
        raise DataError(f"{type(self).__name__} cuts on the host alone; ask for pixels")

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Transforms images of one shape; equal to one call an image."""
        height, width, channels = images.shape[1:]
        out = np.empty((len(images), *self.output_shape((height, width, channels))), np.uint8)
        for row, (image, numbers) in enumerate(zip(images, uniforms, strict=True)):
            out[row] = self(image, numbers)
        return out
