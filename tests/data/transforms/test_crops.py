import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnet_jax.data import DataError, eval_transform, train_transform
from resnet_jax.data.transforms.crops import RandomResizedCrop, RandomScaleCrop, scaled_size

N = 10_000
ALMOST_ONE = np.nextafter(1.0, 0.0)


def picture_of(seed, height, width):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def assert_uniform(values, low, high):
    """Kolmogorov and Smirnov's test, which is passed once in a million."""
    place = np.sort((np.asarray(values, np.float64) - low) / (high - low))
    assert np.abs(place - (np.arange(len(place)) + 0.5) / len(place)).max() < 2.7 / np.sqrt(
        len(place)
    )


def assert_equally_likely(values, count):
    """Pearson's test over whole numbers from 0; the normal bound is passed once in a million."""
    seen = np.bincount(values, minlength=count)
    assert len(seen) == count
    statistic = ((seen - len(values) / count) ** 2 / (len(values) / count)).sum()
    freedom = count - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def reference_box(height, width, rng):
    """torchvision's RandomResizedCrop.get_params, with a NumPy generator of its own."""
    area = height * width
    for _ in range(10):
        target = area * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(target * aspect)), round(np.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return left, top, left + w, top + h
    ratio = width / height
    if ratio < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif ratio > 4 / 3:
        w, h = round(height * (4 / 3)), height
    else:
        w, h = width, height
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


# imagenet


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (100, 400)])
def test_random_resized_crops_are_distributed_as_torchvisions(height, width):
    """Area, aspect and place of 10,000 crops against those of the reference: two samples."""
    transform = RandomResizedCrop(image_size=224)
    rng = np.random.default_rng(0)
    ours = np.array([transform.box(height, width, rng.random(23)) for _ in range(N)], np.float64)
    theirs = np.array([reference_box(height, width, rng) for _ in range(N)], np.float64)

    def described(boxes):
        left, top, right, bottom = boxes.T
        return {
            "area": (right - left) * (bottom - top),
            "aspect": (right - left) / (bottom - top),
            "horizontal centre": left + right,
            "vertical centre": top + bottom,
        }

    ours, theirs = described(ours), described(theirs)
    for name in ours:
        points = np.sort(np.concatenate([ours[name], theirs[name]]))
        below = [
            np.searchsorted(np.sort(values[name]), points, side="right") / N
            for values in (ours, theirs)
        ]
        # Kolmogorov and Smirnov for two samples: passed once in a million.
        assert np.abs(below[0] - below[1]).max() < 2.7 * np.sqrt(2 / N), name


def test_random_resized_crop_draws_what_it_says():
    """Where every draw fits, area and the logarithm of the aspect are uniform, and so is place."""
    transform = RandomResizedCrop(image_size=224, scale=(0.08, 0.5))
    rng = np.random.default_rng(1)
    boxes = np.array([transform.box(4000, 4000, rng.random(23)) for _ in range(N)])
    left, top, right, bottom = boxes.T
    width, height = right - left, bottom - top
    assert_uniform(width * height / 16e6, 0.08, 0.5)
    assert_uniform(np.log(width / height), -np.log(4 / 3), np.log(4 / 3))
    assert_uniform((left + rng.random(N)) / (4000 - width + 1), 0, 1)
    assert_uniform((top + rng.random(N)) / (4000 - height + 1), 0, 1)


@pytest.mark.parametrize("name", ["imagenet", "imagenet_paper"])
def test_half_of_the_crops_are_mirrored(name):
    transform = train_transform(name, 8, channels=1)
    ramp = np.tile(np.arange(40, dtype=np.uint8)[:, np.newaxis], (40, 1, 1))
    rng = np.random.default_rng(2)
    n = 2000
    mirrored = 0
    for _ in range(n):
        out = transform(ramp, rng.random(transform.num_uniforms))[0, :, 0].astype(int)
        mirrored += out[-1] < out[0]
    assert abs(mirrored / n - 0.5) < 5 * 0.5 / np.sqrt(n)


# imagenet_paper


def test_the_papers_scale_and_place_are_uniform():
    """Section 3.4: shorter side in [256, 480], a random 224 x 224 crop of that."""
    transform = train_transform("imagenet_paper", 224)
    assert transform.shorter_side == (256, 480)
    rng = np.random.default_rng(3)
    uniforms = rng.random((N, 4))
    boxes = np.array([transform.box(300, 400, row) for row in uniforms])
    left, top, right, bottom = boxes.T
    side = np.rint(224 * 300 / (bottom - top)).astype(int)
    assert_equally_likely(side - 256, 225)
    rows = np.rint(top * side / 300).astype(int)
    columns = np.rint(left * side / 300).astype(int)
    # The places for one side are equally likely: together with a random fraction, uniform.
    assert_uniform((rows + rng.random(N)) / (side - 224 + 1), 0, 1)
    assert_uniform((columns + rng.random(N)) / (side * 400 // 300 - 224 + 1), 0, 1)


@given(height=st.integers(1, 700), width=st.integers(1, 700), seed=st.integers(0, 2**32 - 1))
def test_the_papers_crop_lies_in_the_image(height, width, seed):
    uniforms = np.random.default_rng(seed).random(4)
    for row in (uniforms, np.full(4, ALMOST_ONE), np.zeros(4)):
        left, top, right, bottom = train_transform("imagenet_paper", 64).box(height, width, row)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


@pytest.mark.parametrize(("height", "width"), [(50, 83), (97, 61), (64, 64)])
@pytest.mark.parametrize("side", [40, 47, 64, 75])
def test_the_papers_crop_is_torchvisions_resize_and_crop(height, width, side):
    """Resize(side), then RandomCrop: the whole image is scaled and a square is cut from it."""
    picture = picture_of(height, height, width)
    transform = RandomScaleCrop(image_size=35, shorter_side=(40, 75), channels=3)
    if height < width:
        scaled = picture.resize((int(side * width / height), side), Image.Resampling.BILINEAR)
    else:
        scaled = picture.resize((side, int(side * height / width)), Image.Resampling.BILINEAR)
    rng = np.random.default_rng(side)
    for mirror in (0.2, 0.9):
        uniforms = rng.random(4)
        uniforms[0], uniforms[3] = (side - 40 + 0.5) / 36, mirror
        top = int(uniforms[1] * (scaled.height - 35 + 1))
        left = int(uniforms[2] * (scaled.width - 35 + 1))
        expected = np.asarray(scaled.crop((left, top, left + 35, top + 35)), np.int32)
        expected = expected[:, ::-1] if mirror < 0.5 else expected
        out = transform(np.asarray(picture), uniforms)
        # Pillow computes a pixel's weights from its place, which is rounded otherwise.
        assert np.abs(out - expected).max() <= 1


def test_the_papers_range_goes_with_the_crop():
    assert train_transform("imagenet_paper", 112).shorter_side == (128, 240)
    assert eval_transform("imagenet_paper", 224) == eval_transform("imagenet", 224)
    with pytest.raises(DataError, match="crop of 224 does not fit into shorter sides from 200 to"):
        RandomScaleCrop(image_size=224, shorter_side=(200, 480))
    with pytest.raises(DataError, match="'imagenet_paper' needs an image_size"):
        train_transform("imagenet_paper")


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.integers(1, 600))
def test_scaled_sizes_are_torchvisions(height, width, side):
    """torchvision's _compute_resized_output_size for one number."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = side, int(side * long / short)
    expected = (new_short, new_long) if width <= height else (new_long, new_short)
    assert scaled_size(height, width, side) == expected[::-1]


def test_jpegs_take_the_fast_way_in_training_only():
    buffer = io.BytesIO()
    small = picture_of(0, 9, 12).resize((160, 120), Image.Resampling.BICUBIC)
    small.save(buffer, "jpeg", quality=90)
    file = buffer.getvalue()
    pixels = np.asarray(Image.open(io.BytesIO(file)))
    uniforms = np.random.default_rng(4).random(23)
    exact = train_transform("imagenet", 32, channels=3, fast=False)
    np.testing.assert_array_equal(exact(file, uniforms), exact(pixels, uniforms))
    fast = train_transform("imagenet", 32, channels=3)
    assert (fast(file, uniforms) != exact(file, uniforms)).any()
    np.testing.assert_array_equal(fast(pixels, uniforms), exact(pixels, uniforms))
    for name in ("imagenet", "imagenet_paper"):
        final = eval_transform(name, 32, channels=3)
        np.testing.assert_array_equal(final(file), final(pixels))
