"""From encoded bytes to pixels, exactly as torchvision's default loader has them.

That is Pillow's `Image.open(file).convert("RGB")`, whatever the file holds and however it is named:
a baseline or progressive JPEG, a PNG that is called `.JPEG`, CMYK (Adobe's inverted one, too),
grey, a palette, transparency (dropped), 1 or 16 bits a channel (grey ones above 255 are clipped).
The orientation that a camera notes in EXIF is not applied.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2 * 89_478_485
"""Pixels above which an image is refused by its header: Pillow's limit, half a gigabyte of RGB."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "F")


def open_image(
    image: bytes | UInt8[np.ndarray, "h w c"], channels: int | None = None
) -> Image.Image:
    """Returns an image as Pillow's, with the number of channels asked for.

    Grey becomes three equal channels and colour becomes its luma (ITU-R 601, as Pillow and
    torchvision have it); CMYK and palettes become RGB. Encoded bytes are decoded here.

    Args:
      image: a file of any format that Pillow reads, or an array of 1, 3 or 4 channels.
      channels: 1, 3 or 4; None for 1 where the image is grey and 3 where it is not.

    Raises:
      OSError: bytes that are no image, an incomplete one, or one of more than `MAX_PIXELS`, which
        is refused before memory is taken for it.
    """
    if not isinstance(image, bytes):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        return _convert(picture, channels)
    try:
        picture = Image.open(io.BytesIO(image))
        check_size(picture.height, picture.width)
        picture.load()
        return _convert(picture, channels)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more than the {MAX_PIXELS} pixels that are decoded") from error
    except UnidentifiedImageError as error:
        raise OSError("it is no image, or of a format that Pillow does not read") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them.
        raise OSError(f"it cannot be decoded: {error or type(error).__name__}") from error


def check_size(height: int, width: int) -> None:
    """Raises an `OSError` if an image is, or is to be, of more than `MAX_PIXELS`."""
    if height * width > MAX_PIXELS:
        raise OSError(
            f"it has {width}x{height} pixels, more than the {MAX_PIXELS} that are decoded"
        )


def to_array(picture: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of a Pillow image of mode L, RGB or RGBA as a read-only array."""
    pixels = np.asarray(picture)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels


def decode_image(
    image: bytes | UInt8[np.ndarray, "h w c"], channels: int | None = None
) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of an image with the number of channels asked for.

    An array that has them already is returned as it is. See `open_image`.
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
        # It changes no pixel of these, but Pillow warns where it cannot keep it.
        picture.info.pop("transparency", None)
    return picture.convert(mode)
