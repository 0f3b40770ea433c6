"""Boxes: areas, overlaps, borders, and the regression targets."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.detection.model import (
    area,
    clip,
    decode,
    encode,
    iou,
    large_enough,
    share_inside,
)
from resnet_jax.detection.model.boxes import MAX_LOG_SCALE

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def random_boxes(rng, count, side=100.0):
    corners = np.sort(rng.uniform(0, side, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


def test_widths_have_no_plus_one():
    assert area(np.float32([[0, 0, 3, 2], [5, 5, 5, 9], [1, 2, 2, 3]])).tolist() == [6, 0, 1]


def test_overlaps_of_pairs_by_hand():
    one = np.float32([[0, 0, 4, 4], [2, 2, 2, 2], [0, 0, 2, 4]])
    other = np.float32([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [2, 2, 2, 2]])
    expected = [[1, 4 / 28, 0, 0], [0, 0, 0, 0], [0.5, 0, 0, 0]]
    np.testing.assert_allclose(iou(one, other), expected, 1e-7)
    expected = [[1, 0.25, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(share_inside(one, other), expected, 1e-7)


def test_boxes_without_area_have_no_nan_in_gradients():
    def total(boxes):
        return jnp.sum(iou(boxes, boxes)) + jnp.sum(share_inside(boxes, boxes))

    gradient = jax.grad(total)(jnp.float32([[0, 0, 0, 0], [0, 0, 4, 4], [1, 1, 5, 3]]))
    assert np.all(np.isfinite(gradient))


def test_clip_cuts_at_the_images_own_size():
    boxes = np.float32([[-3, -2, 50, 70], [5, 6, 7, 8]])
    expected = [[0, 0, 40, 30], [5, 6, 7, 8]]
    np.testing.assert_array_equal(clip(boxes, np.array([30, 40])), expected)


@pytest.mark.parametrize(
    "box, least, expected",
    [
        ([0, 0, 16, 16], 16.0, True),
        ([0, 0, 15.9, 16], 16.0, False),
        ([0, 0, 16, 15.9], 16.0, False),
        ([3, 0, 3, 5], 0.0, False),  # Detectron2's "more than 0".
        ([3, 0, 2, 5], 0.0, False),
        ([0, 0, 1e-30, 1], 0.0, True),
        ([0, 0, np.nan, 1], 0.0, False),
    ],
)
def test_smallest_boxes(box, least, expected):
    assert bool(large_enough(np.float32(box), least)) == expected


@pytest.mark.parametrize("weights", WEIGHTS)
def test_targets_by_hand_and_back(weights):
    rng = np.random.default_rng(0)
    boxes, anchors = random_boxes(rng, 50), random_boxes(rng, 50)
    expected = []
    for (x1, y1, x2, y2), (a1, b1, a2, b2) in zip(boxes, anchors, strict=True):
        expected.append(
            [
                weights[0] * ((x1 + x2) / 2 - (a1 + a2) / 2) / (a2 - a1),
                weights[1] * ((y1 + y2) / 2 - (b1 + b2) / 2) / (b2 - b1),
                weights[2] * math.log((x2 - x1) / (a2 - a1)),
                weights[3] * math.log((y2 - y1) / (b2 - b1)),
            ]
        )
    with jax.enable_x64(True):
        targets = encode(boxes, anchors, np.ones(50, bool), weights)
        np.testing.assert_allclose(targets, expected, 1e-12, 1e-12)
        # No box is 1000 / 16 times another one's size.
        near = np.max(np.abs(np.asarray(expected)[:, 2:]) / weights[2:], 1) < MAX_LOG_SCALE
        assert near.sum() > 40
        moved = decode(targets, anchors, weights)
    np.testing.assert_allclose(moved[near], boxes[near], 1e-10, 1e-10)


def test_scales_are_cut_at_their_limit():
    anchor = np.float32([[10, 10, 26, 26]])
    for log_scale in (math.log(1000 / 16), 5.0, 1e4):
        moved = decode(np.float32([[0, 0, log_scale, log_scale]]), anchor)
        np.testing.assert_allclose(moved, [[18 - 500, 18 - 500, 18 + 500, 18 + 500]], 1e-5)
    # After the weights, not before them.
    moved = decode(np.float32([[0, 0, 5.0, 5.0]]), anchor, (10.0, 10.0, 5.0, 5.0))
    np.testing.assert_allclose(moved[0, 2] - moved[0, 0], 16 * math.e, 1e-5)


def test_decode_of_several_classes_and_of_bfloat16():
    anchors = np.float32([[0, 0, 10, 20], [5, 5, 9, 9]])
    deltas = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    moved = decode(deltas, anchors[:, None])
    for index in range(3):
        np.testing.assert_allclose(moved[:, index], decode(deltas[:, index], anchors), 1e-6)
    assert decode(jnp.bfloat16(deltas), anchors[:, None]).dtype == jnp.float32


def test_rows_without_a_match_are_zero_and_give_no_nan():
    boxes = jnp.float32([[0, 0, 0, 0], [np.nan] * 4, [1, 1, 5, 3]])
    anchors = jnp.float32([[0, 0, 0, 0], [0, 0, 4, 4], [0, 0, 4, 4]])
    where = np.array([False, False, True])
    assert np.array_equal(encode(boxes, anchors, where)[:2], np.zeros((2, 4)))
    gradients = jax.grad(lambda *args: jnp.sum(encode(*args, where)), argnums=(0, 1))(
        boxes, anchors
    )
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
