"""From encoded bytes to pixels."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "F")


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
      OSError: bytes that are no image, or an incomplete one.
    """
    picture: Image.Image
    if isinstance(image, bytes):
        picture = Image.open(io.BytesIO(image))
        picture.load()
    else:
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if channels is None:
        channels = 1 if picture.mode in _GREY_MODES else 3
    return picture if picture.mode == _MODES[channels] else picture.convert(_MODES[channels])


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
