"""Crops of photographs: two at random for training, one at the centre for evaluation.

Torchvision's transforms on Pillow images, to the last pixel, except that training may take the
faster way of `jpeg.py`.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from . import jpeg
from .decode import check_size, open_image, to_array
from .errors import DataError
from .transform import NO_UNIFORMS, Transform


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(Transform):
    """A part of the image at random, scaled to a square and mirrored by chance.

    The last random number mirrors if it is below a half.

    Attributes:
      image_size: height and width of the result.
      fast: whether JPEGs are decoded and scaled by `jpeg.py`, in less time than Pillow takes and
        to nearly the same pixels; all else is Pillow's anyway.
    """

    image_size: int
    fast: bool = True

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns a square of `image_size`."""
        return self.image_size, self.image_size, self.channels or image_shape[2]

    @abc.abstractmethod
    def box(self, height: int, width: int, uniforms: Float[np.ndarray, " d"]) -> jpeg.Box:
        """Returns the part of an image to take, as (left, top, right, bottom) in pixels."""

    @abc.abstractmethod
    def cut(self, picture: Image.Image, box: jpeg.Box) -> Image.Image:
        """Scales a part of an image to `image_size`, as the exact form of the transform has it."""

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
    """A random part of the image, scaled to a square and mirrored by chance.

    torchvision's `RandomResizedCrop` on Pillow images followed by `RandomHorizontalFlip`: the
    part's area is uniform in `scale` (a fraction of the image's) and the logarithm of its aspect
    is uniform in that of `ratio`. Ten draws are tried until one fits; after that the largest
    centred part with an aspect inside `ratio` is taken. Bilinear with antialiasing.

    The random numbers are (area, aspect) of each of the ten tries, then top, left and mirror.

    Attributes:
      scale: least and greatest area.
      ratio: least and greatest width / height.
    """

    num_uniforms: ClassVar[int] = 23
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def box(
        self, height: int, width: int, uniforms: Float[np.ndarray, " d"]
    ) -> tuple[int, int, int, int]:
        """Returns the part of an image to take, as (left, top, right, bottom) in pixels."""
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
        """Scales a part of an image as if there were nothing around it."""
        left, top, right, bottom = (int(side) for side in box)
        # Cut first: Pillow's resize(box=...) would let pixels outside the part shine in.
        part = picture.crop((left, top, right, bottom))
        return part.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScaleCrop(RandomCrop):
    """The paper's augmentation for ImageNet (Section 3.4): random scale, crop and mirror.

    The image is scaled so that its shorter side is a random whole number of pixels, and a random
    square is cut from it: torchvision's `Resize` and `RandomCrop`, bilinear with antialiasing.
    Only that square is scaled.

    The random numbers are the shorter side, top, left and mirror.

    Attributes:
      shorter_side: its least and greatest length, each as likely as those between them.
    """

    num_uniforms: ClassVar[int] = 4
    shorter_side: tuple[int, int] = (256, 480)

    def __post_init__(self) -> None:
        low, high = self.shorter_side
        if not self.image_size <= low <= high:
            raise DataError(
                f"a crop of {self.image_size} does not fit into shorter sides from {low} to {high}"
                f"; let them begin at {self.image_size} or more"
            )

    def box(self, height: int, width: int, uniforms: Float[np.ndarray, " d"]) -> jpeg.Box:
        """Returns the part of an image to take, as (left, top, right, bottom) in pixels."""
        low, high = self.shorter_side
        side, top, left = uniforms[:3].tolist()
        short = low + int(side * (high - low + 1))
        scaled_height, scaled_width = scaled_size(height, width, short)
        top = int(top * (scaled_height - self.image_size + 1))
        left = int(left * (scaled_width - self.image_size + 1))
        down, across = height / scaled_height, width / scaled_width
        # Rounding must not lead out of the image.
        return (
            left * across,
            top * down,
            min(width, (left + self.image_size) * across),
            min(height, (top + self.image_size) * down),
        )

    def cut(self, picture: Image.Image, box: jpeg.Box) -> Image.Image:
        """Scales a part of an image, of which the pixels around it have their share."""
        size = (self.image_size, self.image_size)
        return picture.resize(size, Image.Resampling.BILINEAR, box=box)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeCenterCrop(Transform):
    """The image scaled to a shorter side of `resize`, and the square at its centre.

    torchvision's `Resize` and `CenterCrop` on Pillow images; bilinear with antialiasing.

    Attributes:
      image_size: height and width of the result.
      resize: the shorter side to cut from, not less than `image_size`.
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
        # Python's rounding to the even neighbour is torchvision's.
        left = round((width - self.image_size) / 2)
        top = round((height - self.image_size) / 2)
        return to_array(picture.crop((left, top, left + self.image_size, top + self.image_size)))


def scaled_size(height: int, width: int, shorter_side: int) -> tuple[int, int]:
    """Returns the (height, width) of an image scaled to a shorter side, as torchvision has it.

    The longer side is rounded down.

    Raises:
      OSError: an image so long and thin that it would have more pixels than are decoded.
    """
    long = int(shorter_side * max(height, width) / min(height, width))
    scaled = (shorter_side, long) if height <= width else (long, shorter_side)
    check_size(*scaled)
    return scaled
