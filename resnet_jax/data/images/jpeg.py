"""Decodes a crop of a JPEG faster than Pillow; for training only.

libjpeg-turbo decodes with its faster transform and chroma upsampling, only down to the crop's last
row, and at an eighth, a quarter or half of the size if the crop shrinks at least as much. OpenCV
resizes: a light blur followed by bilinear interpolation approximates Pillow's antialiasing.
`docs/data.md` states the pixels' deviation from Pillow's.

Files other than intact colour or grey JPEGs are left to Pillow (`None` is returned).
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from resnet_jax.data.images.decode import check_size

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels; may be fractional."""

_COLORSPACES = {"YCbCr": 3, "RGB": 3, "Gray": 1}

_SHARP = 1.35
"""Reduction factor below which, on average, a blur barely brings the pixels closer to Pillow's."""


class Header(NamedTuple):
    """The header of a JPEG.

    Attributes:
      height: height in pixels.
      width: width in pixels.
      channels: 1 or 3.
      height_at: offset of the height in the file, if rows at the bottom can be skipped.
    """

    height: int
    width: int
    channels: int
    height_at: int | None


def read_header(file: bytes) -> Header | None:
    """Returns the header of a JPEG that `decode_crop` can decode, or None.

    Raises:
      OSError: it states more than `MAX_PIXELS` pixels.
    """
    # Without an end marker it is incomplete, which the decoder misses if rows are skipped.
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
      box: the part to decode.
      size: height and width of the result.
      channels: 1 or 3.

    Returns:
      The pixels, or None if the file is damaged.
    """
    import simplejpeg

    left, top, right, bottom = box
    # A power of two: libjpeg-turbo has no fast code for other scales.
    shrink = min(8, 2 ** int(math.log2(max(1, min(right - left, bottom - top) / size))))
    height = header.height
    data: bytes | bytearray = file
    if header.height_at is not None:
        # Rows below the crop need no decoding: a smaller height in the header makes the decoder
        # stop. One more row of blocks leaves the crop's last rows unchanged.
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
            # Data after the last row is an error that the decoder can recover from.
            strict=height == header.height,
        )
    except ValueError:
        return None
    return resample(pixels, (left / shrink, top / shrink, right / shrink, bottom / shrink), size)


def _find_height(file: bytes) -> int | None:
    """Returns the offset of the height in a JPEG of a single sequential scan, otherwise None."""
    offset, height_at, components = 2, None, 0
    while offset + 10 < len(file) and file[offset] == 0xFF:
        marker = file[offset + 1]
        if marker in (0xC0, 0xC1):  # Baseline and extended sequential.
            height_at, components = offset + 5, file[offset + 9]
        elif marker == 0xDA:
            return height_at if file[offset + 4] == components else None
        offset += 2 + int.from_bytes(file[offset + 2 : offset + 4], "big")
    return None


def resample(
    pixels: UInt8[np.ndarray, "h w c"], box: Box, size: int
) -> UInt8[np.ndarray, "size size c"]:
    """Scales a part of an image to a square, bilinearly with antialiasing.

    Pillow's filter is a triangle two result pixels wide. Without reduction, plain bilinear
    interpolation uses the same triangle; with it, a preceding blur adds the missing variance
    `(scale**2 - 1) / 6`.
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
        # Maps pixel centres of the result to coordinates in the part.
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
    """Returns the blur kernel along one side that `scale` then reduces."""
    variance = max(0.0, (scale * scale - 1) / 6)
    if variance < 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2], np.float32)
    reach = math.ceil(2.2 * math.sqrt(variance))
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return np.asarray(taps / taps.sum(), np.float32)


@functools.cache
def _opencv() -> ModuleType:
    import cv2

    # Each loader thread handles one image; OpenCV's own threads would compete with them.
    cv2.setNumThreads(1)
    return cv2
