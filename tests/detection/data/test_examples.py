"""The check of boxes, and what a source of annotated images gives."""

import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.detection.data.examples import (
    AnnotatedImages,
    Annotations,
    DetectionSource,
    checked,
    image_size,
)
from resnet_jax.detection.data.folders import make_truth
from resnet_jax.detection.data.opening import joined
from tests.data.tfds_files import encode
from tests.detection.data.box_files import pixels

NAN, INFINITY = math.nan, math.inf


def truth(*boxes, labels=None, name="photo.jpg", height=40, width=60, **options):
    labels = [0] * len(boxes) if labels is None else labels
    return make_truth(boxes, labels, height=height, width=width, image_id=1, name=name, **options)


def check(*truths, class_names=("cat", "dog"), **options):
    return checked(
        Annotations.stack(truths), class_names=class_names, split="train", name="pets", **options
    )


def as_xml(name):
    return name.replace("jpg", "xml")


BAD = [
    ((10, 20, 22, 20), "is 12 px wide and 0 high"),
    ((10, 20, 10, 25), "is 0 px wide and 5 high"),
    ((10, 20, 5, 25), "is -5 px wide and 5 high"),
    ((60, 0, 70, 5), "is outside the image of 60x40 px: x from 60 to 70, y from 0 to 5"),
    ((0, 40, 5, 45), "is outside the image of 60x40 px: x from 0 to 5, y from 40 to 45"),
    ((-9, 0, -1, 5), "is outside the image of 60x40 px: x from -9 to -1, y from 0 to 5"),
    ((NAN, 0, 5, 5), "has a coordinate that is not a finite number: nan, 0, 5, 5"),
    ((0, 0, INFINITY, 5), "has a coordinate that is not a finite number: 0, 0, inf, 5"),
    ((0, 0, 1e300, -1e300), "is 1e+300 px wide and -1e+300 high"),
    ((1e300, 0, 1e308, 5), "px wide and 5 high"),
    ((70, 0, 1e300, 5), "is outside the image of 60x40 px: x from 70 to 1e+300, y from 0 to 5"),
    ((59.9999999, 0, 60, 5), "is 1e-07 px wide and 5 high"),
]


@pytest.mark.parametrize(("box", "reason"), BAD)
def test_a_box_that_cannot_be_used(box, reason):
    truths = [truth((0, 0, 9, 9), name="other.jpg"), truth((1, 1, 5, 5), (2, 2, 6, 6), box)]
    message = rf"box 3 of photo\.xml .*{re.escape(reason)}; remove it, or set config\.on_bad_box="
    with pytest.raises(data.DataError, match=message):
        check(*truths, class_names=["cat"], place=as_xml)
    annotations, notices = check(*truths, class_names=["cat"], on_bad_box="skip", place=as_xml)
    assert len(notices) == 1
    assert re.fullmatch(
        rf"pets: 1 box of 'train' left out, because box 3 of photo\.xml .*{re.escape(reason)}",
        notices[0],
    )
    np.testing.assert_array_equal(annotations.truth(1).boxes, [[1, 1, 5, 5], [2, 2, 6, 6]])
    np.testing.assert_array_equal(annotations.truth(0).boxes, [[0, 0, 9, 9]])


def test_skipped_boxes_are_counted():
    bad = [(10, 20, 22, 20)] * 3
    _, notices = check(truth((0, 0, 5, 5), *bad), on_bad_box="skip")
    assert "3 boxes of 'train' left out, because box 2 of photo.jpg" in notices[0]
    assert notices[0].endswith("(and 2 more)")


def test_on_bad_box_has_two_values():
    with pytest.raises(data.DataError, match="on_bad_box is 'ignore'; choose from error, skip"):
        check(truth((0, 0, 5, 5)), on_bad_box="ignore")


def test_boxes_that_jut_out_are_clipped():
    annotations, notices = check(
        truth((0, 0, 60.5, 40)), truth((-4, -3, 70, 50), name="wide.jpg"), class_names=["cat"]
    )
    np.testing.assert_array_equal(annotations.boxes, [[0, 0, 60, 40], [0, 0, 60, 40]])
    assert annotations.boxes.dtype == np.float32
    # Half a pixel is rounding and not worth a line.
    assert notices == ("pets: 1 box of 'train' clipped to the image, first in wide.jpg",)


def test_areas_are_the_stated_ones_or_the_boxes():
    annotations, _ = check(truth((0, 0, 5, 4), (1, 1, 70, 3), areas=[7.5, NAN]))
    np.testing.assert_array_equal(annotations.areas, [7.5, 59 * 2])


def test_one_pixel_is_a_box():
    annotations, _ = check(truth((59, 39, 60, 40)))
    np.testing.assert_array_equal(annotations.areas, [1])


def test_no_box_at_all_and_a_class_without_one():
    with pytest.raises(data.DataError, match="'train' of 'pets' has no box in any of its 2 images"):
        check(truth(), truth())
    annotations, notices = check(truth(), truth((0, 0, 5, 5), labels=[1]), truth())
    assert notices == ("pets: no box in 'train' for cat",)
    assert [len(annotations.truth(i).labels) for i in range(3)] == [0, 1, 0]
    assert annotations.truth(0).boxes.shape == (0, 4)


def test_a_target_is_neither_crowd_nor_difficult():
    boxes = [(0, 0, 5, 5)] * 3
    flags = {"is_crowd": [True, False, False], "is_difficult": [False, True, False]}
    annotations, _ = check(truth(*boxes, **flags))
    assert annotations.truth(0).is_target.tolist() == [False, False, True]


@pytest.mark.parametrize("index", [2, -3])
def test_an_index_past_the_end(index):
    annotations, _ = check(truth((0, 0, 5, 5)), truth())
    with pytest.raises(IndexError):
        annotations.truth(index)


def source(files, *truths, class_names=("cat", "dog")):
    annotations, notices = check(*truths, class_names=class_names)
    return AnnotatedImages(
        annotations=annotations,
        read=files.__getitem__,
        class_names=class_names,
        category_ids=(1, 2),
        name="pets",
        split="train",
        notices=notices,
    )


def test_a_source_reads_images_with_their_boxes():
    file = encode(pixels(40, 60))
    own = source([file, file], truth((0, 0, 5, 5), (0, 0, 9, 9)), truth(name="empty.jpg"))
    assert isinstance(own, DetectionSource)
    assert (len(own), own.max_boxes, own.describe(1), own.num_classes) == (2, 2, "empty.jpg", 2)
    example = own[0]
    assert (example.image, example.height, example.width) == (file, 40, 60)
    np.testing.assert_array_equal(example.boxes, own.truth(0).boxes)
    assert data.notices(own) == ["pets: no box in 'train' for dog"]
    assert data.fingerprint(own)["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((30, 60), r"it is 60x30 px, its annotation says 60x40\)"),
        ((60, 40), "it is 40x60 px, its annotation says 60x40, turned: .*EXIF are not applied"),
    ],
)
def test_an_image_of_another_size(shape, reason):
    own = source([encode(pixels(*shape))], truth((0, 0, 5, 5)))
    with pytest.raises(data.BadImageError, match=rf"image 0 \(photo.jpg\) .*{reason}"):
        own[0]


@pytest.mark.parametrize("file", [b"", b"no image", encode(pixels(40, 60))[:20]])
def test_an_image_that_cannot_be_opened(file):
    own = source([file], truth((0, 0, 5, 5)))
    with pytest.raises(data.BadImageError, match=r"image 0 \(photo.jpg\) of split 'train' of 'pet"):
        own[0]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_sizes_come_from_headers(mode):
    buffer = io.BytesIO()
    Image.new(mode, (60, 40)).save(buffer, "TIFF")
    assert image_size(buffer.getvalue()) == (40, 60)


def test_joined_sources():
    files = [bytes([index]) for index in range(3)]
    first = source(files[:2], truth((0, 0, 5, 5)), truth((0, 0, 6, 6), labels=[1]))
    second = source(files[2:], truth((0, 0, 7, 7), labels=[1]))
    both = joined([first, second])
    assert [both.read(index) for index in range(3)] == files
    assert [both.truth(index).boxes[0, 2] for index in range(3)] == [5, 6, 7]
    assert both.name == "pets+pets"
    with pytest.raises(IndexError):
        both.read(3)
    other = source(files[2:], truth((0, 0, 7, 7)), class_names=("dog", "cat"))
    with pytest.raises(data.DataError, match="have different classes; name them alike"):
        joined([first, other])
