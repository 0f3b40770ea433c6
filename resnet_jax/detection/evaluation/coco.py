"""COCO's twelve numbers, computed by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.detection.data.examples import Truth
from resnet_jax.detection.evaluation.detections import (
    Detections,
    Scores,
    check_lengths,
    coco_ids,
    coco_results,
    coco_truth,
    numbers_of_classes,
)

COCO_NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""The names of COCO's twelve numbers, in pycocotools' order."""


def coco_metrics(
    truth: Sequence[Truth],
    found: Sequence[Detections],
    class_names: Sequence[str] | None = None,
) -> Scores:
    """Returns COCO's average precision and recall as fractions.

    pycocotools computes them: means over IoUs from 0.5 to 0.95, 101 recalls, and classes; crowds
    count neither way, difficult boxes are treated as crowds, and an image's 100 best detections of
    a class count. Detections of equal score rank in the order of the images' ids.

    Args:
      truth: the objects of each image.
      found: the detections of each image.
      class_names: one name per class; None for the classes' numbers.

    Returns:
      `means` has `COCO_NUMBERS`, `per_class` has `AP` and `AP50`; -1, as COCO writes it, where no
      object of the size or class is in the split.

    Raises:
      EvaluationError: the numbers of images differ.
      ModuleNotFoundError: pycocotools is not installed; it comes with the extra `detection`.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    check_lengths(truth, found)
    class_names = class_names or numbers_of_classes(truth, found)
    ids = range(1, len(class_names) + 1)  # Any ids give the same numbers.
    reference = coco_truth(truth, class_names, ids)
    with contextlib.redirect_stdout(io.StringIO()):  # It prints what it does.
        evaluation = COCOeval(_index(COCO(), reference), _detected(COCO(), reference, truth, found))
        evaluation.params.iouType = "bbox"
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [IoU, recall, class, size, number of detections]: of all sizes, and 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    recalls = np.asarray(evaluation.params.recThrs, np.float64)
    per_class, curves = {}, {}
    for label, name in enumerate(class_names):
        own = precision[:, :, label]
        per_class[name] = {"AP": _mean(own), "AP50": _mean(own[:1])}
        if (own[0] > -1).all():
            curves[name] = (recalls, np.asarray(own[0], np.float64))
    numbers = map(float, evaluation.stats)
    return Scores(dict(zip(COCO_NUMBERS, numbers, strict=True)), per_class, curves)


def _index(coco: Any, content: dict[str, Any]) -> Any:
    coco.dataset = content
    coco.createIndex()
    return coco


def _detected(
    coco: Any, reference: dict[str, Any], truth: Sequence[Truth], found: Sequence[Detections]
) -> Any:
    """Returns what `COCO.loadRes` would, which fails if nothing was found."""
    ids = range(1, len(reference["categories"]) + 1)
    images = dict(enumerate(coco_ids(truth)))
    annotations: list[dict[str, Any]] = []
    for index, (each, detections) in enumerate(zip(truth, found, strict=True)):
        for row in coco_results([each], [detections], ids):
            _, _, width, height = row["bbox"]
            row |= {"id": len(annotations) + 1, "image_id": images[index]}
            annotations.append(row | {"area": width * height, "iscrowd": 0})
    return _index(coco, reference | {"annotations": annotations})


def _mean(precision: np.ndarray) -> float:
    """Returns the mean of the precisions that are defined, as pycocotools does."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0
