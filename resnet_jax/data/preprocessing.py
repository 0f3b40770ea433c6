"""The preprocessing that belongs to a set of weights: from image files to a network's input."""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from PIL import Image

from resnet_jax.data.images.decode import open_image, to_array
from resnet_jax.data.transforms.base import Transform
from resnet_jax.data.transforms.crops import CROP_MODES, INTERPOLATIONS, ResizeCenterCrop
from resnet_jax.data.transforms.named import MAX_IMAGE_SIZE, AsIs
from resnet_jax.data.transforms.normalization import Normalization, as_normalization
from resnet_jax.errors import DataError, did_you_mean, shown
from resnet_jax.runtime.files import local_path

CHANNEL_ORDERS = ("RGB", "BGR")

ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | Image.Image | UInt8[np.ndarray, "h w"]
    | UInt8[np.ndarray, "h w c"] | UInt8[np.ndarray, "n h w c"]
)  # fmt: skip
"""One image (a path, a file's content, a Pillow image or its pixels), or pixels of several."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preprocessing:
    """Size, crop, filter, normalisation and class names of a set of weights.

    `resnet_jax.preprocessing(source)` reads it from weights; `dataclasses.replace` changes a part.
    Two are equal if they do the same to images and name the same classes.

    Attributes:
      image_size: height and width of the network's input; None to keep images as they are.
      crop_share: the crop's share of the scaled image, per side: `image_size` is cropped from
        `image_size / crop_share`, rounded down.
      crop_mode: `"center"`, `"squash"` or `"border"`, see `ResizeCenterCrop`.
      interpolation: Pillow's filter: `"bilinear"`, `"bicubic"`, `"nearest"`, `"lanczos"`, `"box"`
        or `"hamming"`.
      mean: per channel, in the order of `channel_order`, or a mean image `[h, w, c]`; on [0, 1].
      std: per channel, in the same units: the input is `(pixels / 255 - mean) / std`.
      channel_order: `"RGB"` or `"BGR"`; without a meaning for one channel.
      class_names: the name of each logit; empty where the source does not say.
      source: where it was read from, for messages.

    Raises:
      DataError: a value is invalid.
    """

    image_size: tuple[int, int] | None = None
    crop_share: float = 0.875
    crop_mode: str = "center"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | Float[np.ndarray, "h w c"] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channel_order: str = "RGB"
    class_names: tuple[str, ...] = ()
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, value, choices in [
            ("crop_mode", self.crop_mode, CROP_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("channel_order", self.channel_order, CHANNEL_ORDERS),
        ]:
            if value not in choices:
                hint = did_you_mean(value, choices)
                raise DataError(
                    f"unknown {name} {shown(value)}{hint}; choose from {', '.join(choices)}"
                )
        if not 0 < self.crop_share <= 1:
            raise DataError(f"crop_share is {self.crop_share}; give a number in (0, 1]")
        for side in self.image_size or ():
            if not 1 <= side <= MAX_IMAGE_SIZE:
                raise DataError(f"image_size has {side} pixels; give 1 to {MAX_IMAGE_SIZE}")
        num_means = len(self.mean) if isinstance(self.mean, tuple) else self.mean.shape[2]
        if num_means != len(self.std) or num_means not in (1, 3, 4):
            raise DataError(
                f"mean has {num_means} channels and std {len(self.std)}; give 1 or 3 to both"
            )
        values = np.asarray([*np.ravel(self.mean), *self.std], np.float64)
        if not (np.isfinite(values).all() and min(self.std) > 0):
            raise DataError("mean and std must be finite numbers, and std above 0")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Preprocessing):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
            if field.compare
        )

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return len(self.std)

    @property
    def resize(self) -> tuple[int, int] | None:
        """Height and width of the scaled image from which the crop is cut."""
        if self.image_size is None:
            return None
        # 232 = floor(224 / (224 / 232)), but a quotient may be off by the last bit.
        height, width = (math.floor(side / self.crop_share + 1e-9) for side in self.image_size)
        return height, width

    def transform(self) -> Transform:
        """Returns the deterministic transform from an image to uint8 pixels of `image_size`."""
        if self.image_size is None or self.resize is None:
            return AsIs(channels=self.channels)
        fill = np.round(255 * np.reshape(self.mean, (-1, self.channels)).mean(axis=0))
        if self.channel_order == "BGR":
            fill = fill[::-1]
        return ResizeCenterCrop(
            image_size=_one_if_square(self.image_size),
            resize=_one_if_square(self.resize),
            channels=self.channels,
            interpolation=self.interpolation,
            crop_mode=self.crop_mode,
            fill=tuple(fill.astype(int).tolist()) if self.crop_mode == "border" else 0,
        )

    def normalization(self) -> Normalization:
        """Returns the normalisation of the transform's pixels."""
        is_reversed = self.channel_order == "BGR" and self.channels == 3
        return as_normalization(self.mean, self.std, reverse_channels=is_reversed)

    def with_normalization(self, normalization: Normalization) -> "Preprocessing":
        """Returns the record with another normalisation."""
        std = np.ravel(normalization.deviation)
        mean: Any = np.asarray(normalization.mean)
        if mean.ndim < 3:
            mean = tuple(np.broadcast_to(mean, std.shape).tolist())
        order = "BGR" if normalization.reverse_channels else "RGB"
        return dataclasses.replace(self, mean=mean, std=tuple(std.tolist()), channel_order=order)

    def __call__(self, images: ImageInput | Sequence[Any]) -> Float32[Array, "N H W C"]:
        """Returns the network's input.

        Args:
          images: a path, a file's content, a Pillow image, uint8 pixels `[h, w]`, `[h, w, c]` (RGB)
            or `[n, h, w, c]`, or a list of any of these. As in PyTorch's loaders, the EXIF
            orientation is not applied.

        Raises:
          DataError: there is no image, a file is missing or damaged, pixels are not uint8, or
            images that are kept as they are differ in size.
        """
        transform = self.transform()
        batch = []
        for name, image in _each(images, "the image"):
            try:
                batch.append(transform(image))
            except OSError as error:
                raise DataError(f"{name} cannot be used: {error}; give another") from error
        shapes = sorted({pixels.shape for pixels in batch})
        if len(shapes) != 1:
            found = " and ".join(f"{shape[0]}x{shape[1]}" for shape in shapes[:2]) or "none"
            raise DataError(f"images of one size are needed, not {found}; set image_size")
        if isinstance(self.mean, np.ndarray) and self.mean.shape != shapes[0]:
            size = "x".join(map(str, self.mean.shape[:2]))
            raise DataError(f"the mean image has {size} pixels, unlike the images; set image_size")
        return self.normalization()(np.stack(batch)).astype(np.float32)

    def describe(self) -> str:
        """Returns one line, such as "224x224 from 256, bicubic, mean (...), std (...)"."""
        parts = ["images as they are"]
        if self.image_size is not None and self.resize is not None:
            parts = ["x".join(map(str, self.image_size))]
            if self.resize != self.image_size:
                resize = _one_if_square(self.resize)
                parts[0] += f" from {resize if isinstance(resize, int) else _product(resize)}"
            parts += [] if self.crop_mode == "center" else [f"crop mode {self.crop_mode}"]
            parts.append(self.interpolation)
        parts += [self.channel_order] if self.channel_order != "RGB" else []
        is_image = isinstance(self.mean, np.ndarray)
        parts.append("the mean image" if is_image else f"mean {_numbers(self.mean)}")
        parts.append(f"std {_numbers(self.std)}")
        return ", ".join(parts) + (f"; from {self.source}" if self.source else "")

    def to_json(self) -> str:
        """Returns all but the source, and but a mean image, whose `mean` is null."""
        content = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.compare
        }
        if isinstance(self.mean, np.ndarray):
            content["mean"] = None
        return json.dumps(content)

    @classmethod
    def from_json(
        cls, text: str, mean_image: Float[np.ndarray, "h w c"] | None = None, source: str = ""
    ) -> "Preprocessing":
        """Returns the record that `to_json` wrote.

        Args:
          text: its result.
          mean_image: the mean image, if `mean` was one.
          source: as the attribute.

        Raises:
          ValueError: the text is not of `to_json`, or a value is invalid (`DataError`).
        """
        try:
            content = json.loads(text)
            lists = {name: value for name, value in content.items() if isinstance(value, list)}
            content |= {name: tuple(value) for name, value in lists.items()}
            if content.get("mean") is None:
                content["mean"] = mean_image
            return cls(**content, source=source)
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error


def _each(images: Any, name: str) -> Iterator[tuple[str, bytes | np.ndarray]]:
    """Yields a name for messages and a file's content or `[h, w, c]` pixels for each image."""
    if isinstance(images, bytes):
        yield name, images
    elif isinstance(images, str | os.PathLike):
        yield str(images), _content(local_path(images))
    elif isinstance(images, Image.Image):
        yield name, _pixels(images, name)
    elif isinstance(images, np.ndarray) and images.ndim < 4:
        pixels = images[:, :, np.newaxis] if images.ndim == 2 else images
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
            raise DataError(
                f"{name} has {pixels.dtype} pixels of shape {list(images.shape)}; give uint8 "
                "[height, width] or [height, width, 1, 3 or 4]"
            )
        yield name, pixels
    elif isinstance(images, np.ndarray | list | tuple):
        for index, image in enumerate(images):
            yield from _each(image, f"image {index}")
    else:
        kind = type(images).__name__
        raise DataError(f"{name} is a {kind}; give a path, a Pillow image or uint8 pixels")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; check the path") from error


def _pixels(picture: Image.Image, name: str) -> UInt8[np.ndarray, "h w c"]:
    try:
        return to_array(open_image(picture))
    except OSError as error:
        raise DataError(f"{name} cannot be used: {error}; give another") from error


def _one_if_square(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _product(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _numbers(values: Any) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
