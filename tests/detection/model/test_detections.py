"""Detections against a loop over classes."""

from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.detection.model import detections
from tests.detection.model.references import looped_detections


def case(seed=0, regions=40, num_classes=5):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-5, 60, (regions, num_classes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 40, corner.shape)], -1)
    logits = rng.normal(size=(regions, num_classes + 1)) * 2
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    boxes[3, 1, 2:] = boxes[3, 1, :2]
    scores[4, 2], scores[5, 2] = np.nan, 0.05
    return scores[:, :-1], boxes, rng.random(regions) < 0.9


@pytest.mark.parametrize("votes", [False, True])
@pytest.mark.parametrize(
    "number, candidates",
    [
        (100, 2_000),  # All at once,
        (10, 50),  # as many as wanted among the best,
        (100, 50),  # or more than these are above the threshold.
    ],
)
def test_the_loops_detections(number, candidates, votes):
    scores, boxes, valid = case()
    threshold, smallest = (0.3, 0.0) if votes else (0.5, 3.0)
    expected = looped_detections(scores, boxes, valid, 50, 70, threshold, number, smallest, votes)
    call = partial(
        detections,
        score_threshold=0.05,
        threshold=threshold,
        number=number,
        smallest=smallest,
        votes=votes,
        candidates=candidates,
    )
    with jax.enable_x64(True):
        found = jax.device_get(jax.jit(call)(scores, boxes, valid, np.array([50, 70])))
    count = found.count
    assert len(expected) == count
    assert (count == number) == (number == 10)
    assert found.labels[:count].tolist() == [label for _, label, _ in expected]
    np.testing.assert_array_equal(found.scores[:count], [score for score, _, _ in expected])
    np.testing.assert_allclose(found.boxes[:count], [box for _, _, box in expected], 1e-12, 1e-12)
    assert np.all(found.labels[count:] == -1)
    assert not np.any(found.scores[count:])
    assert not np.any(found.boxes[count:])


def test_a_score_of_the_threshold_is_not_above_it():
    boxes, valid, size = np.float32([[[0, 0, 9, 9]]]), np.ones(1, bool), np.array([20, 20])
    call = jax.jit(partial(detections, score_threshold=0.25, threshold=0.5, number=3))
    for score, count in [(0.25, 0), (0.25001, 1), (np.nan, 0)]:
        assert call(np.float32([[score]]), boxes, valid, size).count == count
