import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_jax import data
from resnet_jax.data.images import jpeg
from resnet_jax.data.images.decode import open_image

UNIFORMS = {"imagenet": 23, "imagenet_paper": 4}


def photograph(seed, height, width):
    """Noise of all scales, as photographs have it."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for octave in range(6):
        size = [max(2, side >> (5 - octave)) for side in (height, width)]
        small = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
        image += 0.6**octave * np.asarray(
            small.resize((width, height), Image.Resampling.BICUBIC), np.float64
        )
    return Image.fromarray((image / 2.4).clip(0, 255).astype(np.uint8))


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=90, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files():
    return [encoded(photograph(i, 150 + 31 * i, 260 - 17 * i)) for i in range(6)]


def difference(left, right):
    return np.abs(left.astype(np.int32) - right).mean()


@pytest.mark.parametrize("name", UNIFORMS)
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_crops_are_nearly_the_exact_ones(files, name, channels):
    """Mean difference over images and draws, in steps of 255; and never a shifted image."""
    fast, exact = (
        data.train_transform(name, 64, channels=channels, fast=fast) for fast in (True, False)
    )
    rng = np.random.default_rng(0)
    differences = []
    for file in files * 10:
        uniforms = rng.random(fast.num_uniforms)
        one, other = fast(file, uniforms), exact(file, uniforms)
        assert one.shape == other.shape == (64, 64, channels)
        shifted = min(difference(one[:, 1:], other[:, :-1]), difference(one[1:], other[:-1]))
        assert difference(one, other) < 0.7 * shifted
        differences.append(difference(one, other))
    assert np.mean(differences) < 2.0 and max(differences) < 4.0


def test_evaluation_is_exact(files):
    transform = data.eval_transform("imagenet", 64, channels=3)
    for file in files:
        picture = open_image(file, 3)
        np.testing.assert_array_equal(transform(file), transform(np.asarray(picture)))


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), progressive=st.booleans(), subsampling=st.integers(0, 2))
def test_rows_below_the_crop_change_nothing(seed, progressive, subsampling):
    """Decoded to the crop's last rows or to the image's: the same pixels, bit for bit."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 200, 2).tolist()
    file = encoded(
        photograph(seed, height, width), progressive=progressive, subsampling=subsampling
    )
    header = jpeg.read_header(file)
    assert (header.height, header.width, header.channels) == (height, width, 3)
    assert (header.height_at is None) == progressive
    bottom = int(rng.integers(2, height + 1))
    top = int(rng.integers(0, bottom - 1))
    box = (0, top, width, bottom)
    size = int(rng.integers(8, 48))
    whole = header._replace(height_at=None)
    np.testing.assert_array_equal(
        jpeg.decode_crop(file, header, box, size, 3), jpeg.decode_crop(file, whole, box, size, 3)
    )


@pytest.mark.parametrize("scale", [0.4, 0.9, 1.0, 1.3, 1.7, 2.0, 2.6])
def test_resample_is_bilinear_with_antialiasing(scale):
    pixels = np.asarray(photograph(1, 300, 300))
    side = int(64 * scale)
    for left, top in ((0, 0), (37, 11), (300 - side, 300 - side)):
        box = (left, top, left + side, top + side)
        expected = Image.fromarray(pixels).crop(box).resize((64, 64), Image.Resampling.BILINEAR)
        out = jpeg.resample(pixels, box, 64)
        assert out.shape == (64, 64, 3) and out.dtype == np.uint8
        assert difference(out, np.asarray(expected)) < (0.3 if scale in (1, 2) else 1.6)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4, 2.2])
def test_resample_takes_places_between_pixels(scale):
    pixels = np.asarray(photograph(2, 220, 200))
    rng = np.random.default_rng(0)
    for _ in range(10):
        left, top = rng.random(2) * (199 - 64 * scale)
        box = (left, top, left + 64 * scale, top + 64 * scale)
        expected = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BILINEAR, box=box)
        # warpAffine knows 32 places between two pixels.
        assert difference(jpeg.resample(pixels, box, 64), np.asarray(expected)) < 2.0


def test_large_images_are_decoded_small(files, monkeypatch):
    """A crop that shrinks by 2 is decoded at half the size, by 4 at a quarter, no further down."""
    import simplejpeg

    sizes = []

    def decode(*arguments, **options):
        pixels = original(*arguments, **options)
        sizes.append(pixels.shape)
        return pixels

    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    file = encoded(photograph(3, 500, 400))
    header = jpeg.read_header(file)
    exact = open_image(file, 3)
    for box, expected in (
        ((0, 0, 400, 500), (125, 100)),
        ((0, 0, 400, 64), (80, 400)),
        ((3, 5, 203, 205), (112, 200)),
    ):
        out = jpeg.decode_crop(file, header, box, 64, 3)
        reference = exact.crop(box).resize((64, 64), Image.Resampling.BILINEAR)
        assert difference(out, np.asarray(reference)) < 3
        assert sizes.pop()[:2] == expected


@pytest.mark.parametrize("channels", [1, 3])
def test_mirror(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    np.testing.assert_array_equal(jpeg.mirror(pixels), pixels[:, ::-1], strict=True)


def test_what_is_not_a_plain_jpeg_is_left_to_pillow(files):
    picture = photograph(4, 40, 40)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    cut = files[0][: len(files[0]) // 2]
    for file in (buffer.getvalue(), encoded(picture.convert("CMYK")), cut, b"", b"\xff\xd8\xff"):
        assert jpeg.read_header(file) is None
    grey = jpeg.read_header(encoded(picture.convert("L")))
    assert grey.channels == 1
    # A cut file is refused by Pillow, not filled with grey.
    transform = data.train_transform("imagenet", 16, channels=3)
    with pytest.raises(OSError):
        transform(cut, np.full(23, 0.5))


def test_a_cut_file_with_an_end_marker_is_no_bad_image(files):
    """Nothing says of such a file that it was cut: Pillow makes the lower rows grey."""
    file = files[0][: len(files[0]) // 2] + b"\xff\xd9"
    assert jpeg.read_header(file) is not None
    uniforms = np.full(23, 0.5)
    random = data.train_transform("imagenet", 16, channels=3)(file, uniforms)
    pixels = np.asarray(open_image(file, 3))
    assert random.shape == (16, 16, 3) and (pixels[-8:] == 128).all() and (pixels[:8] != 128).any()


def test_the_same_draw_gives_the_same_pixels(files):
    transform = data.train_transform("imagenet", 48, channels=3)
    uniforms = np.random.default_rng(1).random(23)
    np.testing.assert_array_equal(transform(files[0], uniforms), transform(files[0], uniforms))
