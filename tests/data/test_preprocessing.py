"""`Preprocessing`: the published transforms' pixels, and the batch that a network takes."""

import dataclasses
import io
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.data import DataError, Preprocessing
from resnet_jax.data.transforms.normalization import CAFFE_DEVIATION, CAFFE_MEAN
from tests.data import published_transforms

# Landscape, portrait, elongated, smaller than the crop, tiny, and of the crop's own size.
SIZES = [(375, 500), (401, 297), (90, 260), (31, 20), (1, 7), (64, 64)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture_of(height, width, channels=3):
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_pixels_are_those_of_timm(size, interpolation, mode):
    picture = picture_of(*size)
    for image_size, share in itertools.product([(64, 64), (64, 48), (33, 56)], [0.875, 0.95, 1.0]):
        preprocessing = Preprocessing(
            image_size=image_size,
            crop_share=share,
            crop_mode=mode,
            interpolation=interpolation,
            mean=MEAN,
            std=STD,
        )
        expected = published_transforms.timm(picture, image_size, share, mode, interpolation, MEAN)
        transform = preprocessing.transform()
        assert transform.output_shape((None, None, 3)) == expected.shape
        np.testing.assert_array_equal(transform(np.asarray(picture)), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("resize", [256, 232])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_torchvision(size, resize, interpolation):
    picture = picture_of(*size)
    transform = Preprocessing(
        image_size=(224, 224), crop_share=224 / resize, interpolation=interpolation
    ).transform()
    expected = published_transforms.torchvision(picture, 224, resize, interpolation)
    np.testing.assert_array_equal(transform(np.asarray(picture)), expected)


def test_a_square_of_the_bilinear_filter_is_the_usual_transform():
    preprocessing = Preprocessing(image_size=(224, 224), mean=MEAN, std=STD)
    assert preprocessing.transform() == data.eval_transform("imagenet", 224, channels=3)
    assert Preprocessing().transform() == data.eval_transform("none", channels=3)


def test_a_share_that_is_a_quotient_of_pixels_gives_these_pixels():
    # 200 / (200 / 231) and many others are just below the integer.
    for size, resize in itertools.product(range(32, 400, 7), range(400)):
        if size <= resize:
            preprocessing = Preprocessing(image_size=(size, size), crop_share=size / resize)
            assert preprocessing.resize == (resize, resize)


def test_the_border_of_a_bgr_network_has_the_mean_colour_in_rgb():
    preprocessing = Preprocessing(
        image_size=(8, 8),
        crop_share=1.0,
        crop_mode="border",
        mean=CAFFE_MEAN,
        std=CAFFE_DEVIATION,
        channel_order="BGR",
    )
    pixels = preprocessing.transform()(np.asarray(picture_of(4, 8)))
    assert pixels[0, 0].tolist() == [124, 117, 104]
    np.testing.assert_array_equal(pixels[2:6], np.asarray(picture_of(4, 8)))
    grey = Preprocessing(
        image_size=(8, 8), crop_share=1.0, crop_mode="border", mean=(0.2,), std=(1.0,)
    )
    assert grey.transform()(np.asarray(picture_of(4, 8)))[0, 0].tolist() == [51]


def normalized(pixels, mean, std):
    return ((np.float64(pixels) / 255 - mean) / std).astype(np.float32)


def test_images_of_every_kind_give_the_same_batch(tmp_path):
    preprocessing = Preprocessing(image_size=(32, 32), mean=MEAN, std=STD)
    picture = picture_of(40, 51)
    pixels = np.asarray(picture)
    content = io.BytesIO()
    picture.save(content, "png")
    path = tmp_path / "image.png"
    path.write_bytes(content.getvalue())
    cropped = published_transforms.timm(picture, (32, 32), 0.875, "center", "bilinear", MEAN)
    expected = normalized(cropped, MEAN, STD)[np.newaxis]
    kinds = [path, str(path), content.getvalue(), picture, pixels, pixels[np.newaxis], [picture]]
    for images in kinds:
        batch = preprocessing(images)
        assert batch.dtype == jnp.float32
        np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-6)
    batch = preprocessing([*kinds[:5], [pixels, picture]])
    np.testing.assert_allclose(batch, np.repeat(expected, 7, axis=0), rtol=0, atol=1e-6)


def test_grey_transparent_and_palette_images_become_colour_and_colour_grey():
    preprocessing = Preprocessing(image_size=(8, 8), crop_share=1.0)
    colour = picture_of(8, 8)
    for picture in (colour.convert("L"), colour.convert("RGBA"), colour.convert("P")):
        expected = np.asarray(picture.convert("RGB"))[np.newaxis] / 255
        np.testing.assert_allclose(preprocessing(picture), expected, rtol=0, atol=1e-6)
    grey = np.asarray(colour.convert("L"))
    np.testing.assert_allclose(preprocessing(grey)[0, :, :, 1], grey / 255, rtol=0, atol=1e-6)
    to_grey = Preprocessing(image_size=(8, 8), crop_share=1.0, mean=(0.5,), std=(0.25,))
    expected = normalized(grey, 0.5, 0.25)[np.newaxis, :, :, np.newaxis]
    np.testing.assert_allclose(to_grey(colour), expected, rtol=0, atol=1e-6)


def test_bgr_and_mean_images():
    pixels = np.asarray(picture_of(8, 9))
    bgr = Preprocessing(mean=CAFFE_MEAN, std=CAFFE_DEVIATION, channel_order="BGR")
    expected = pixels[:, :, ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(bgr(pixels)[0], expected, rtol=0, atol=1e-4)
    caffe = data.make_normalization("caffe", 3)
    np.testing.assert_array_equal(bgr.normalization().mean, caffe.mean)
    assert Preprocessing().with_normalization(caffe).describe() == bgr.describe()

    mean = np.random.default_rng(0).uniform(size=(8, 9, 3)).astype(np.float32)
    per_pixel = Preprocessing(mean=mean)
    expected = normalized(pixels, mean, 1)
    np.testing.assert_allclose(per_pixel(pixels)[0], expected, rtol=0, atol=1e-6)
    assert Preprocessing().with_normalization(per_pixel.normalization()) == per_pixel
    with pytest.raises(DataError, match="the mean image has 8x9 pixels.*set image_size"):
        per_pixel(np.asarray(picture_of(9, 8)))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "images, message",
    [
        ("none.png", "cannot read none.png: No such file or directory; check the path"),
        (".", "cannot read .: Is a directory"),
        (b"no image", "the image cannot be used: it is not an image"),
        ([np.zeros((4, 4, 3), np.uint8), b""], "image 1 cannot be used"),
        (np.zeros((4, 4, 3)), "the image has float64 pixels of shape \\[4, 4, 3\\]; give uint8"),
        (np.zeros((4, 4, 2), np.uint8), "of shape \\[4, 4, 2\\]; give uint8"),
        (np.zeros(4, np.uint8), "give uint8"),
        ([], "images of one size are needed, not none"),
        ([3], "image 0 is a int; give a path"),
        ([np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], "not 4x5 and 5x4"),
    ],
    ids=str,
)
def test_what_is_no_image(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        Preprocessing()(images)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"interpolation": "bicubik"}, "unknown interpolation 'bicubik' .did you mean 'bicubic'"),
        ({"crop_mode": "middle"}, "unknown crop_mode 'middle'; choose from center, squash, border"),
        ({"channel_order": "rgb"}, "unknown channel_order 'rgb' .did you mean 'RGB'"),
        ({"crop_share": 0.0}, "crop_share is 0.0"),
        ({"crop_share": 1.1}, "crop_share is 1.1"),
        ({"crop_share": float("nan")}, "crop_share is nan"),
        ({"image_size": (224, 0)}, "image_size has 0 pixels"),
        ({"mean": (0.5,)}, "mean has 1 channels and std 3"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "finite numbers"),
    ],
    ids=str,
)
def test_values_that_make_no_sense(values, message):
    with pytest.raises(DataError, match=message):
        Preprocessing(**values)


RECORDS = [
    Preprocessing(),
    Preprocessing(
        image_size=(224, 288),
        crop_share=0.95,
        crop_mode="squash",
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        channel_order="BGR",
        class_names=("día", "noche"),
    ),
    Preprocessing(mean=np.random.default_rng(0).uniform(size=(4, 5, 3)).astype(np.float32)),
]


@pytest.mark.parametrize("record", RECORDS)
def test_records_are_equal_by_value_and_come_back_from_text(record):
    mean_image = record.mean if isinstance(record.mean, np.ndarray) else None
    text = record.to_json()
    assert Preprocessing.from_json(text, mean_image, source="a file") == record
    for field, value in {"crop_share": 0.5, "class_names": ("a",), "std": (2.0, 2.0, 2.0)}.items():
        assert dataclasses.replace(record, **{field: value}) != record
    assert sum(record == other for other in RECORDS) == 1
    with pytest.raises(ValueError, match="magic"):
        Preprocessing.from_json(text[:-1] + ', "magic": 1}', mean_image)
    with pytest.raises(ValueError):
        Preprocessing.from_json("3")


def test_the_line_that_describes_it():
    assert RECORDS[0].describe() == "images as they are, mean (0, 0, 0), std (1, 1, 1)"
    assert dataclasses.replace(RECORDS[1], source="timm's config.json").describe() == (
        "224x288 from 235x303, crop mode squash, bicubic, BGR, mean (0.485, 0.456, 0.406),"
        " std (0.229, 0.224, 0.225); from timm's config.json"
    )
    torchvision = Preprocessing(image_size=(224, 224), mean=MEAN, std=STD)
    assert torchvision.describe().startswith("224x224 from 256, bilinear, mean (0.485")
    whole = Preprocessing(image_size=(32, 32), crop_share=1.0, mean=RECORDS[2].mean)
    assert whole.describe() == "32x32, bilinear, the mean image, std (1, 1, 1)"
