"""Augmentation for training and cropping for evaluation, as pure functions.

A transform maps an image and a row of uniform random numbers to pixels. It draws nothing itself,
so what becomes of an image depends on those numbers alone, whatever thread, process or host it
happens in. Everything stays uint8; the device normalises.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from .crops import RandomResizedCrop, RandomScaleCrop, ResizeCenterCrop
from .decode import decode_image
from .errors import DataError, nearest
from .transform import NO_UNIFORMS, Transform

AUGMENTATIONS = ("none", "cifar", "imagenet", "imagenet_paper")
"""Names that `train_transform` and `eval_transform` take."""

MAX_IMAGE_SIZE = 10_000
"""Height and width in pixels of the largest crop."""

_IMAGENET = ("imagenet", "imagenet_paper")


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
            remedy = f"set image_size={height}" if height == width else "leave image_size out"
            raise DataError(
                f"image_size is {self.image_size} but the images are {height}x{width} and this "
                f"augmentation keeps their size; {remedy} or choose 'imagenet'"
            )
        return height, width, self.channels or channels

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "h w c"]:
        """Decodes the image."""
        return decode_image(image, self.channels)

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n H W C"]:
        """Returns the images, converted if they have other channels."""
        return _with_channels(images, self.channels)

    def draw(self, uniforms: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
        """Returns what the random numbers come to, an array a name; nothing here."""
        return {}


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
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
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
        drawn = self.draw(uniforms)
        out = crops[np.arange(n), drawn["top"], drawn["left"]].reshape(images.shape)
        mirrored = drawn["mirror"]
        # Twice as fast as a slice with a step of -1.
        out[mirrored] = out[mirrored].take(np.arange(width)[::-1], axis=2)
        return out

    def draw(self, uniforms: Float[np.ndarray, "n 3"]) -> dict[str, np.ndarray]:
        """Returns `top` and `left` of each crop in the padded image, and where to `mirror`."""
        top, left = (uniforms[:, :2].T * (2 * self.padding + 1)).astype(np.int32)
        return {"top": top, "left": left, "mirror": uniforms[:, 2] < 0.5}


def train_transform(
    name: str,
    image_size: int | None = None,
    *,
    channels: int | None = None,
    fast: bool = True,
) -> Transform:
    """Returns the augmentation that a recipe trains with.

    Args:
      name: `"none"`, the image as it is; `"cifar"`, see `PadCropMirror`; `"imagenet"`, see
        `RandomResizedCrop`; `"imagenet_paper"`, see `RandomScaleCrop`, with shorter sides from
        256 to 480 for crops of 224 and in proportion for others.
      image_size: height and width of the result. `"none"` and `"cifar"` keep the image's own size;
        for them it is an expectation, and None is any.
      channels: 1 or 3 to convert to grey or colour; None for the data set's own.
      fast: whether the ImageNet ones decode JPEGs the fast way (`RandomCrop.fast`).

    Raises:
      DataError: an unknown name, or no image size for the ImageNet ones.
    """
    _check(name, image_size, channels)
    if name == "imagenet" and image_size is not None:
        return RandomResizedCrop(image_size=image_size, channels=channels, fast=fast)
    if name == "imagenet_paper" and image_size is not None:
        low, high = (round(side * image_size / 224) for side in (256, 480))
        return RandomScaleCrop(
            image_size=image_size, shorter_side=(low, high), channels=channels, fast=fast
        )
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
      name: `"none"` or `"cifar"`, the image as it is; `"imagenet"` or `"imagenet_paper"`, see
        `ResizeCenterCrop`.
      image_size: as for `train_transform`.
      resize: for the ImageNet ones, the shorter side that the crop is cut from; None for 8/7 of
        `image_size`, the paper's 256 for 224.
      channels: as for `train_transform`.

    Raises:
      DataError: an unknown name, no image size for the ImageNet ones, or a crop that does not fit.
    """
    _check(name, image_size, channels)
    if name in _IMAGENET and image_size is not None:
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
    if name in _IMAGENET and image_size is None:
        raise DataError(f"augmentation {name!r} needs an image_size; 224 is usual")
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise DataError(
            f"image_size is {image_size}; give a number of pixels from 1 to {MAX_IMAGE_SIZE}"
        )
    if channels not in (None, 1, 3, 4):
        raise DataError(f"images of {channels} channels cannot be made; choose 1 or 3")
