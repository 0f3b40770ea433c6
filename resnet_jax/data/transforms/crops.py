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
from PIL import Image, ImageOps

from resnet_jax.data.images import jpeg
from resnet_jax.data.images.decode import check_size, open_image, to_array
from resnet_jax.data.transforms.base import NO_UNIFORMS, Transform
from resnet_jax.errors import DataError

CROP_MODES = ("center", "squash", "border")
"""The modes of `ResizeCenterCrop`."""

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
"""The filters of `ResizeCenterCrop`, by Pillow's names."""


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
    """The centre of the scaled image.

    A square equals torchvision's `Resize` and `CenterCrop` on Pillow images with antialiasing;
    other sizes and modes equal timm's evaluation transforms.

    Attributes:
      image_size: height and width of the result, or one number for both.
      resize: the size before cropping, at least `image_size`, or one number for both sides.
      interpolation: a filter, one of `INTERPOLATIONS`.
      crop_mode: `"center"` scales the image until it covers `resize`, so that its shorter side is
        `resize` if that is a square; `"squash"` scales it to exactly `resize`; `"border"` scales
        it to fit into `resize` and fills the rest.
      fill: the value of the border, one number or one per channel.
    """

    image_size: int | tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str = "bilinear"
    crop_mode: str = "center"
    fill: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        for side, resize in zip(_both(self.image_size), _both(self.resize), strict=True):
            if resize < side:
                raise DataError(
                    f"a crop of {side} does not fit into a shorter side of {resize}; "
                    f"set the resize to {side} or more"
                )

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns `image_size` and the channels."""
        return *_both(self.image_size), self.channels or image_shape[2]

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image."""
        picture = open_image(image, self.channels)
        height, width = self._scaled_size(picture.height, picture.width)
        if picture.size != (width, height):
            resample = Image.Resampling[self.interpolation.upper()]
            picture = picture.resize((width, height), resample)
        crop_height, crop_width = _both(self.image_size)
        across, down = max(0, crop_width - width), max(0, crop_height - height)
        if across or down:
            # Pillow's order is left, top, right, bottom; the odd pixel is at the right or bottom.
            border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
            bands = len(picture.getbands())
            fill = (self.fill,) * bands if isinstance(self.fill, int) else self.fill
            picture = ImageOps.expand(picture, border, fill)
        # Python rounds half to even, as torchvision does.
        left = round((picture.width - crop_width) / 2)
        top = round((picture.height - crop_height) / 2)
        return to_array(picture.crop((left, top, left + crop_width, top + crop_height)))

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop_mode == "squash":
            return _both(self.resize)
        if self.crop_mode == "center" and isinstance(self.resize, int):
            return scaled_size(height, width, self.resize)
        ratios = [side / new for side, new in zip((height, width), _both(self.resize), strict=True)]
        ratio = min(ratios) if self.crop_mode == "center" else max(ratios)
        scaled = max(1, round(height / ratio)), max(1, round(width / ratio))
        check_size(*scaled)
        return scaled


def _both(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


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
