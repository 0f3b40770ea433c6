"""Augmentation for training and cropping for evaluation, as pure functions.

A transform maps an image and a row of uniform random numbers to pixels. It draws nothing itself, so
the result depends only on those numbers, not on the thread, process or host. Everything stays
uint8; the device normalises.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from resnet_jax.data.images.decode import decode_image
from resnet_jax.data.transforms.base import NO_UNIFORMS, Transform
from resnet_jax.data.transforms.crops import RandomResizedCrop, RandomScaleCrop, ResizeCenterCrop
from resnet_jax.errors import DataError
from resnet_jax.registry import Registry, accepted

AUGMENTATIONS = Registry("augmentation", DataError)
"""Functions of (image_size, channels) that return the `Transform` of a training image."""

register_augmentation = AUGMENTATIONS.register
"""Decorator that registers a function of (image_size, channels) that returns a `Transform`."""

MAX_IMAGE_SIZE = 10_000
"""Height and width in pixels of the largest crop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsIs(Transform):
    """The whole image, unscaled.

    Attributes:
      image_size: the expected height and width of images; None for any.
    """

    image_size: int | None = None

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the images' shape, which must not vary and must fit `image_size`."""
        height, width, channels = image_shape
        if height is None or width is None:
            raise DataError(
                "the images of this data set differ in size; choose augmentation 'imagenet', "
                "which crops them to image_size"
            )
        if self.image_size not in (None, height) or self.image_size not in (None, width):
            remedy = f"set image_size={height}" if height == width else "omit image_size"
            raise DataError(
                f"image_size is {self.image_size} but the images are {height}x{width} and this "
                f"augmentation keeps their size; {remedy} or choose 'imagenet'"
            )
        return height, width, self.channels or channels

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "h w C"]:
        """Decodes the image."""
        return decode_image(image, self.channels)

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n h w C"]:
        """Returns the images, converted if they have other channels."""
        return _with_channels(images, self.channels)

    def draw(self, uniforms: Float[np.ndarray, "n d"]) -> dict[str, np.ndarray]:
        """Converts random numbers into parameters; here, there are none."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PadCropMirror(AsIs):
    """The paper's augmentation for CIFAR (Section 4.2): pad by 4, random crop, random mirror.

    The crop has the image's size. The image is mirrored if the third number is below 0.5.

    Attributes:
      padding: pixels added on each side.
      fill: value of the padding, one number or one per channel. 0 is black, as in PyTorch's
        recipes, which pad before normalising. To pad with zeros after subtracting the mean, as the
        paper can be read, set it to the mean.
    """

    num_uniforms: ClassVar[int] = 3
    padding: int = 4
    fill: int | tuple[int, ...] = 0

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "h w C"]:
        """Transforms one image by three numbers: top, left and mirror."""
        return self.batch(decode_image(image, self.channels)[np.newaxis], uniforms[np.newaxis])[0]

    def batch(
        self, images: UInt8[np.ndarray, "n h w c"], uniforms: Float[np.ndarray, "n d"]
    ) -> UInt8[np.ndarray, "n h w C"]:
        """Transforms images of one shape without a loop."""
        images = _with_channels(images, self.channels)
        n, height, width, channels = images.shape
        pad = self.padding
        padded = np.empty((n, height + 2 * pad, width + 2 * pad, channels), np.uint8)
        padded[:] = np.broadcast_to(np.asarray(self.fill, np.uint8), padded.shape[1:]).copy()
        padded[:, pad : pad + height, pad : pad + width] = images
        # A view of all possible crops, with a row's pixels and channels as one axis; indexing it
        # copies the drawn crops at once.
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


@register_augmentation("none")
def _none(image_size: int | None, channels: int | None) -> Transform:
    return AsIs(image_size=image_size, channels=channels)


@register_augmentation("cifar")
def _cifar(image_size: int | None, channels: int | None) -> Transform:
    return PadCropMirror(image_size=image_size, channels=channels)


@register_augmentation("imagenet")
def _imagenet(image_size: int | None, channels: int | None, fast: bool = True) -> Transform:
    size = _given(image_size, "imagenet")
    return RandomResizedCrop(image_size=size, channels=channels, fast=fast)


@register_augmentation("imagenet_paper")
def _imagenet_paper(image_size: int | None, channels: int | None, fast: bool = True) -> Transform:
    size = _given(image_size, "imagenet_paper")
    low, high = (round(side * size / 224) for side in (256, 480))
    return RandomScaleCrop(image_size=size, shorter_side=(low, high), channels=channels, fast=fast)


def train_transform(
    name: str,
    image_size: int | None = None,
    *,
    channels: int | None = None,
    fast: bool = True,
) -> Transform:
    """Returns the training augmentation of a name.

    Args:
      name: `"none"`, the unchanged image; `"cifar"`, see `PadCropMirror`; `"imagenet"`, see
        `RandomResizedCrop`; `"imagenet_paper"`, see `RandomScaleCrop`, with shorter sides from
        256 to 480 for crops of 224 and proportional for others; or a name of
        `register_augmentation`.
      image_size: height and width of the result. `"none"` and `"cifar"` keep the image's size; for
        them it is the expected size, None for any.
      channels: 1 or 3 to convert to greyscale or colour; None for the data set's own.
      fast: whether the ImageNet augmentations decode JPEGs fast (`RandomCrop.fast`).

    Raises:
      DataError: the name is unknown, or an ImageNet augmentation has no image size.
    """
    _check(image_size, channels)
    make = AUGMENTATIONS[name]
    transform: Transform = make(image_size, channels, **accepted(make, {"fast": fast}))
    return transform


def eval_transform(
    name: str,
    image_size: int | None = None,
    resize: int | None = None,
    *,
    channels: int | None = None,
) -> Transform:
    """Returns the deterministic evaluation transform for `train_transform(name, ...)`.

    Images that training keeps whole (`AsIs`) stay whole; others are cropped at the centre
    (`ResizeCenterCrop`).

    Args:
      name: as for `train_transform`.
      image_size: as for `train_transform`.
      resize: the shorter side before cropping; None for 8/7 of `image_size` (paper: 256 for 224).
      channels: as for `train_transform`.

    Raises:
      DataError: the name is unknown, an ImageNet augmentation has no image size, or the crop does
        not fit.
    """
    is_whole = isinstance(train_transform(name, image_size, channels=channels), AsIs)
    if is_whole or image_size is None:
        return AsIs(image_size=image_size, channels=channels)
    resize = round(image_size * 8 / 7) if resize is None else resize
    return ResizeCenterCrop(image_size=image_size, resize=resize, channels=channels)


def _with_channels(
    images: UInt8[np.ndarray, "n h w c"], channels: int | None
) -> UInt8[np.ndarray, "n h w C"]:
    if channels is None or channels == images.shape[3]:
        return images
    out = np.empty((*images.shape[:3], channels), np.uint8)
    for row, image in enumerate(images):
        out[row] = decode_image(image, channels)
    return out


def _given(image_size: int | None, augmentation: str) -> int:
    if image_size is None:
        raise DataError(f"augmentation {augmentation!r} needs an image_size; 224 is common")
    return image_size


def _check(image_size: int | None, channels: int | None) -> None:
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise DataError(
            f"image_size is {image_size}; give a number of pixels from 1 to {MAX_IMAGE_SIZE}"
        )
    if channels not in (None, 1, 3, 4):
        raise DataError(f"images cannot be converted to {channels} channels; choose 1 or 3")
