"""ImageNet's localisation error against loops."""

import numpy as np
import pytest

from resnet_jax.detection.data.folders import make_truth
from resnet_jax.detection.evaluation import Detections, localization_error
from resnet_jax.errors import EvaluationError


def truth(boxes, labels):
    return make_truth(boxes, labels, height=99, width=99, image_id=0, name="a")


def found(boxes, labels):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.ones(len(labels), np.float32),
        np.array(labels, np.int32),
    )


def iou(a, b):
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = across * down
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_equals_loops():
    rng = np.random.default_rng(0)
    truths, detections, wrong = [], [], 0
    for _ in range(200):
        label, number = int(rng.integers(0, 5)), int(rng.integers(1, 4))
        corners = rng.integers(0, 50, (number, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 40, (number, 2))], axis=1)
        guesses = boxes[rng.integers(0, number, 7)] + rng.integers(-6, 7, (7, 4))
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        labels = rng.integers(0, 5, 7)
        truths.append(truth(boxes.tolist(), [label] * number))
        detections.append(found(guesses, labels))
        right = False
        for guess, of in zip(guesses[:5].tolist(), labels[:5].tolist(), strict=True):
            for box in boxes.tolist():
                right = right or (of == label and iou(guess, box) >= 0.5)
        wrong += not right
    assert 0.1 < wrong / 200 < 0.9
    assert localization_error(truths, detections) == wrong / 200


BOX = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("guesses", "labels", "error"),
    [
        ([BOX], [1], 0),
        ([BOX], [2], 1),
        ([[0, 0, 10, 20]], [1], 0),  # An IoU of exactly a half is right.
        ([[0, 0, 10, 21]], [1], 1),
        ([[50, 50, 60, 60], BOX], [1, 2], 1),  # The class of one box, the place of another.
        ([[50, 50, 60, 60]] * 4 + [BOX], [1] * 5, 0),
        ([[50, 50, 60, 60]] * 5 + [BOX], [1] * 6, 1),  # Only five count.
        ([], [], 1),
    ],
)
def test_a_single_image(guesses, labels, error):
    assert localization_error([truth([BOX], [1])], [found(guesses, labels)]) == error


def test_images_without_boxes_do_not_count():
    truths = [truth([], []), truth([BOX], [1])]
    assert localization_error(truths, [found([BOX], [1])] * 2) == 0
    with pytest.raises(EvaluationError, match="no image of the split has a box"):
        localization_error(truths[:1], [found([BOX], [1])])
    with pytest.raises(EvaluationError, match="2 images have 1 results"):
        localization_error(truths, [found([BOX], [1])])
