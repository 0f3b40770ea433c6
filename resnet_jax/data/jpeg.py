"""From a JPEG to a crop of it, faster than Pillow; for training only.

libjpeg-turbo decodes to the pixels that Pillow has, without Pillow's copies, and at an eighth, a
quarter or half of the size where the crop is to shrink by as much anyway; OpenCV resizes. Bilinear
interpolation with antialiasing, as Pillow has it, is a light blur before a plain bilinear one:
`docs/data.md` says how far the pixels are from Pillow's.

What is not a plain colour or grey JPEG without a flaw is left to Pillow (`None` is returned).
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from .decode import check_size

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, not always whole ones."""

_COLORSPACES = {"YCbCr": 3, "RGB": 3, "Gray": 1}


class Header(NamedTuple):
    """What a JPEG says of itself: its size in pixels and its channels, 1 or 3."""

    height: int
    width: int
    channels: int


def read_header(file: bytes) -> Header | None:
    """Returns the header of a JPEG that `decode_crop` takes, or None.

    Raises:
      OSError: it claims more pixels than are decoded.
    """
    if not file.startswith(b"\xff\xd8\xff"):
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError:
        return None
    if colorspace not in _COLORSPACES:
        return None
    check_size(height, width)
    return Header(height, width, _COLORSPACES[colorspace])


def decode_crop(
    file: bytes, header: Header, box: Box, size: int, channels: int
) -> UInt8[np.ndarray, "size size c"] | None:
    """Returns a part of a JPEG, scaled to a square.

    Args:
      file: the JPEG.
      header: its header.
      box: the part to take.
      size: height and width of the result.
      channels: 1 or 3.

    Returns:
      The pixels, or None if the file has a flaw.
    """
    import simplejpeg

    left, top, right, bottom = box
    # A power of two: libjpeg-turbo has no fast code for other scales.
    shrink = min(8, 2 ** int(math.log2(max(1, min(right - left, bottom - top) / size))))
    try:
        pixels = simplejpeg.decode_jpeg(
            file,
            "GRAY" if channels == 1 else "RGB",
            min_height=-(-header.height // shrink),
            min_width=-(-header.width // shrink),
            min_factor=shrink,
        )
    except ValueError:
        return None
    down, across = pixels.shape[0] / header.height, pixels.shape[1] / header.width
    return resample(pixels, (left * across, top * down, right * across, bottom * down), size)


def resample(
    pixels: UInt8[np.ndarray, "h w c"], box: Box, size: int
) -> UInt8[np.ndarray, "size size c"]:
    """Scales a part of an image to a square, bilinear with antialiasing.

    Pillow averages over a triangle as wide as two pixels of the result. Plain bilinear
    interpolation is the same triangle where nothing shrinks; a blur before it adds the variance
    that is missing, `(scale**2 - 1) / 6`.
    """
    cv2 = _opencv()
    left, top, right, bottom = box
    scale_x, scale_y = (right - left) / size, (bottom - top) / size
    whole = all(float(side).is_integer() for side in box)
    margin = 0 if whole else 2 + math.ceil(max(scale_x, scale_y))
    x, y = max(0, math.floor(left) - margin), max(0, math.floor(top) - margin)
    part = pixels[y : math.ceil(bottom) + margin, x : math.ceil(right) + margin]
    taps_x, sigma_x = _blur(scale_x)
    taps_y, sigma_y = _blur(scale_y)
    if taps_x > 1 or taps_y > 1:
        part = cv2.GaussianBlur(
            part, (taps_x, taps_y), sigma_x, sigmaY=sigma_y, borderType=cv2.BORDER_REPLICATE
        )
    if whole:
        out = cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        # From the centre of a pixel of the result to a place in the part.
        matrix = np.array(
            [
                [scale_x, 0, left - x + (scale_x - 1) / 2],
                [0, scale_y, top - y + (scale_y - 1) / 2],
            ]
        )
        out = cv2.warpAffine(
            part,
            matrix,
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return out.reshape(size, size, -1)


def mirror(pixels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Returns an image mirrored left to right; NumPy's reversed slice takes 30 times as long."""
    return _opencv().flip(pixels, 1).reshape(pixels.shape)


def _blur(scale: float) -> tuple[int, float]:
    """How many taps, of which deviation in pixels, `cv2.GaussianBlur` takes before a reduction."""
    variance = (scale * scale - 1) / 6
    if variance < 0.02:
        return 1, 0.0
    if variance > 0.5:
        return 2 * math.ceil(2.2 * math.sqrt(variance)) + 1, math.sqrt(variance)
    # Three taps (a, 1 - 2a, a) have the variance 2a; OpenCV makes them of a deviation.
    side = variance / 2
    return 3, math.sqrt(-0.5 / math.log(side / (1 - 2 * side)))


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    # One image a thread: OpenCV's own threads would only get into each other's way.
    cv2.setNumThreads(1)
    return cv2
