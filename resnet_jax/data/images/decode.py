"""Decoding of image files, pixel for pixel as in torchvision's default loader.

It equals Pillow's `Image.open(file).convert("RGB")` for any content and file name: baseline and
progressive JPEGs, PNGs named `.JPEG`, CMYK (also Adobe's inverted form), greyscale, palettes,
transparency (dropped), 1 or 16 bits per channel (grey values above 255 are clipped). The EXIF
orientation is not applied.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2 * 89_478_485
"""Maximum number of pixels, checked in the header: Pillow's limit, half a gigabyte of RGB."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "F")


def open_image(
    image: bytes | Image.Image | UInt8[np.ndarray, "h w c"], channels: int | None = None
) -> Image.Image:
    """Returns a Pillow image with a number of channels; decodes encoded bytes.

    Grey becomes three equal channels, colour becomes luma (ITU-R 601, as in Pillow and
    torchvision), CMYK and palettes become RGB.

    Args:
      image: a file in any format that Pillow reads, a Pillow image, or an array with 1, 3 or 4
        channels.
      channels: 1, 3 or 4; None for 1 if the image is grey, otherwise 3.

    Raises:
      OSError: the bytes are not an image, are incomplete, or have more than `MAX_PIXELS` pixels;
        the latter are refused before memory is allocated.
    """
    if isinstance(image, np.ndarray):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        return _convert(picture, channels)
    try:
        picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image.copy()
        check_size(picture.height, picture.width)
        picture.load()
        return _convert(picture, channels)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more pixels than the limit of {MAX_PIXELS}") from error
    except UnidentifiedImageError as error:
        raise OSError("it is not an image in a format that Pillow reads") from error
    except Exception as error:  # Damaged files make Pillow raise any exception.
        raise OSError(f"it cannot be decoded: {error or type(error).__name__}") from error


def check_size(height: int, width: int) -> None:
    """Raises an `OSError` if an image has, or would get, more than `MAX_PIXELS` pixels."""
    if height * width > MAX_PIXELS:
        raise OSError(f"it has {width}x{height} pixels, more than the limit of {MAX_PIXELS}")


def to_array(picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of a Pillow image of mode L, RGB or RGBA as a read-only array."""
    pixels = np.asarray(picture)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def decode_image(
    image: bytes | UInt8[np.ndarray, "h w c"], channels: int | None = None
) -> UInt8[np.ndarray, "h w C"]:
    """Returns the pixels of an image with a number of channels, see `open_image`.

    An array that already has them is returned unchanged.
    """
    if not isinstance(image, bytes) and channels in (None, image.shape[2]):
        return image
    return to_array(open_image(image, channels))


def _convert(picture: Image.Image, channels: int | None) -> Image.Image:
    if channels is None:
        channels = 1 if picture.mode in _GREY_MODES else 3
    mode = _MODES[channels]
    if picture.mode == mode:
        return picture
    if mode != "RGBA":
        # It changes no pixel of these modes, but Pillow warns if it cannot keep it.
        picture.info.pop("transparency", None)
    return picture.convert(mode)
