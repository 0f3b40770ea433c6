"""Boxes, names and scores on images; precision against recall."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from resnet_jax.detection.evaluation import (
    Detections,
    Scores,
    draw_detections,
    draw_grid,
    draw_precision_recall,
)
from resnet_jax.detection.evaluation.pictures import _color, _ink

CLASSES = ("cat", "dog")


def found(boxes, scores, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int32),
    )


def of_color(picture, label):
    """Where a picture has exactly a class's colour."""
    return (np.asarray(picture) == ImageColor.getrgb(_color(label))).all(axis=-1)


def test_a_box_is_drawn_along_its_outermost_pixels():
    image = np.full((600, 800, 3), 200, np.uint8)
    picture = draw_detections(image, found([[100, 200, 300, 500]], [0.9], [1]), CLASSES)
    assert picture.size == (800, 600)
    ys, xs = np.nonzero(of_color(picture, 1)[200:])  # The name is above it.
    assert (xs.min(), xs.max(), ys.max()) == (100, 299, 299)
    assert of_color(picture, 1)[499, 100:300].all()
    assert of_color(picture, 1)[250:450, 100].all()
    assert not of_color(picture, 1)[250:450, 120:280].any()
    plate = of_color(picture, 1)[:200]
    assert plate.any() and np.nonzero(plate)[1].min() == 100
    assert (image == 200).all()  # It draws on a copy.


def test_only_scores_above_the_threshold():
    image = np.full((600, 800, 3), 200, np.uint8)
    boxes = [[100, 100, 200, 200], [300, 300, 400, 400]]
    detections = found(boxes, [0.5, 0.75], [0, 1])
    picture = draw_detections(image, detections, CLASSES)
    assert not of_color(picture, 0).any() and of_color(picture, 1).any()
    picture = draw_detections(image, detections, CLASSES, threshold=0.4)
    assert of_color(picture, 0).any()
    plain = draw_detections(image, found([], [], []), CLASSES)
    np.testing.assert_array_equal(np.asarray(plain), image)


def test_small_images_are_enlarged():
    image = np.full((160, 213, 3), 200, np.uint8)
    picture = draw_detections(image, found([[100, 100, 150, 150]], [0.9], [0]), CLASSES)
    assert picture.size == (3 * 213, 3 * 160)
    ys, xs = np.nonzero(of_color(picture, 0)[310:])
    assert (xs.min(), xs.max(), ys.max() + 310) == (300, 449, 449)


@pytest.mark.parametrize(
    "box", [[0, 0, 50, 50], [750, 0, 800, 40], [0, 590, 20, 600], [-5, -5, 900, 700], [5, 5, 6, 6]]
)
def test_names_stay_in_the_image(box):
    image = np.full((600, 800, 3), 200, np.uint8)
    picture = draw_detections(image, found([box], [0.9], [0]), CLASSES)
    # The plate has at least the area of its text, some 60 by 20 pixels.
    assert of_color(picture, 0).sum() > 700


def test_names_avoid_each_other():
    image = np.full((600, 800, 3), 200, np.uint8)
    boxes = [[100, 100, 300, 300], [100, 101, 300, 300]]
    picture = draw_detections(image, found(boxes, [0.9, 0.8], [0, 1]), CLASSES)
    sizes = [of_color(picture, label).sum() for label in (0, 1)]
    alone = [
        of_color(draw_detections(image, found(boxes[:1], [0.9], [label]), CLASSES), label).sum()
        for label in (0, 1)
    ]
    # The lower box's outline is under the other's; its name is not.
    assert sizes[0] > 0.9 * alone[0] and sizes[1] > 900


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA"])
def test_images_of_other_modes(mode):
    image = Image.new(mode, (640, 480))
    picture = draw_detections(image, found([[10, 10, 90, 90]], [0.9], [0]), CLASSES)
    assert (picture.mode, picture.size) == ("RGB", (640, 480))


def test_colours_differ_and_names_are_readable():
    colors = [_color(label) for label in range(90)]
    assert len(set(colors)) == 90
    assert _ink("#ffe119") == "black" and _ink("#000075") == "white"


def test_a_grid():
    pictures = [Image.new("RGB", (30, 20), color) for color in ("red", "lime", "blue", "black")]
    sheet = np.asarray(draw_grid(pictures, columns=3, gap=5))
    assert sheet.shape == (45, 100, 3)
    assert sheet[0, 35].tolist() == [0, 255, 0]
    assert sheet[25, 0].tolist() == [0, 0, 0]
    assert sheet[0, 32].tolist() == [255, 255, 255] == sheet[44, 99].tolist()
    assert draw_grid(pictures[:1]).size == (30, 20)


def scores(number):
    names = [f"class_{index}" for index in range(number)]
    recall = np.linspace(0, 0.9, 10)
    return Scores(
        {"AP50": 0.5},
        {name: {"AP50": index / number} for index, name in enumerate(names)},
        {name: (recall, 1 - recall * index / number) for index, name in enumerate(names)},
    )


def test_precision_against_recall(tmp_path):
    figure = draw_precision_recall(scores(3), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 500
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == [10] * 3
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["class_0: 0.0 %", "class_1: 33.3 %", "class_2: 66.7 %"]


def test_many_classes_have_one_mean(tmp_path):
    figure = draw_precision_recall(scores(20), tmp_path / "curves.svg")
    (axes,) = figure.axes
    assert len(axes.lines) == 1
    assert len(axes.collections[0].get_segments()) == 20
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["mean of 20 classes: 47.5 %"]
    # Past a class's last recall its precision is 0.
    mean = axes.lines[0].get_ydata()
    assert mean[0] == 1 and mean[-1] == 0
