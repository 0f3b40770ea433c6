"""What a detector found, the scores of a split, and both in the form of COCO's files."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from resnet_jax.detection.data.examples import Truth
from resnet_jax.errors import EvaluationError
from resnet_jax.runtime.files import local_path, write_atomically


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """The boxes that were found in one image.

    Attributes:
      boxes: half-open (x1, y1, x2, y2) in pixels of the image as stored.
      scores: the score of each box.
      labels: the class of each box.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]

    def above(self, threshold: float) -> "Detections":
        """Returns the boxes with a score above a threshold."""
        kept = self.scores > threshold
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The quality of detections over a split.

    Attributes:
      means: the numbers of the split by name, such as `AP` or `mAP`; -1 where no box counts.
      per_class: class → its numbers by name; -1 where no box of the class counts.
      curves: class → (recall, precision) at an IoU of 0.5, as arrays of one length.
    """

    means: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]]


def check_lengths(truth: Sequence[Truth], found: Sequence[Detections]) -> None:
    """Raises an `EvaluationError` unless there is one result per image, and an image."""
    if len(truth) != len(found) or not truth:
        raise EvaluationError(
            f"{len(truth)} images have {len(found)} results; give one for each image, in its order"
        )


def numbers_of_classes(truth: Sequence[Truth], found: Sequence[Detections]) -> tuple[str, ...]:
    """Returns the numbers of all classes up to the last one with a box, as names."""
    labels = [each.labels for each in truth] + [each.labels for each in found]
    last = max(int(each.max(initial=0)) for each in labels)
    return tuple(map(str, range(last + 1)))


def overlaps(
    boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"]
) -> Float64[np.ndarray, "n m"]:
    """Returns the IoU of half-open boxes, in float64."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, np.finfo(np.float64).tiny)


def coco_ids(truth: Sequence[Truth]) -> list[Any]:
    """Returns the images' own ids, or 1, 2, ... if they are not different whole numbers."""
    ids = [each.image_id for each in truth]
    if len(set(ids)) == len(ids) and all(isinstance(each, int) for each in ids):
        return ids
    return list(range(1, len(ids) + 1))


def coco_truth(
    truth: Sequence[Truth], class_names: Sequence[str], category_ids: Sequence[int]
) -> dict[str, Any]:
    """Returns annotated objects in the form of COCO's `instances_*.json`.

    Annotations are numbered from 1: an id of 0 counts as unmatched in COCO's evaluation. Difficult
    boxes become crowds, which count neither way there.

    Args:
      truth: the objects of each image.
      class_names: one name per class.
      category_ids: the id of each class.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in zip(coco_ids(truth), truth, strict=True):
        images.append(
            {"id": number, "file_name": each.name, "height": each.height, "width": each.width}
        )
        rows = zip(
            _corner_and_sides(each.boxes),
            each.labels.tolist(),
            (~each.is_target).tolist(),
            each.areas.tolist(),
            strict=True,
        )
        for box, label, ignored, area in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_ids[label],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(ignored),
                }
            )
    names = zip(category_ids, class_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_results(
    truth: Sequence[Truth], found: Sequence[Detections], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Returns detections in the form of COCO's result files, with the data set's own ids.

    Args:
      truth: the images, whose ids are written.
      found: the detections of each image.
      category_ids: the id of each class.
    """
    return [
        {"image_id": each.image_id, "category_id": category, "bbox": box, "score": score}
        for each, detections in zip(truth, found, strict=True)
        for category, box, score in _rows(detections, category_ids)
    ]


def write_coco_results(
    path: str | os.PathLike[str],
    truth: Sequence[Truth],
    found: Sequence[Detections],
    category_ids: Sequence[int],
) -> None:
    """Writes a file of COCO's result form, see `coco_results`, which its server and tools read.

    Raises:
      OSError: the file cannot be written.
    """
    results = coco_results(truth, found, category_ids)
    write_atomically(local_path(path), json.dumps(results))


def _rows(
    detections: Detections, category_ids: Sequence[int]
) -> Iterator[tuple[int, list[float], float]]:
    categories = [category_ids[label] for label in detections.labels.tolist()]
    boxes = _corner_and_sides(detections.boxes)
    return zip(categories, boxes, detections.scores.tolist(), strict=True)


def _corner_and_sides(boxes: Float[np.ndarray, "n 4"]) -> list[list[float]]:
    """Returns COCO's (x, y, width, height) of boxes."""
    wide = boxes.astype(np.float64)
    rows: list[list[float]] = np.concatenate(
        [wide[:, :2], wide[:, 2:] - wide[:, :2]], axis=1
    ).tolist()
    return rows
