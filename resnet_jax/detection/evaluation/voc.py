"""PASCAL VOC's average precision: of 2007 at 11 recalls, since 2010 as the area under the curve."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from resnet_jax.detection.data.examples import Truth
from resnet_jax.detection.evaluation.detections import (
    Detections,
    Scores,
    check_lengths,
    numbers_of_classes,
    overlaps,
)
from resnet_jax.errors import EvaluationError


def voc_metrics(
    truth: Sequence[Truth],
    found: Sequence[Detections],
    class_names: Sequence[str] | None = None,
    *,
    year: int = 2007,
    threshold: float = 0.5,
) -> Scores:
    """Returns VOC's average precision as fractions.

    The numbers equal those of py-faster-rcnn's `voc_eval`; its "+1" is part of half-open boxes. A
    detection counts as correct if its IoU with a box of its class exceeds `threshold` and no
    detection of a higher score has that box. Difficult boxes count neither way, and neither do
    crowds. Detections of equal score rank in the order of the images.

    Args:
      truth: the objects of each image.
      found: the detections of each image.
      class_names: one name per class; None for the classes' numbers.
      year: 2007 to 2009 for the mean of the precision at 11 recalls, later for the area.
      threshold: the IoU that a correct detection exceeds.

    Returns:
      `means` has `mAP`, the mean over the classes with a box that counts; `per_class` has `AP`.

    Raises:
      EvaluationError: the numbers of images differ, or no box counts.
    """
    check_lengths(truth, found)
    class_names = class_names or numbers_of_classes(truth, found)
    per_class, curves = {}, {}
    for label, name in enumerate(class_names):
        recall, precision = _curve(truth, found, label, threshold)
        if recall is None or precision is None:
            per_class[name] = {"AP": -1.0}
            continue
        ap = _eleven_points(recall, precision) if year < 2010 else _area(recall, precision)
        per_class[name] = {"AP": ap}
        curves[name] = (recall, precision)
    values = [each["AP"] for each in per_class.values() if each["AP"] >= 0]
    if not values:
        raise EvaluationError(
            "no box of the split counts: all are difficult or crowds, or there is none; choose "
            "another split"
        )
    return Scores({"mAP": float(np.mean(values))}, per_class, curves)


def _curve(
    truth: Sequence[Truth], found: Sequence[Detections], label: int, threshold: float
) -> tuple[Float64[np.ndarray, " n"] | None, Float64[np.ndarray, " n"] | None]:
    """Returns recall and precision after each detection of a class, best first.

    They are None if no box of the class counts.
    """
    scores, correct, wrong, total = [], [], [], 0
    for each, detections in zip(truth, found, strict=True):
        is_label = each.labels == label
        counts = each.is_target[is_label]
        total += int(counts.sum())
        own = detections.labels == label
        order = np.argsort(-detections.scores[own], kind="stable")
        scores.append(detections.scores[own][order])
        right = _matches(
            overlaps(detections.boxes[own][order], each.boxes[is_label]), counts, threshold
        )
        correct.append(right == 1)
        wrong.append(right == 0)
    if not total:
        return None, None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hits = np.cumsum(np.concatenate(correct)[order])
    misses = np.cumsum(np.concatenate(wrong)[order])
    # Detections that match difficult boxes may come first; they leave no precision to divide.
    return hits / total, hits / np.maximum(hits + misses, 1)


def _matches(ious: Float64[np.ndarray, "n m"], counts: np.ndarray, threshold: float) -> np.ndarray:
    """Returns 1 for a correct detection, 0 for a wrong one, -1 for one that does not count.

    Args:
      ious: the IoU of an image's detections, best first, with its boxes.
      counts: whether each box counts.
      threshold: the IoU that a correct detection exceeds.
    """
    results = np.zeros(len(ious), np.int8)
    taken = np.zeros(ious.shape[1], bool)
    if not ious.shape[1]:
        return results
    for row, best in enumerate(ious.argmax(axis=1).tolist()):
        if ious[row, best] > threshold:
            results[row] = -1 if not counts[best] else not taken[best]
            taken[best] |= counts[best]
    return results


def _eleven_points(
    recall: Float64[np.ndarray, " n"], precision: Float64[np.ndarray, " n"]
) -> float:
    total = 0.0
    for least in np.arange(0.0, 1.1, 0.1):  # As in voc_eval: 0.30000000000000004 is one of them.
        total += precision[recall >= least].max(initial=0.0) / 11
    return float(total)


def _area(recall: Float64[np.ndarray, " n"], precision: Float64[np.ndarray, " n"]) -> float:
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best_from_here))
