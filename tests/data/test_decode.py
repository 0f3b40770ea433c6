import io

import numpy as np
import pytest
from PIL import Image

from resnet_jax.data.decode import decode_image, open_image

from .tfds_files import encode


def random_image(seed, height, width, channels):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def saved(picture, encoding):
    buffer = io.BytesIO()
    picture.save(buffer, encoding)
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_array_come_back_unchanged(channels):
    image = random_image(0, 5, 7, channels)
    for asked in (None, channels):
        np.testing.assert_array_equal(decode_image(encode(image), asked), image)
        assert decode_image(image, asked) is image


@pytest.mark.parametrize("encoded", [False, True])
def test_grey_becomes_three_equal_channels(encoded):
    image = random_image(1, 4, 6, 1)
    colour = decode_image(encode(image) if encoded else image, 3)
    np.testing.assert_array_equal(colour, np.repeat(image, 3, axis=2))


@pytest.mark.parametrize("encoded", [False, True])
def test_colour_becomes_luma(encoded):
    image = random_image(2, 4, 6, 3)
    grey = decode_image(encode(image) if encoded else image, 1)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (4, 6, 1)
    # Pillow rounds in 16-bit fixed point.
    assert np.abs(grey[:, :, 0] - luma).max() < 0.502


def test_cmyk_palette_and_transparency_become_rgb():
    image = random_image(3, 8, 8, 3)
    picture = Image.fromarray(image)
    for file in (saved(picture.convert("CMYK"), "jpeg"), saved(picture.convert("P"), "png")):
        assert decode_image(file, 3).shape == (8, 8, 3)
        assert decode_image(file).shape == (8, 8, 3)
    transparent = saved(Image.fromarray(np.dstack([image, image[:, :, 0]])), "png")
    np.testing.assert_array_equal(decode_image(transparent, 3), image)
    assert decode_image(transparent, 4).shape == (8, 8, 4)


@pytest.mark.parametrize("file", [b"", b"no image", encode(random_image(4, 64, 64, 3))[:-500]])
def test_what_is_no_image_raises(file):
    with pytest.raises(OSError):
        open_image(file)
