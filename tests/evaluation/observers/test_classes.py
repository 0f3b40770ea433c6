"""Errors by class against a count by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image as matplotlib_image

from resnet_jax.evaluation.metrics import error_sums, label_ranks
from resnet_jax.evaluation.observers.classes import ClassErrors, area_under_curve
from resnet_jax.evaluation.scoring import ScoredBatch


def scored(scores, labels, mask=None, index=None):
    scores, labels = jnp.asarray(scores, jnp.float32), np.asarray(labels, np.int32)
    mask = np.ones(len(labels), bool) if mask is None else np.asarray(mask)
    index = np.arange(len(labels)) if index is None else np.asarray(index)
    ranks = label_ranks(scores, jnp.asarray(labels))
    sums = error_sums(scores, jnp.asarray(labels), jnp.asarray(mask))
    return ScoredBatch(index, labels, mask, scores, ranks, sums)


def test_counts_by_class():
    rng = np.random.default_rng(0)
    names = [f"class {label}" for label in range(8)]
    errors = ClassErrors(names)
    confusion, top5 = np.zeros((8, 8), int), np.zeros(8, int)
    for size in (5, 17):
        scores, labels = rng.normal(size=(size, 8)), rng.integers(0, 8, size)
        mask = np.arange(size) < size - 2
        errors(scored(scores, labels, mask))
        for row, label in zip(scores[mask], labels[mask], strict=True):
            order = np.argsort(-row).tolist()
            confusion[label, order[0]] += 1
            top5[label] += label not in order[:5]
    np.testing.assert_array_equal(errors.confusion, confusion)
    np.testing.assert_array_equal(errors.top5_wrong, top5)


def test_a_table_by_class():
    """Up to five classes it has no top-5 error; a class without images shows its predictions."""
    errors = ClassErrors(["cat", "dog", "unseen", "idle"])
    errors(scored([[2, 1, 0, 0], [0, 2, 0, 1], [0, 1, 2, 0], [1, 2, 0, 0]], [0, 0, 0, 1]))
    assert errors.format().splitlines() == [
        "class    images   top-1 error   precision    recall       AUC   most often taken for",
        "cat           3        66.67%     100.00%    33.33%    0.3333   dog (1)",
        "dog           1         0.00%      50.00%   100.00%    0.8333",
        "unseen        0                     0.00%",
    ]


def test_precision_recall_and_area_against_counts_by_hand():
    rng = np.random.default_rng(0)
    errors = ClassErrors("abcdefg")
    scores, labels = rng.normal(size=(40, 7)), rng.integers(0, 7, 40)
    for rows in (slice(0, 16), slice(16, 40)):
        errors(scored(scores[rows], labels[rows]))
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    best = scores.argmax(1)
    for label, row in enumerate(errors.rows()):
        own, others = shares[labels == label, label], shares[labels != label, label]
        pairs = [a > b for a in own for b in others]
        assert row == {
            "label": label,
            "name": "abcdefg"[label],
            "images": len(own),
            "top1_error": pytest.approx(np.mean(best[labels == label] != label)),
            "top5_error": errors.top5_wrong[label] / len(own),
            "precision": pytest.approx(np.mean(labels[best == label] == label)),
            "recall": pytest.approx(np.mean(best[labels == label] == label)),
            "auc": pytest.approx(np.mean(pairs)),
        }


def test_equal_scores_count_half():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 30).astype(np.float32)
    positive = rng.random(30) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(pairs))
    assert area_under_curve(scores, np.ones(30, bool)) is None


def test_many_classes_have_no_area():
    errors = ClassErrors([str(label) for label in range(61)])
    errors(scored(np.eye(61), range(61)))
    assert all("auc" not in row for row in errors.rows())


def test_scores_that_are_no_numbers_are_errors():
    """Of each class, as in the sums over all."""
    errors = ClassErrors("abcdefg")
    batch = scored(np.full((4, 7), np.nan), [0, 1, 2, 6])
    errors(batch)
    assert errors.top1_wrong.sum() == batch.sums.top1_wrong == 4
    assert errors.top5_wrong.sum() == batch.sums.top5_wrong == 4
    assert "a            1       100.00%       100.00%" in errors.format()
    assert errors.rows()[0]["auc"] is None


def test_scores_of_more_classes_than_have_names():
    errors = ClassErrors(["cat", "dog"])
    errors(scored([[0, 0, 0, 1]], [1]))
    assert errors.class_names == ("cat", "dog", "2", "3")
    assert errors.confusion[1, 3] == 1 and errors.confusion.sum() == 1


@pytest.mark.parametrize("num_classes", [3, 40, 200])
def test_a_picture_of_confusions(tmp_path, num_classes):
    rng = np.random.default_rng(0)
    errors = ClassErrors([f"class {label}" for label in range(num_classes)])
    errors(scored(rng.normal(size=(500, num_classes)), rng.integers(0, num_classes, 500)))
    errors.plot(tmp_path / "confusion.png")
    assert matplotlib_image.imread(tmp_path / "confusion.png").std() > 0.05


def test_a_picture_in_a_format_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        ClassErrors(["a"]).plot(tmp_path / "confusion.bmp8")
