"""Scaling, mirroring and placing images with their boxes, against both houses' own code."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_jax import data
from resnet_jax.detection.data.examples import DetectionExample
from resnet_jax.detection.data.transforms import (
    PlaceOnCanvas,
    mirrored_boxes,
    scaled_boxes,
    scaled_pixels,
    scaled_size,
)
from tests.detection.data.box_files import pixels

SIZES = [
    *((480, 640), (375, 500), (500, 333), (427, 640), (640, 427), (600, 600), (1000, 600)),
    *((160, 213), (103, 150), (333, 500), (2000, 3000), (599, 1201), (800, 1333), (720, 1280)),
    *((4, 5), (8, 4)),
]


def by_torchvision(height, width, shorter, longer):
    """`GeneralizedRCNNTransform`: a float32 scale, and what `interpolate` makes of it."""
    sides = torch.tensor([height, width])
    low, high = sides.min().to(torch.float32), sides.max().to(torch.float32)
    scale = torch.min(float(shorter) / low, float(longer) / high).item()
    options = {"mode": "bilinear", "align_corners": False, "recompute_scale_factor": True}
    empty = torch.zeros(1, 1, height, width)
    out = torch.nn.functional.interpolate(empty, scale_factor=scale, **options)
    return tuple(out.shape[2:])


def by_detectron2(height, width, shorter, longer):
    """`ResizeShortestEdge`."""
    scale = shorter * 1.0 / min(height, width)
    if height < width:
        new_height, new_width = shorter, scale * width
    else:
        new_height, new_width = scale * height, shorter
    if max(new_height, new_width) > longer:
        scale = longer * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


@pytest.mark.parametrize(
    ("shorter", "longer"), [(800, 1333), (600, 1000), (160, 224), (7, 9), (10, 13)]
)
@pytest.mark.parametrize("house", ["torchvision", "detectron2"])
def test_sizes(house, shorter, longer):
    reference = {"torchvision": by_torchvision, "detectron2": by_detectron2}[house]
    for height, width in SIZES:
        expected = reference(height, width, shorter, longer)
        assert scaled_size(height, width, shorter, longer, house) == expected, (height, width)


def test_no_side_vanishes():
    """Where the houses' code fails."""
    assert scaled_size(1, 900, 600, 300, "torchvision") == (1, 300)
    assert scaled_size(900, 1, 600, 300) == (300, 1)


def test_a_side_may_be_one_less_in_torchvision():
    assert scaled_size(480, 640, 800, 1333, "torchvision") == (800, 1066)
    assert scaled_size(103, 150, 800, 1333, "torchvision") == (799, 1165)
    assert scaled_size(103, 150, 800, 1333, "detectron2") == (800, 1165)


@pytest.mark.parametrize("size", [(30, 45), (80, 120), (41, 59), (39, 61)])
def test_pixels_as_in_torchvision(size):
    image = pixels(40, 60)
    wide = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    scaled = torch.nn.functional.interpolate(wide, size, mode="bilinear", align_corners=False)
    expected = scaled[0].permute(1, 2, 0).numpy()
    out = scaled_pixels(image, size, "torchvision")
    # Rounded to the nearest; OpenCV's weights are float32.
    assert np.abs(out - expected).max() < 0.501


@pytest.mark.parametrize("size", [(30, 45), (80, 120)])
def test_pixels_as_in_detectron2(size):
    image = pixels(40, 60)
    expected = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(scaled_pixels(image, size), np.asarray(expected))


def test_boxes_scale_by_each_axis():
    out = scaled_boxes(np.float32([[1, 2, 30, 40], [0, 0, 60, 40]]), (40, 60), (20, 31))
    np.testing.assert_allclose(out, [[31 / 60, 1, 15.5, 20], [0, 0, 31, 20]], rtol=1e-6)
    assert out.dtype == np.float32


def test_mirrored_boxes():
    """Half-open: the first of 10 columns becomes the last."""
    boxes = np.float32([[0, 1, 1, 3], [2, 0, 10, 5]])
    np.testing.assert_array_equal(mirrored_boxes(boxes, 10), [[9, 1, 10, 3], [0, 0, 8, 5]])
    np.testing.assert_array_equal(mirrored_boxes(mirrored_boxes(boxes, 10), 10), boxes)


def example(image, boxes):
    number = len(boxes)
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (40, 60)
    return DetectionExample(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.zeros(number, np.int32),
        is_crowd=np.zeros(number, bool),
        is_difficult=np.zeros(number, bool),
        areas=np.zeros(number),
        height=height,
        width=width,
        image_id=1,
        name="a",
    )


@pytest.mark.parametrize("house", ["torchvision", "detectron2"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40)])
def test_boxes_move_with_the_pixels(house, mirrored, height, width):
    """A white rectangle, doubled in size, is where its box is."""
    image = np.zeros((height, width, 3), np.uint8)
    image[5:17, 8:31] = 255
    transform = PlaceOnCanvas(
        shorter_side=(80,), longer_side=120, canvas=(96, 128), mirror=True, house=house
    )
    placed = transform(example(image, [[8, 5, 31, 17]]), np.array([0.5, 0.2 if mirrored else 0.5]))
    assert placed.mirrored == mirrored
    assert placed.size == (2 * height, 2 * width)
    assert placed.image.shape == ((96, 128, 3) if height < width else (128, 96, 3))
    ys, xs = np.nonzero(placed.image[:, :, 0] > 127)
    around = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_array_equal(placed.boxes, [around])
    assert not placed.image[placed.size[0] :].any()
    assert not placed.image[:, placed.size[1] :].any()


def test_without_random_numbers():
    image = pixels(40, 60)
    transform = PlaceOnCanvas(shorter_side=(20, 40), longer_side=60, canvas=(40, 64), mirror=True)
    placed = transform(example(image, [[1, 2, 3, 4]]))
    assert (placed.size, placed.mirrored) == ((40, 60), False)
    np.testing.assert_array_equal(placed.image[:, :60], image)
    np.testing.assert_array_equal(placed.boxes, [[1, 2, 3, 4]])


def test_the_shorter_side_is_drawn_evenly():
    transform = PlaceOnCanvas(shorter_side=(20, 30, 40), longer_side=60, canvas=(40, 64))
    sides = [
        transform(example(pixels(40, 60), []), np.array([u, 0.0])).size[0]
        for u in np.linspace(0, 1, 30, endpoint=False)
    ]
    assert sides == [20] * 10 + [30] * 10 + [40] * 10


def test_square_canvases_and_images_without_boxes():
    transform = PlaceOnCanvas(shorter_side=(40,), longer_side=60, canvas=(64, 64))
    for image in (pixels(40, 60), pixels(60, 40)):
        placed = transform(example(image, []))
        assert placed.image.shape == (64, 64, 3)
        assert placed.boxes.shape == (0, 4)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_files_are_decoded_to_colour(mode):
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels(40, 60)).convert(mode)
    picture.save(buffer, "TIFF")
    transform = PlaceOnCanvas(shorter_side=(40,), longer_side=60, canvas=(40, 60))
    placed = transform(example(buffer.getvalue(), []))
    np.testing.assert_array_equal(placed.image, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"canvas": (32, 128)},
            "a canvas of 32x128 does not hold images with sides of 40 and 60; ",
        ),
        ({"canvas": (64, 48)}, "a canvas of 64x48 does not hold images with sides of 70 and 70"),
        ({"house": "caffe"}, "unknown house 'caffe'; choose from torchvision, detectron2"),
    ],
)
def test_what_does_not_fit(options, message):
    wanted = {"shorter_side": (40,), "longer_side": 60, "canvas": (40, 60)} | options
    if options.get("canvas") == (64, 48):
        wanted |= {"shorter_side": (80,), "longer_side": 70}
    with pytest.raises(data.DataError, match=message):
        PlaceOnCanvas(**wanted)


def test_every_image_fits_the_canvas():
    transform = PlaceOnCanvas(shorter_side=(60,), longer_side=100, canvas=(60, 100))
    generator = np.random.default_rng(0)
    for height, width in generator.integers(1, 400, (300, 2)).tolist():
        for house in ("torchvision", "detectron2"):
            size = scaled_size(height, width, 60, 100, house)
            canvas = transform.canvas_of(height, width)
            assert size[0] <= canvas[0] and size[1] <= canvas[1], (height, width)
            assert math.prod(size) > 0
