"""Crops of photographs: two random ones for training, a central one for evaluation.

They equal torchvision's transforms on Pillow images pixel for pixel, except that training may use
the faster decoding of `jpeg.py`.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from resnet_jax.data.images import jpeg
from resnet_jax.data.images.decode import check_size, open_image, to_array
from resnet_jax.data.transforms.base import NO_UNIFORMS, Transform
from resnet_jax.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(Transform):
    """A random part of the image, scaled to a square and randomly mirrored.

    The image is mirrored if the last random number is below 0.5.

    Attributes:
      image_size: height and width of the result.
      fast: whether `jpeg.py` decodes and scales JPEGs, faster than Pillow and to nearly the same
        pixels; Pillow handles all other files.
    """

    image_size: int
    fast: bool = True

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns a square of `image_size`."""
        return self.image_size, self.image_size, self.channels or image_shape[2]

    @abc.abstractmethod
    def box(self, height: int, width: int, uniforms: Float[np.ndarray, " d"]) -> jpeg.Box:
        """Returns the part of an image to use, as (left, top, right, bottom) in pixels."""

    @abc.abstractmethod
    def cut(self, picture: Image.Image, box: jpeg.Box) -> Image.Image:
        """Scales a part of an image to `image_size` exactly as the transform defines it."""

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image."""
        pixels = self._cut_fast(image, uniforms) if isinstance(image, bytes) else None
        if pixels is None:
            picture = open_image(image, self.channels)
            pixels = to_array(self.cut(picture, self.box(picture.height, picture.width, uniforms)))
        return jpeg.mirror(pixels) if uniforms[-1] < 0.5 else pixels

    def _cut_fast(
        self, file: bytes, uniforms: Float[np.ndarray, " d"]
    ) -> UInt8[np.ndarray, "H W C"] | None:
        header = jpeg.read_header(file) if self.fast and self.channels != 4 else None
        if header is None:
            return None
        box = self.box(header.height, header.width, uniforms)
        return jpeg.decode_crop(
            file, header, box, self.image_size, self.channels or header.channels
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(RandomCrop):
    """A random part of the image, scaled to a square and randomly mirrored.

    It equals torchvision's `RandomResizedCrop` on Pillow images followed by `RandomHorizontalFlip`:
    the part's area is uniform in `scale` (a fraction of the image's), the logarithm of its aspect
    ratio is uniform in that of `ratio`. If none of ten draws fits, the part is the largest centred
    one with an aspect ratio within `ratio`. Scaling is bilinear with antialiasing.

    The random numbers are (area, aspect ratio) of ten draws, then top, left and mirror.

    Attributes:
      scale: smallest and largest area.
      ratio: smallest and largest width / height.
    """

    num_uniforms: ClassVar[int] = 23
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def box(
        self, height: int, width: int, uniforms: Float[np.ndarray, " d"]
    ) -> tuple[int, int, int, int]:
        """Returns the part of an image to use, as (left, top, right, bottom) in pixels."""
        low, high = self.scale
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        draws = uniforms.tolist()
        for area, aspect in zip(draws[0:20:2], draws[1:20:2], strict=True):
            target = height * width * (low + (high - low) * area)
            part_ratio = math.exp(log_low + (log_high - log_low) * aspect)
            part_width = round(math.sqrt(target * part_ratio))
            part_height = round(math.sqrt(target / part_ratio))
            if 0 < part_width <= width and 0 < part_height <= height:
                top = int(draws[20] * (height - part_height + 1))
                left = int(draws[21] * (width - part_width + 1))
                return left, top, left + part_width, top + part_height
        part_width, part_height = width, height
        if width / height < self.ratio[0]:
            part_height = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            part_width = round(height * self.ratio[1])
        top, left = (height - part_height) // 2, (width - part_width) // 2
        return left, top, left + part_width, top + part_height

    def cut(self, picture: Image.Image, box: jpeg.Box) -> Image.Image:
        """Crops the part, then scales it; pixels around it have no influence."""
        left, top, right, bottom = (int(side) for side in box)
        # Crop first: with resize(box=...), Pillow's filter would include pixels outside the part.
        part = picture.crop((left, top, right, bottom))
        return part.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScaleCrop(RandomCrop):
    """The paper's augmentation for ImageNet (Section 3.4): random scale, crop and mirror.

    The image is scaled to a random integer shorter side, and a random square is cropped from it, as
    by torchvision's `Resize` and `RandomCrop`, bilinear with antialiasing. Only the square is
    actually scaled.

    The random numbers are the shorter side, top, left and mirror.

    Attributes:
      shorter_side: smallest and largest length; the distribution is uniform, both included.
    """

    num_uniforms: ClassVar[int] = 4
    shorter_side: tuple[int, int] = (256, 480)

    def __post_init__(self) -> None:
        low, high = self.shorter_side
        if not self.image_size <= low <= high:
            raise DataError(
                f"a crop of {self.image_size} does not fit into shorter sides from {low} to {high}"
                f"; start them at {self.image_size} or more"
            )

    def box(self, height: int, width: int, uniforms: Float[np.ndarray, " d"]) -> jpeg.Box:
        """Returns the part of an image to use, as (left, top, right, bottom) in pixels."""
        low, high = self.shorter_side
        side, top, left = uniforms[:3].tolist()
        short = low + int(side * (high - low + 1))
        scaled_height, scaled_width = scaled_size(height, width, short)
        top = int(top * (scaled_height - self.image_size + 1))
        left = int(left * (scaled_width - self.image_size + 1))
        down, across = height / scaled_height, width / scaled_width
        # Rounding must not exceed the image.
        return (
            left * across,
            top * down,
            min(width, (left + self.image_size) * across),
            min(height, (top + self.image_size) * down),
        )

    def cut(self, picture: Image.Image, box: jpeg.Box) -> Image.Image:
        """Scales a part of an image; the filter includes the pixels around it."""
        size = (self.image_size, self.image_size)
        return picture.resize(size, Image.Resampling.BILINEAR, box=box)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeCenterCrop(Transform):
    """The central square of the image scaled to a shorter side of `resize`.

    It equals torchvision's `Resize` and `CenterCrop` on Pillow images, bilinear with antialiasing.

    Attributes:
      image_size: height and width of the result.
      resize: the shorter side before cropping, at least `image_size`.
    """

    image_size: int
    resize: int

    def __post_init__(self) -> None:
        if self.resize < self.image_size:
            raise DataError(
                f"a crop of {self.image_size} does not fit into a shorter side of {self.resize}; "
                f"set the resize to {self.image_size} or more"
            )

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns a square of `image_size`."""
        return self.image_size, self.image_size, self.channels or image_shape[2]

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image."""
        picture = open_image(image, self.channels)
        width, height = picture.size
        if min(width, height) != self.resize:
            height, width = scaled_size(height, width, self.resize)
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        # Python rounds half to even, as torchvision does.
        left = round((width - self.image_size) / 2)
        top = round((height - self.image_size) / 2)
        return to_array(picture.crop((left, top, left + self.image_size, top + self.image_size)))


def scaled_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Returns the (height, width) of an image scaled to a shorter side, as in torchvision.

    The longer side is rounded down.

    Raises:
      OSError: the image is so elongated that it would have more than `MAX_PIXELS` pixels.
    """
    long = int(shorter_side * max(height, width) / min(height, width))
    scaled = (shorter_side, long) if height <= width else (long, shorter_side)
    check_size(*scaled)
    return scaled
