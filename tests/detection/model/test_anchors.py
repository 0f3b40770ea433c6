"""Anchors against tables computed by hand from both houses' formulas."""

import jax
import numpy as np
import pytest

from resnet_jax.detection.model import base_anchors, grid_anchors, map_strides, own_places, within

RATIOS = (0.5, 1.0, 2.0)


def test_torchvisions_are_whole_numbers_by_ratio_and_size():
    # 32 / sqrt(0.5) = 45.25, half of it 22.6 -> 23; 32 sqrt(0.5) = 22.63 -> 11.3 -> 11.
    expected = [
        [-23, -11, 23, 11],
        [-45, -23, 45, 23],
        [-16, -16, 16, 16],
        [-32, -32, 32, 32],
        [-11, -23, 11, 23],
        [-23, -45, 23, 45],
    ]
    ours = base_anchors((32, 64), RATIOS, "corners", ratios_first=True)
    np.testing.assert_array_equal(ours, expected)


def test_torchvisions_round_half_to_even():
    ours = base_anchors((33, 35), (1.0,), "corners")
    np.testing.assert_array_equal(ours, [[-16, -16, 16, 16], [-18, -18, 18, 18]])


def test_detectron2s_are_not_rounded_and_by_size_and_ratio():
    root = np.sqrt(2)
    expected = [
        [-16 * root, -8 * root, 16 * root, 8 * root],
        [-16, -16, 16, 16],
        [-8 * root, -16 * root, 8 * root, 16 * root],
        [-32 * root, -16 * root, 32 * root, 16 * root],
        [-32, -32, 32, 32],
        [-16 * root, -32 * root, 16 * root, 32 * root],
    ]
    ours = base_anchors((32, 64), RATIOS, "none", ratios_first=False)
    np.testing.assert_allclose(ours, expected, 1e-14)


def test_the_papers_are_py_faster_rcnns():
    """Its nine anchors, [-84, -40, 99, 55] and so on, include their last pixel."""
    inclusive = [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    base = base_anchors((128, 256, 512), RATIOS, "cell", ratios_first=True)
    ours = grid_anchors(base, (1, 1), (16, 16), offset=0.5)
    np.testing.assert_array_equal(ours, np.add(inclusive, [0, 0, 1, 1]))


def test_grids_go_by_row_column_and_base_anchor():
    base = np.array([[-2.0, -1, 2, 1], [-1, -2, 1, 2]])
    ours = grid_anchors(base, (2, 3), (61, 50))
    expected = [
        [column * 50 + x1, row * 61 + y1, column * 50 + x2, row * 61 + y2]
        for row in range(2)
        for column in range(3)
        for x1, y1, x2, y2 in base
    ]
    np.testing.assert_array_equal(ours, expected)


def test_strides_of_the_pool_level():
    assert map_strides((800, 1344), (13, 21), 64, divide=True) == (61, 64)
    assert map_strides((800, 1344), (13, 21), 64, divide=False) == (64, 64)


@pytest.mark.parametrize("size", [(33, 64), (32, 1), (96, 65)])
def test_places_of_padding(size):
    """As in a map of the image alone, which has ceil(h / stride) rows."""
    rows, columns = -(-size[0] // 32), -(-size[1] // 32)
    expected = [
        row < rows and column < columns for row in range(3) for column in range(4) for _ in "ab"
    ]
    ours = jax.jit(lambda size: own_places((3, 4), 32, 2, size))(np.array(size))
    np.testing.assert_array_equal(ours, expected)


def test_crossing_a_border():
    boxes = np.float32(
        [[0, 0, 40, 30], [-1, 0, 5, 5], [0, -1, 5, 5], [0, 0, 41, 5], [0, 0, 5, 31], [9, 9, 10, 10]]
    )
    assert within(boxes, np.array([30, 40])).tolist() == [True, False, False, False, False, True]
