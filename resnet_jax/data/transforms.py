"""Augmentation for training and cropping for evaluation, as pure functions.

A transform maps an image and a row of uniform random numbers to pixels. It draws nothing itself,
so what becomes of an image depends on those numbers alone, whatever thread, process or host it
happens in. Everything stays uint8; the device normalises.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .decode import decode_image, open_image, to_array
from .errors import DataError, nearest

AUGMENTATIONS = ("none", "cifar", "imagenet")
"""Names that `train_transform` and `eval_transform` take."""

_NO_UNIFORMS = np.empty(0)


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
        uniforms: Float[np.ndarray, " d"] = _NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image, by `num_uniforms` numbers in [0, 1)."""

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Transforms images of one shape; equal to one call an image."""
        height, width, channels = images.shape[1:]
        out = np.empty((len(images), *self.output_shape((height, width, channels))), np.uint8)
        for row, (image, numbers) in enumerate(zip(images, uniforms, strict=True)):
            out[row] = self(image, numbers)
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsIs(Transform):
    """The whole image, unscaled.

    Attributes:
      image_size: the height and width that images are expected to have; None for any.
    """

    image_size: int | None = None

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the shape of the images, which must be one, and a square of `image_size`."""
        height, width, channels = image_shape
        if height is None or width is None:
            raise DataError(
                "the images of this data set differ in size; choose augmentation 'imagenet', "
                "which crops them to image_size"
            )
        if self.image_size not in (None, height) or self.image_size not in (None, width):
            raise DataError(
                f"image_size is {self.image_size} but the images are {height}x{width} and this "
                f"augmentation keeps their size; set image_size={height} or choose 'imagenet'"
            )
        return height, width, self.channels or channels

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = _NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "h w c"]:
        """Decodes the image."""
        return decode_image(image, self.channels)

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Returns the images, converted if they have other channels."""
        return _with_channels(images, self.channels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PadCropMirror(AsIs):
    """The paper's augmentation for CIFAR (Section 4.2): pad by 4, random crop, mirror by chance.

    The crop has the image's own size. A third number below a half mirrors.

    Attributes:
      padding: pixels added on each side.
      fill: their value, one number or one a channel. 0 is black, as in PyTorch's recipes, which
        pad before they normalise; where the mean is subtracted first and zeros are added then, as
        the paper can be read, the padding is the mean.
    """

    num_uniforms: ClassVar[int] = 3
    padding: int = 4
    fill: int | tuple[int, ...] = 0

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = _NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "h w c"]:
        """Transforms one image, by numbers for top, left and mirror."""
        return self.batch(decode_image(image, self.channels)[np.newaxis], uniforms[np.newaxis])[0]

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n h w c"]:
        """Transforms images of one shape, without a loop over them."""
        images = _with_channels(images, self.channels)
        n, height, width, channels = images.shape
        pad = self.padding
        padded = np.empty((n, height + 2 * pad, width + 2 * pad, channels), np.uint8)
        padded[:] = np.broadcast_to(np.asarray(self.fill, np.uint8), padded.shape[1:]).copy()
        padded[:, pad : pad + height, pad : pad + width] = images
        # A view of every crop there is, with a row's pixels and channels as one axis, from which
        # one copy takes the crops that were drawn.
        step_image, step_row, step_pixel, step = padded.strides
        crops = np.lib.stride_tricks.as_strided(
            padded,
            (n, 2 * pad + 1, 2 * pad + 1, height, width * channels),
            (step_image, step_row, step_pixel, step_row, step),
            writeable=False,
        )
        top, left = (uniforms[:, :2].T * (2 * pad + 1)).astype(np.intp)
        out = crops[np.arange(n), top, left].reshape(images.shape)
        mirrored = uniforms[:, 2] < 0.5
        # Twice as fast as a slice with a step of -1.
        out[mirrored] = out[mirrored].take(np.arange(width)[::-1], axis=2)
        return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Transform):
    """A random part of the image, scaled to a square and mirrored by chance.

    torchvision's `RandomResizedCrop` on Pillow images followed by `RandomHorizontalFlip`: the
    part's area is uniform in `scale` (a fraction of the image's) and the logarithm of its aspect
    is uniform in that of `ratio`. Ten draws are tried until one fits; after that the largest
    centred part with an aspect inside `ratio` is taken. Bilinear with antialiasing.

    The random numbers are (area, aspect) of each of the ten tries, then top, left and mirror.

    Attributes:
      image_size: height and width of the result.
      scale: least and greatest area.
      ratio: least and greatest width / height.
    """

    num_uniforms: ClassVar[int] = 23
    image_size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns a square of `image_size`."""
        return self.image_size, self.image_size, self.channels or image_shape[2]

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

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = _NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image."""
        picture = open_image(image, self.channels)
        # Cut first: Pillow's resize(box=...) would let pixels outside the part shine in.
        picture = picture.crop(self.box(picture.height, picture.width, uniforms))
        size = (self.image_size, self.image_size)
        pixels = to_array(picture.resize(size, Image.Resampling.BILINEAR))
        return pixels[:, ::-1] if uniforms[22] < 0.5 else pixels


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
        uniforms: Float[np.ndarray, " d"] = _NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Transforms one image."""
        picture = open_image(image, self.channels)
        width, height = picture.size
        short = min(width, height)
        if short != self.resize:
            # torchvision rounds the longer side down.
            width, height = (int(self.resize * side / short) for side in (width, height))
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        # Python's rounding to the even neighbour is torchvision's.
        left = round((width - self.image_size) / 2)
        top = round((height - self.image_size) / 2)
        return to_array(picture.crop((left, top, left + self.image_size, top + self.image_size)))


def train_transform(
    name: str, image_size: int | None = None, *, channels: int | None = None
) -> Transform:
    """Returns the augmentation that a recipe trains with.

    Args:
      name: `"none"`, the image as it is; `"cifar"`, see `PadCropMirror`; `"imagenet"`, see
        `RandomResizedCrop`.
      image_size: height and width of the result. `"none"` and `"cifar"` keep the image's own size;
        for them it is an expectation, and None is any.
      channels: 1 or 3 to convert to grey or colour; None for the data set's own.

    Raises:
      DataError: an unknown name, or no image size for `"imagenet"`.
    """
    _check(name, image_size, channels)
    if name == "imagenet" and image_size is not None:
        return RandomResizedCrop(image_size=image_size, channels=channels)
    kind = PadCropMirror if name == "cifar" else AsIs
    return kind(image_size=image_size, channels=channels)


def eval_transform(
    name: str,
    image_size: int | None = None,
    resize: int | None = None,
    *,
    channels: int | None = None,
) -> Transform:
    """Returns the fixed transform that goes with `train_transform(name, ...)` in evaluation.

    Args:
      name: `"none"` or `"cifar"`, the image as it is; `"imagenet"`, see `ResizeCenterCrop`.
      image_size: as for `train_transform`.
      resize: for `"imagenet"`, the shorter side that the crop is cut from; None for 8/7 of
        `image_size`, the paper's 256 for 224.
      channels: as for `train_transform`.

    Raises:
      DataError: an unknown name, no image size for `"imagenet"`, or a crop that does not fit.
    """
    _check(name, image_size, channels)
    if name == "imagenet" and image_size is not None:
        resize = round(image_size * 8 / 7) if resize is None else resize
        return ResizeCenterCrop(image_size=image_size, resize=resize, channels=channels)
    return AsIs(image_size=image_size, channels=channels)


def _with_channels(
    images: UInt8[np.ndarray, "n h w c"], channels: int | None
) -> UInt8[np.ndarray, "n h w d"]:
    if channels is None or channels == images.shape[3]:
        return images
    out = np.empty((*images.shape[:3], channels), np.uint8)
    for row, image in enumerate(images):
        out[row] = decode_image(image, channels)
    return out


def _check(name: str, image_size: int | None, channels: int | None) -> None:
    if name not in AUGMENTATIONS:
        raise DataError(
            f"unknown augmentation {name!r}{nearest(name, AUGMENTATIONS)}; "
            f"there are {', '.join(AUGMENTATIONS)}"
        )
    if name == "imagenet" and image_size is None:
        raise DataError("augmentation 'imagenet' needs an image_size; 224 is usual")
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size is {image_size}; give a positive number of pixels")
    if channels not in (None, 1, 3, 4):
        raise DataError(f"images of {channels} channels cannot be made; choose 1 or 3")
