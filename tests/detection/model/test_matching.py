"""Matching against a loop; sampling: counts, determinism, and never what does not take part."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.detection.model import (
    encode,
    match,
    sample,
    sampled_labels,
    with_boxes,
)


def overlap(one, other):
    (a1, b1, a2, b2), (c1, d1, c2, d2) = one, other
    common = max(min(a2, c2) - max(a1, c1), 0) * max(min(b2, d2) - max(b1, d1), 0)
    union = (a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - common
    return common / union if union > 0 else 0.0, common / max((a2 - a1) * (b2 - b1), 1e-9)


def loop(anchors, valid, boxes, real, crowd, high, low, best_counts):
    """One anchor and one box at a time, as the Faster R-CNN paper says it in Section 3.1.2."""
    targets = [j for j in range(len(boxes)) if real[j] and not crowd[j]]
    takes_part = [i for i in range(len(anchors)) if valid[i]]
    best = {j: max(overlap(anchors[i], boxes[j])[0] for i in takes_part) for j in targets}
    labels, indices = [], []
    for i, anchor in enumerate(anchors):
        most, index, label = 0.0, 0, 0
        for j in targets if valid[i] else ():
            value = overlap(anchor, boxes[j])[0]
            if value > most:
                most, index = value, j
        if most >= low:
            label = 1 if most >= high else -1
        elif any(
            real[j] and crowd[j] and overlap(anchor, boxes[j])[1] >= 0.5 for j in range(len(boxes))
        ):
            label = -1
        if best_counts and valid[i]:
            for j in targets:
                if best[j] > 0 and overlap(anchor, boxes[j])[0] == best[j]:
                    label = 1
        labels.append(label if valid[i] else -1)
        indices.append(index)
    return indices, labels


def case(seed):
    """Whole numbers, so that there are ties, and IoUs of exactly a threshold."""
    rng = np.random.default_rng(seed)

    def some(count, side):
        corner = rng.integers(0, 40, (count, 2)) * 2
        return np.concatenate([corner, corner + rng.integers(1, side, (count, 2)) * 2], 1)

    anchors, boxes = some(150, 16), some(8, 20)
    valid, real, crowd = rng.random(150) < 0.8, rng.random(8) < 0.7, rng.random(8) < 0.3
    if seed % 4 == 0:
        real[:] = False
    anchors[:10, 2:] = anchors[:10, :2]
    anchors[10:14] = boxes[:4]
    boxes[7] = [200, 200, 240, 240]  # No anchor reaches it.
    boxes[~real] = 0
    return anchors.astype(np.float64), valid, boxes.astype(np.float64), real, crowd


@pytest.mark.parametrize(
    "high, low, best_counts", [(0.7, 0.3, True), (0.5, 0.5, False), (0.5, 0.25, True)]
)
def test_the_loops_matches(high, low, best_counts):
    cases = [case(seed) for seed in range(12)]
    batch = [np.stack(parts) for parts in zip(*cases, strict=True)]
    call = partial(match, high=high, low=low, best_counts=best_counts)
    with jax.enable_x64(True):
        ours = jax.device_get(jax.jit(jax.vmap(call))(*batch))
    seen = set()
    for index, arrays in enumerate(cases):
        indices, labels = loop(*arrays, high, low, best_counts)
        assert ours.labels[index].tolist() == labels
        assert ours.indices[index].tolist() == indices
        seen |= set(labels)
    assert seen == {-1, 0, 1}


def simple(anchors, boxes, crowd=None, **options):
    """Matches of a few boxes that are all real."""
    anchors, boxes = np.float32(anchors), np.float32(boxes)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.array(crowd)
    settings = {"high": 0.7, "low": 0.3, "best_counts": True, **options}
    return match(
        anchors, np.ones(len(anchors), bool), boxes, np.ones(len(boxes), bool), crowd, **settings
    )


def test_all_best_anchors_of_a_box_count_but_none_that_misses_it():
    anchors = [[0, 0, 4, 4], [12, 0, 16, 4], [50, 50, 54, 54]]
    boxes = [[2, 0, 14, 4], [90, 90, 99, 99]]
    assert simple(anchors, boxes).labels.tolist() == [1, 1, 0]
    assert simple(anchors, boxes, best_counts=False).labels.tolist() == [0, 0, 0]


def test_a_crowd_is_no_target_and_what_is_inside_no_negative():
    anchors = [[0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [2, 2, 3, 3]]
    labels = simple(anchors, [[0, 0, 10, 10]], crowd=[True]).labels
    assert labels.tolist() == [-1, -1, 0, -1]


def test_an_image_without_boxes_is_background_without_nan():
    anchors = np.float32([[0, 0, 8, 8], [4, 4, 4, 4], [0, 0, 0, 0]])
    padding = np.zeros((2, 4), np.float32), np.zeros(2, bool), np.zeros(2, bool)
    matches = match(anchors, np.ones(3, bool), *padding, 0.7, 0.3, True)
    assert matches.labels.tolist() == [0, 0, 0]
    assert matches.indices.tolist() == [0, 0, 0]
    targets = encode(padding[0][np.asarray(matches.indices)], anchors, matches.labels == 1)
    assert not np.any(targets)


LABELS = np.array([1] * 40 + [0] * 200 + [-1] * 100)[np.random.default_rng(0).permutation(340)]


@pytest.mark.parametrize(
    "size, share, positives, negatives",
    [
        (64, 0.5, 32, 32),
        (64, 0.25, 16, 48),
        (128, 0.5, 40, 88),  # Negatives fill up for missing positives,
        (340, 0.5, 40, 200),  # and nothing for missing negatives.
        (10**6, 0.5, 40, 200),
        (5, 0.25, 1, 4),
        (16, 1.0, 16, 0),
        (16, 0.0, 0, 16),
    ],
)
def test_as_many_are_drawn_as_there_should_be(size, share, positives, negatives):
    call = jax.jit(partial(sample, size=size, positive_share=share))
    for seed in range(3):
        drawn = jax.device_get(call(jax.random.key(seed), LABELS))
        used = drawn.labels != -1
        assert len(used) == min(size, 340)
        assert used.sum() == positives + negatives
        assert np.all(used[: used.sum()])
        assert drawn.labels[used].tolist() == [1] * positives + [0] * negatives
        assert LABELS[drawn.indices[used]].tolist() == drawn.labels[used].tolist()
        assert len(set(drawn.indices[used])) == used.sum()
        assert not np.any(drawn.indices[~used])
        everywhere = np.full(340, -1)
        everywhere[drawn.indices[used]] = drawn.labels[used]
        np.testing.assert_array_equal(sampled_labels(drawn, 340), everywhere)


def test_a_draw_is_a_function_of_its_key_also_in_a_batch():
    keys = jax.random.split(jax.random.key(0), 3)
    call = partial(sample, size=32, positive_share=0.5)
    batch = jax.jit(jax.vmap(call, (0, None)))(keys, LABELS)
    for index in range(3):
        one = call(keys[index], LABELS)
        np.testing.assert_array_equal(one.indices, batch.indices[index])
    assert not np.array_equal(batch.indices[0], batch.indices[1])
    with jax.enable_x64(True):
        np.testing.assert_array_equal(call(keys[0], LABELS).indices, batch.indices[0])


def test_every_positive_is_drawn_equally_often():
    call = jax.jit(jax.vmap(partial(sample, size=20, positive_share=0.5), (0, None)))
    drawn = call(jax.random.split(jax.random.key(0), 2000), LABELS)
    counts = np.bincount(drawn.indices[:, :10].reshape(-1), minlength=340)[LABELS == 1]
    # 500 each, with a deviation of 19.
    assert counts.sum() == 20_000
    assert counts.min() > 400
    assert counts.max() < 600


def test_only_real_boxes_join_the_proposals():
    proposals, boxes = np.float32([[0, 0, 2, 2]]), np.arange(12, dtype=np.float32).reshape(3, 4)
    real, crowd = np.array([True, True, False]), np.array([False, True, False])

    def total(proposals):
        joined, valid = with_boxes(proposals, np.ones(1, bool), boxes, real, crowd)
        return jnp.sum(joined), (joined, valid)

    gradient, (joined, valid) = jax.grad(total, has_aux=True)(proposals)
    np.testing.assert_array_equal(joined, np.concatenate([proposals, boxes]))
    assert valid.tolist() == [True, True, False, False]
    assert not np.any(gradient)
