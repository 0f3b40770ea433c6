"""From a JPEG to a crop of it, faster than Pillow; for training only.

libjpeg-turbo decodes with its faster transform and chroma upsampling, no further down than the
crop, and at an eighth, a quarter or half of the size where the crop is to shrink by as much anyway;
OpenCV resizes. Bilinear interpolation with antialiasing, as Pillow has it, is a light blur before a
plain bilinear one. `docs/data.md` says how far the pixels are from Pillow's.

What is not a plain colour or grey JPEG without a flaw is left to Pillow (`None` is returned).
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from .decode import check_size

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels, not always whole ones."""

_COLORSPACES = {"YCbCr": 3, "RGB": 3, "Gray": 1}

_SHARP = 1.35
"""Reduction below which a blur brings the pixels hardly nearer to Pillow's, on average."""


class Header(NamedTuple):
    """What a JPEG says of itself.

    Attributes:
      height: in pixels.
      width: in pixels.
      channels: 1 or 3.
      height_at: where in the file the height stands, if rows can be left out at the bottom.
    """

    height: int
    width: int
    channels: int
    height_at: int | None


def read_header(file: bytes) -> Header | None:
    """Returns the header of a JPEG that `decode_crop` takes, or None.

    Raises:
      OSError: it claims more pixels than are decoded.
    """
    # Without its end it is incomplete, which the decoder does not say when rows are left out.
    if not file.startswith(b"\xff\xd8\xff") or b"\xff\xd9" not in file[-64:]:
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(file)
    except ValueError:
        return None
    if colorspace not in _COLORSPACES:
        return None
    check_size(height, width)
    return Header(height, width, _COLORSPACES[colorspace], _find_height(file))


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
    height = header.height
    data: bytes | bytearray = file
    if header.height_at is not None:
        # What is below the crop need not be decoded. Told that the image ends there, the decoder
        # stops. A row of blocks more keeps the crop's own last rows as they are.
        needed = 16 * math.ceil((bottom + 16) / 16)
        if needed < height:
            height = needed
            data = bytearray(file)
            data[header.height_at : header.height_at + 2] = height.to_bytes(2, "big")
    try:
        pixels = simplejpeg.decode_jpeg(
            data,
            "GRAY" if channels == 1 else "RGB",
            min_height=-(-height // shrink),
            min_width=-(-header.width // shrink),
            min_factor=shrink,
            fastdct=True,
            fastupsample=True,
            # That data follows the last row is a flaw that is recovered from.
            strict=height == header.height,
        )
    except ValueError:
        return None
    return resample(pixels, (left / shrink, top / shrink, right / shrink, bottom / shrink), size)


def _find_height(file: bytes) -> int | None:
    """Where the height stands in a JPEG of one scan from top to bottom; None in any other."""
    place, height_at, components = 2, None, 0
    while place + 10 < len(file) and file[place] == 0xFF:
        marker = file[place + 1]
        if marker in (0xC0, 0xC1):  # Baseline and extended sequential.
            height_at, components = place + 5, file[place + 9]
        elif marker == 0xDA:
            return height_at if file[place + 4] == components else None
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    return None


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
    if max(scale_x, scale_y) > _SHARP:
        blur_x, blur_y = _blur(scale_x), _blur(scale_y)
        part = cv2.sepFilter2D(part, -1, blur_x, blur_y, borderType=cv2.BORDER_REPLICATE)
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


def _blur(scale: float) -> Float32[np.ndarray, " taps"]:
    """The blur along one side before it is reduced by `scale`."""
    variance = max(0.0, (scale * scale - 1) / 6)
    if variance < 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2], np.float32)
    reach = math.ceil(2.2 * math.sqrt(variance))
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return np.asarray(taps / taps.sum(), np.float32)


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    # One image a thread: OpenCV's own threads would only get into each other's way.
    cv2.setNumThreads(1)
    return cv2
