"""Scales, mirrors and places images on a canvas of one shape; their boxes move along."""

import dataclasses
import functools
from types import ModuleType
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from resnet_jax.data.images.decode import check_size, open_image, to_array
from resnet_jax.data.images.jpeg import mirror
from resnet_jax.data.transforms.base import NO_UNIFORMS
from resnet_jax.detection.data.examples import DetectionExample
from resnet_jax.errors import DataError

HOUSES = ("torchvision", "detectron2")
"""Whose way of scaling: torchvision rounds sizes down and interpolates without antialiasing,
Detectron2 rounds to the nearest and interpolates as Pillow does."""


class Placed(NamedTuple):
    """An image on its canvas.

    Attributes:
      image: the canvas; the image is at its upper left, the rest is 0.
      size: height and width of the scaled image in pixels.
      boxes: the boxes in pixels of the canvas, in the example's order.
      mirrored: whether the image is mirrored left to right.
    """

    image: UInt8[np.ndarray, "H W 3"]
    size: tuple[int, int]
    boxes: Float32[np.ndarray, "n 4"]
    mirrored: bool


def scaled_size(
    height: int, width: int, shorter_side: int, longer_side: int, house: str = "detectron2"
) -> tuple[int, int]:
    """Returns the (height, width) of an image scaled to a shorter side.

    If the longer side would exceed `longer_side`, it becomes that instead.

    Args:
      height: the image's height in pixels.
      width: the image's width in pixels.
      shorter_side: the wanted shorter side.
      longer_side: the largest longer side.
      house: one of `HOUSES`. torchvision's scale is a float32, so that a side may be one less than
        the wanted one.

    Raises:
      OSError: the scaled image would have too many pixels.
    """
    short, long = min(height, width), max(height, width)
    if house == "torchvision":
        # PyTorch divides a number by a tensor as number * (1 / tensor).
        one = np.float32(1)
        factors = ((shorter_side, short), (longer_side, long))
        scale = float(min(np.float32(new) * (one / np.float32(old)) for new, old in factors))
        new_height, new_width = int(height * scale), int(width * scale)
    else:
        scale = shorter_side / short
        sides = [float(shorter_side) if side == short else scale * side for side in (height, width)]
        if max(sides) > longer_side:
            scale = longer_side / max(sides)
            sides = [side * scale for side in sides]
        new_height, new_width = (int(side + 0.5) for side in sides)
    new_height, new_width = max(1, new_height), max(1, new_width)
    check_size(new_height, new_width)
    return new_height, new_width


def scaled_boxes(
    boxes: Float[np.ndarray, "n 4"], size: tuple[int, int], new_size: tuple[int, int]
) -> Float32[np.ndarray, "n 4"]:
    """Returns the boxes of an image after it was scaled; each axis has its own factor.

    Args:
      boxes: (x1, y1, x2, y2) in pixels.
      size: the image's height and width in pixels.
      new_size: those of the scaled image.
    """
    down, across = (
        np.float32(new) / np.float32(old) for new, old in zip(new_size, size, strict=True)
    )
    return boxes.astype(np.float32) * np.array([across, down, across, down], np.float32)


def mirrored_boxes(boxes: Float32[np.ndarray, "n 4"], width: int) -> Float32[np.ndarray, "n 4"]:
    """Returns half-open boxes in an image mirrored left to right: x1 becomes width - x2."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([np.float32(width) - x2, y1, np.float32(width) - x1, y2], axis=1)


def scaled_pixels(
    pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], house: str = "detectron2"
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns an image scaled to (height, width), bilinearly as in `HOUSES`."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    if house == "torchvision":
        # Not of uint8, for which OpenCV rounds the weights to 11 bits.
        cv2 = _opencv()
        scaled = cv2.resize(
            pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        return np.rint(scaled).astype(np.uint8)
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return to_array(picture)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlaceOnCanvas:
    """Scales an image to a shorter side, mirrors it, and places it on a canvas.

    A pure function of the image and two random numbers: the shorter side, and the mirror, which is
    applied if its number is below 0.5. Boxes move along, see `scaled_boxes` and `mirrored_boxes`.

    Attributes:
      shorter_side: the lengths from which the shorter side is drawn, each as likely.
      longer_side: the largest longer side.
      canvas: height and width of the canvas; turned for images that are higher than wide if it is
        not square.
      mirror: whether images are mirrored at random.
      house: one of `HOUSES`.
    """

    num_uniforms: ClassVar[int] = 2
    shorter_side: tuple[int, ...]
    longer_side: int
    canvas: tuple[int, int]
    mirror: bool = False
    house: str = "detectron2"

    def __post_init__(self) -> None:
        if self.house not in HOUSES:
            raise DataError(f"unknown house {self.house!r}; choose from {', '.join(HOUSES)}")
        short, long = min(self.canvas), max(self.canvas)
        # An image has at most this shorter side, as scaling never lets it exceed the longer one.
        most = min(max(self.shorter_side), self.longer_side)
        if most > short or self.longer_side > long:
            raise DataError(
                f"a canvas of {self.canvas[0]}x{self.canvas[1]} does not hold images with sides of "
                f"{most} and {self.longer_side}; make it larger, or shorter_side and longer_side "
                "smaller"
            )

    def canvas_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of the canvas for an image of a size."""
        short, long = min(self.canvas), max(self.canvas)
        return (long, short) if height > width else (short, long)

    def __call__(
        self, example: DetectionExample, uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS
    ) -> Placed:
        """Transforms an image with its boxes.

        Args:
          example: the image.
          uniforms: two random numbers in [0, 1); without any, the image gets the last shorter side
            and is not mirrored.

        Raises:
          OSError: the image cannot be decoded.
        """
        pixels = to_array(open_image(example.image, 3))
        height, width = pixels.shape[:2]
        drawn = uniforms.tolist() or [1 - 2**-53, 1.0]
        side = self.shorter_side[int(drawn[0] * len(self.shorter_side))]
        size = scaled_size(height, width, side, self.longer_side, self.house)
        pixels = scaled_pixels(pixels, size, self.house)
        boxes = scaled_boxes(example.boxes, (height, width), size)
        mirrored = self.mirror and drawn[1] < 0.5
        if mirrored:
            pixels, boxes = mirror(pixels), mirrored_boxes(boxes, size[1])
        canvas = np.zeros((*self.canvas_of(height, width), 3), np.uint8)
        canvas[: size[0], : size[1]] = pixels
        return Placed(canvas, size, boxes, mirrored)


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    # Each loader thread handles one image; OpenCV's own threads would compete with them.
    cv2.setNumThreads(1)
    return cv2
