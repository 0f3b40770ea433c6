"""Suppression against the greedy loop in NumPy, index for index; box voting against a loop."""

from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.detection.model import nms, vote

jitted = jax.jit(nms, static_argnames=("threshold", "size", "block"))


@pytest.fixture
def optimised():
    """Compiled as in use, where products and sums may be fused and rounded once."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def greedy(boxes, scores, groups, valid, threshold):
    """The loop, with the IoU in the dtype of the boxes and the threshold in double."""
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    order = np.argsort(-scores, kind="stable")
    order = order[valid[order] & ~np.isnan(scores[order])]
    struck = np.zeros(len(boxes), bool)
    kept = []
    zero = boxes.dtype.type(0)
    for place, i in enumerate(order):
        if struck[i]:
            continue
        kept.append(i)
        rest = order[place + 1 :]
        width = np.maximum(zero, np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]))
        height = np.maximum(zero, np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]))
        common = width * height
        with np.errstate(invalid="ignore", divide="ignore"):
            overlap = common / (areas[i] + areas[rest] - common)
        struck[rest] |= (overlap.astype(np.float64) > threshold) & (groups[rest] == groups[i])
    return kept


def case(seed, count, dtype):
    """Random boxes; by turns clustered, on a coarse grid with ties, degenerate, and in groups."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 200, (max(count // 12, 1), 2))
    corner = centres[rng.integers(len(centres), size=count)] + rng.normal(0, 6, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (count, 2))], 1)
    scores = rng.normal(size=count)
    groups = np.zeros(count, np.int32)
    valid = np.ones(count, bool)
    if seed % 2:  # Ties in scores, and IoUs that are just the threshold.
        boxes, scores = np.round(boxes / 10) * 10, np.round(scores * 2) / 2
    if seed % 3 == 1:
        groups = rng.integers(0, 5, count).astype(np.int32)
    if seed % 4 > 1:
        boxes[rng.random(count) < 0.1, 2:] = 0  # Turned inside out.
        flat = rng.random(count) < 0.1
        boxes[flat, 2] = boxes[flat, 0]
    if seed % 5 > 2:
        valid = rng.random(count) < rng.random()
        scores[rng.random(count) < 0.1] = np.nan
        scores[rng.random(count) < 0.05] = -np.inf
        scores[rng.random(count) < 0.05] = np.inf
    return boxes.astype(dtype), scores.astype(dtype), groups, valid


def assert_kept(kept, expected, size):
    assert kept.count == min(len(expected), size)
    assert kept.indices[: kept.count].tolist() == expected[:size]
    assert not np.any(kept.indices[kept.count :])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_the_greedy_loops_indices_in_a_batch(optimised, threshold, dtype):
    """33 cases each, 198 in all."""
    cases = [case(seed, 300, dtype) for seed in range(33)]
    batch = [np.stack(parts) for parts in zip(*cases, strict=True)]
    call = partial(nms, threshold=threshold, size=200, block=64)
    with jax.enable_x64(dtype == "float64"):
        kept = jax.device_get(jax.jit(jax.vmap(call))(*batch))
    for index, arrays in enumerate(cases):
        one = jax.tree.map(lambda a, index=index: a[index], kept)
        assert_kept(one, greedy(*arrays, threshold), 200)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "count, threshold, size, block", [(12_000, 0.7, 2_000, 256), (1_000, 0.5, 1_000, 256)]
)
def test_the_greedy_loops_indices_of_many_boxes(optimised, count, threshold, size, block, dtype):
    call = partial(jitted, threshold=threshold, size=size, block=block)
    with jax.enable_x64(dtype == "float64"):
        for seed in (0, 9, 13):
            arrays = case(seed, count, dtype)
            assert_kept(jax.device_get(call(*arrays)), greedy(*arrays, threshold), size)


@pytest.mark.parametrize("count, size, block", [(1, 5, 8), (7, 1, 2), (8, 8, 8), (9, 20, 4)])
def test_few_boxes_and_blocks_of_any_size(count, size, block):
    for seed in range(4):
        arrays = case(seed, count, "float32")
        assert_kept(jax.device_get(jitted(*arrays, 0.5, size, block)), greedy(*arrays, 0.5), size)


def test_the_threshold_is_a_double():
    """An IoU of float32's 0.3, which is 0.3000000119, is above 0.3; one of exactly 0.5 is not."""

    def count_kept(width, threshold):
        boxes = np.float32([[0, 0, 10, 1], [0, 0, width, 1]])
        arrays = boxes, np.float32([2, 1]), np.zeros(2, np.int32), np.ones(2, bool)
        assert greedy(*arrays, threshold) == list(range(int(jitted(*arrays, threshold, 2).count)))
        return jitted(*arrays, threshold, 2).count

    assert float(np.float32(3) / np.float32(10)) > 0.3
    assert count_kept(3, 0.3) == 1
    assert count_kept(5, 0.5) == 2
    assert float(np.float32(7) / np.float32(10)) < 0.7
    assert count_kept(7, 0.7) == 2


def test_ious_next_to_the_threshold_are_rounded_as_in_the_loop(optimised):
    """A compiler that fuses product and difference rounds once, which is a little more or less."""
    rng = np.random.default_rng(0)
    whole = rng.uniform(100, 9_000, (2_000, 2)).astype(np.float32)
    sides = np.concatenate([whole, whole * np.float32([1, 0.5])])
    boxes = np.concatenate([np.zeros_like(sides), sides], 1)
    groups = np.tile(np.arange(2_000, dtype=np.int32), 2)
    arrays = boxes, np.ones(4_000, np.float32), groups, np.ones(4_000, bool)
    expected = greedy(*arrays, 0.5)
    assert 2_000 < len(expected) < 4_000
    assert_kept(jitted(*arrays, 0.5, 4_000, 1_000), expected, 4_000)


def test_a_nan_score_sorts_nowhere():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    arrays = np.float32([np.nan, 1, 2]), np.zeros(3, np.int32), np.ones(3, bool)
    kept = jitted(boxes, *arrays, 0.5, 3)
    assert kept.count == 2
    assert kept.indices.tolist() == [2, 1, 0]


def test_no_boxes_at_all():
    boxes, scores, groups, _ = case(0, 10, "float32")
    kept = jitted(boxes, scores, groups, np.zeros(10, bool), 0.5, 4)
    assert kept.count == 0
    assert kept.indices.tolist() == [0] * 4


def test_it_can_stand_inside_a_differentiated_function():
    boxes, scores, groups, valid = case(0, 10, "float32")

    def total(boxes):
        return boxes[jitted(boxes, scores, groups, valid, 0.5, 10).indices].sum()

    assert np.all(np.isfinite(jax.grad(total)(jax.numpy.asarray(boxes))))


def test_votes_move_boxes_by_score_within_their_class():
    rng = np.random.default_rng(0)
    boxes, _, _, _ = case(0, 60, "float32")
    scores = rng.random(60).astype(np.float32)
    scores[5] = np.nan
    groups = rng.integers(0, 2, 60).astype(np.int32)
    valid = rng.random(60) < 0.9
    boxes[~valid] = np.nan
    kept = jitted(boxes, scores, groups, valid, 0.3, 20)
    chosen = np.asarray(kept.indices[: kept.count])
    moved = jax.jit(vote)(boxes[chosen], groups[chosen], boxes, scores, groups, valid)
    num_moved = 0
    for i, ours in zip(chosen, moved, strict=True):
        votes = []
        for j in range(60):
            (a1, b1, a2, b2), (c1, d1, c2, d2) = boxes[i], boxes[j]
            common = max(min(a2, c2) - max(a1, c1), 0) * max(min(b2, d2) - max(b1, d1), 0)
            union = (a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - common
            if valid[j] and groups[i] == groups[j] and j != 5 and common / union >= 0.5:
                votes.append((scores[j], boxes[j]))
        expected = sum(s * b for s, b in votes) / sum(s for s, _ in votes)
        num_moved += len(votes) > 1
        np.testing.assert_allclose(ours, expected, 1e-4)
    assert num_moved > 3


def test_a_box_without_votes_stays():
    empty = np.float32([[3, 3, 3, 3]])
    group, valid = np.zeros(1, np.int32), np.ones(1, bool)
    moved = jax.jit(vote)(empty, group, empty, np.float32([0.9]), group, valid)
    np.testing.assert_array_equal(moved, empty)
