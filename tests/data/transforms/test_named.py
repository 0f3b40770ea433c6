import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_jax.data import DataError, eval_transform, train_transform
from resnet_jax.data.transforms.crops import RandomResizedCrop
from resnet_jax.data.transforms.named import PadCropMirror
from tests.data.tfds_files import encode

ALMOST_ONE = np.nextafter(1.0, 0.0)


def random_images(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pad_crop_mirror(image, uniforms, padding, fill):
    """The augmentation of Section 4.2 of the paper, an image at a time."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.uint8) + fill
    padded[padding:-padding, padding:-padding] = image
    top, left = (int(u * (2 * padding + 1)) for u in uniforms[:2])
    crop = padded[top : top + height, left : left + width]
    return crop[:, ::-1] if uniforms[2] < 0.5 else crop


def resized(image, height, width):
    """An image scaled by Pillow, bilinear with antialiasing."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return pixels.reshape(height, width, -1)


# none


@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_none_keeps_images_as_they_are(make):
    transform = make("none", 5)
    images = random_images(0, 4, 5, 5, 3)
    assert transform.num_uniforms == 0
    assert transform.output_shape((5, 5, 3)) == (5, 5, 3)
    np.testing.assert_array_equal(transform(images[0]), images[0])
    np.testing.assert_array_equal(transform(encode(images[0])), images[0])
    np.testing.assert_array_equal(transform.batch(images, np.empty((4, 0))), images)


def test_cifar_is_evaluated_as_it_is():
    assert eval_transform("cifar", 32) == eval_transform("none", 32)


# cifar


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (7, 5, 3)])
@pytest.mark.parametrize("fill", [0, 127])
def test_cifar_pads_crops_and_mirrors(shape, fill):
    transform = PadCropMirror(fill=fill)
    images = random_images(1, 64, *shape)
    uniforms = np.random.default_rng(2).random((64, 3))
    uniforms[:2] = [[0, 0, 0], [ALMOST_ONE] * 3]
    assert transform.output_shape(shape) == shape
    expected = [pad_crop_mirror(*pair, 4, fill) for pair in zip(images, uniforms, strict=True)]
    np.testing.assert_array_equal(transform.batch(images, uniforms), expected)
    for image, row, one in zip(images[:5], uniforms, expected, strict=False):
        np.testing.assert_array_equal(transform(image, row), one)
        np.testing.assert_array_equal(transform(encode(image), row), one)


def test_cifar_fill_may_differ_by_channel():
    transform = PadCropMirror(fill=(125, 123, 114), padding=2)
    images, uniforms = random_images(3, 9, 6, 6, 3), np.random.default_rng(4).random((9, 3))
    expected = [
        pad_crop_mirror(*pair, 2, np.array([125, 123, 114], np.uint8))
        for pair in zip(images, uniforms, strict=True)
    ]
    np.testing.assert_array_equal(transform.batch(images, uniforms), expected)


def test_cifar_crops_are_equally_likely():
    # One bright pixel in the middle shows where the crop lies, and two columns if it is mirrored.
    n = 8100
    images = np.zeros((n, 11, 11, 1), np.uint8)
    images[:, 5, 5], images[:, 5, 6] = 255, 128
    out = train_transform("cifar").batch(images, np.random.default_rng(5).random((n, 3)))[..., 0]
    _, row, column = np.nonzero(out == 255)
    _, _, neighbour = np.nonzero(out == 128)
    mirrored = neighbour < column
    counts = np.histogram2d(row, column, bins=(9, 9))[0]
    # chi-squared with 80 degrees of freedom: 153 is passed once in a million.
    assert ((counts - n / 81) ** 2 / (n / 81)).sum() < 153
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)


# imagenet, training


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_imagenet_box_lies_in_the_image(height, width, seed):
    uniforms = np.random.default_rng(seed).random(23)
    left, top, right, bottom = RandomResizedCrop(image_size=8).box(height, width, uniforms)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_imagenet_box_by_hand():
    transform = RandomResizedCrop(image_size=8)
    uniforms = np.full(23, 0.5)
    # Area 0.54 of 100x200, aspect 1: a square with a side of sqrt(10800) = 103.9 is too high.
    # All ten tries are the same, so the largest centred part of aspect 4/3 is taken.
    assert transform.box(100, 200, uniforms) == (33, 0, 166, 100)
    assert transform.box(200, 100, uniforms) == (0, 33, 100, 166)
    # Third try: area 0.08 + 0.92 * 0.25 = 0.31 of it, aspect 3/4 (u = 0): 68.2 x 90.9.
    uniforms[4:6] = 0.25, 0.0
    # top = int(0.5 * (100 - 91 + 1)), left = int(0.5 * (200 - 68 + 1)).
    assert transform.box(100, 200, uniforms) == (66, 5, 66 + 68, 5 + 91)
    # Edges: the last position that there is.
    uniforms[20:22] = ALMOST_ONE
    assert transform.box(100, 200, uniforms) == (132, 9, 200, 100)
    # The whole of a square.
    uniforms[0:2] = ALMOST_ONE, 0.5
    assert transform.box(60, 60, uniforms) == (0, 0, 60, 60)


def test_imagenet_area_and_aspect_are_distributed_as_said():
    transform = RandomResizedCrop(image_size=8, scale=(0.1, 0.5))
    rng = np.random.default_rng(6)
    boxes = np.array([transform.box(3000, 3000, rng.random(23)) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height / 9e6
    aspect = np.log(width / height) / np.log(4 / 3)
    for values, low, high in ((area, 0.1, 0.5), (aspect, -1, 1)):
        place = np.sort((values - low) / (high - low))
        # Kolmogorov and Smirnov: passed once in a million.
        assert np.abs(place - (np.arange(2000) + 0.5) / 2000).max() < 2.7 / np.sqrt(2000)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mirror", [0.2, 0.5])
def test_imagenet_cuts_scales_and_mirrors(channels, mirror):
    transform = train_transform("imagenet", 24)
    assert transform.output_shape((None, None, channels)) == (24, 24, channels)
    image = random_images(7, 61, 83, channels)
    uniforms = np.random.default_rng(8).random(transform.num_uniforms)
    uniforms[22] = mirror
    left, top, right, bottom = transform.box(61, 83, uniforms)
    expected = resized(image[top:bottom, left:right], 24, 24)
    expected = expected[:, ::-1] if mirror < 0.5 else expected
    np.testing.assert_array_equal(transform(image, uniforms), expected)
    np.testing.assert_array_equal(transform(encode(image), uniforms), expected)
    np.testing.assert_array_equal(transform.batch(image[None], uniforms[None]), expected[None])


# imagenet, evaluation


@pytest.mark.parametrize(
    ("height", "width", "scaled", "top", "left"),
    [
        (60, 80, (32, 42), 2, 7),  # 32 * 80 / 60 = 42.67 is rounded down.
        (80, 60, (42, 32), 7, 2),
        (32, 51, (32, 51), 2, 12),  # No scaling. (51 - 28) / 2 = 11.5 is rounded to even.
        (33, 33, (32, 32), 2, 2),
        (9, 17, (32, 60), 2, 16),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_imagenet_is_evaluated_on_the_centre(height, width, scaled, top, left, channels):
    transform = eval_transform("imagenet", 28)  # Shorter side 28 * 8 / 7 = 32.
    assert transform.num_uniforms == 0
    image = random_images(9, height, width, channels)
    whole = image if scaled == (height, width) else resized(image, *scaled)
    expected = whole[top : top + 28, left : left + 28]
    np.testing.assert_array_equal(transform(image), expected)
    np.testing.assert_array_equal(transform(encode(image)), expected)


def test_imagenet_default_is_the_papers():
    assert eval_transform("imagenet", 224) == eval_transform("imagenet", 224, resize=256)


# all


@pytest.mark.parametrize("name", ["none", "cifar", "imagenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_converted(name, channels):
    image = random_images(10, 12, 12, 4 - channels)
    for make in (train_transform, eval_transform):
        transform = make(name, 12, channels=channels)
        uniforms = np.random.default_rng(11).random(transform.num_uniforms)
        assert transform.output_shape((12, 12, 4 - channels)) == (12, 12, channels)
        out = transform(image, uniforms)
        assert out.shape == (12, 12, channels)
        np.testing.assert_array_equal(transform.batch(image[None], uniforms[None]), out[None])
        np.testing.assert_array_equal(transform(encode(image), uniforms), out)


@pytest.mark.parametrize("name", ["none", "cifar", "imagenet"])
def test_images_are_not_changed_in_place(name):
    transform = train_transform(name, 16)
    images = random_images(12, 5, 16, 16, 3)
    before = images.copy()
    transform.batch(images, np.random.default_rng(13).random((5, transform.num_uniforms)))
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: train_transform("cifra", 32), r"'cifra' \(did you mean 'cifar'\?\)"),
        (lambda: eval_transform("imagent", 224), "did you mean 'imagenet'"),
        (lambda: train_transform("imagenet"), "needs an image_size"),
        (lambda: eval_transform("imagenet"), "needs an image_size"),
        (lambda: train_transform("none", 0), "image_size is 0"),
        (lambda: train_transform("none", channels=2), "2 channels"),
        (lambda: eval_transform("imagenet", 224, 200), "crop of 224 does not fit .* 200"),
        (lambda: train_transform("none").output_shape((None, None, 3)), "choose .*'imagenet'"),
        (lambda: train_transform("cifar").output_shape((None, 32, 3)), "choose .*'imagenet'"),
        (lambda: train_transform("cifar", 32).output_shape((28, 28, 1)), "set image_size=28"),
        (
            lambda: eval_transform("none", 32).output_shape((32, 30, 1)),
            "image_size is 32 .*32x30 .*omit",
        ),
    ],
)
def test_errors_name_the_remedy(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_transforms_are_values():
    transform = train_transform("cifar", 32)
    assert transform == train_transform("cifar", 32)
    assert dataclasses.replace(transform, channels=1) == train_transform("cifar", 32, channels=1)
