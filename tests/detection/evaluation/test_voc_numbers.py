"""VOC's average precision against a transcript of py-faster-rcnn's, pixel counting and all."""

import dataclasses

import numpy as np
import pytest

from resnet_jax.detection.data.folders import make_truth
from resnet_jax.detection.evaluation import Detections, voc_metrics
from resnet_jax.errors import EvaluationError

CLASSES = ("cat", "dog", "eel")


def voc_ap(recalls, precisions, use_07_metric):
    if use_07_metric:
        total = 0.0
        for point in range(11):
            least = 0.1 * point  # As np.arange(0, 1.1, 0.1) has them.
            best = 0.0
            for recall, precision in zip(recalls, precisions, strict=True):
                if recall >= least and precision > best:
                    best = precision
            total += best / 11
        return total
    recalls, precisions = [0.0, *recalls, 1.0], [0.0, *precisions, 0.0]
    for i in range(len(precisions) - 1, 0, -1):
        precisions[i - 1] = max(precisions[i - 1], precisions[i])
    total = 0.0
    for i in range(1, len(recalls)):
        if recalls[i] != recalls[i - 1]:
            total += (recalls[i] - recalls[i - 1]) * precisions[i]
    return total


def voc_eval(truth, found, label, use_07_metric):
    """Boxes are (xmin, ymin, xmax, ymax) counted from 1 with both ends, as in VOC's files."""
    positives, seen, lines = 0, [], []
    for image, (_, labels, difficult) in enumerate(truth):
        own = [i for i in range(len(labels)) if labels[i] == label]
        positives += sum(not difficult[i] for i in own)
        seen.append({i: False for i in own})
        for box, score, other in zip(*found[image], strict=True):
            if other == label:
                lines.append((score, image, box))
    lines.sort(key=lambda line: -line[0])  # Stable: ties stay in the order of the images.
    hits = misses = 0
    recalls, precisions = [], []
    for _, image, (x1, y1, x2, y2) in lines:
        boxes, _, difficult = truth[image]
        best, best_index = -1.0, None
        for i in seen[image]:
            a1, b1, a2, b2 = boxes[i]
            across = max(min(x2, a2) - max(x1, a1) + 1.0, 0.0)
            down = max(min(y2, b2) - max(y1, b1) + 1.0, 0.0)
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + (a2 - a1 + 1) * (b2 - b1 + 1) - across * down
            overlap = across * down / union
            if overlap > best:
                best, best_index = overlap, i
        if best > 0.5:
            if not difficult[best_index]:
                if not seen[image][best_index]:
                    hits += 1
                    seen[image][best_index] = True
                else:
                    misses += 1
        else:
            misses += 1
        recalls.append(hits / positives)
        precisions.append(hits / max(hits + misses, np.finfo(np.float64).eps))
    return voc_ap(recalls, precisions, use_07_metric)


def half_open(boxes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return boxes - [1, 1, 0, 0]


def random_set(seed):
    """Whole pixels, so that IoUs of exactly 0.5 and equal ones occur; many equal scores."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(30):
        number = int(rng.integers(0, 6)) if image else 0
        corners = rng.integers(1, 60, (number, 2))
        boxes = np.concatenate([corners, corners + rng.integers(1, 30, (number, 2))], axis=1)
        labels = rng.integers(0, 3, number).tolist()
        truth.append((boxes.tolist(), labels, (rng.random(number) < 0.3).tolist()))
        near = np.repeat(boxes, 3, axis=0) + rng.integers(-3, 4, (3 * number, 4))
        far = rng.integers(1, 40, (4, 4)) + [0, 0, 41, 41]
        found_boxes = np.concatenate([near, far])
        found_boxes[:, 2:] = np.maximum(found_boxes[:, 2:], found_boxes[:, :2])
        scores = rng.integers(1, 16, len(found_boxes)) / 16
        found_labels = [*np.repeat(labels, 3).astype(int).tolist(), 0, 1, 2, 0]
        found.append((found_boxes.tolist(), scores.tolist(), found_labels))
    return truth, found


def ours(truth, found):
    truths = [
        make_truth(
            half_open(boxes).tolist(),
            labels,
            is_difficult=difficult,
            height=99,
            width=99,
            image_id=index,
            name=str(index),
        )
        for index, (boxes, labels, difficult) in enumerate(truth)
    ]
    detections = [
        Detections(
            half_open(boxes).astype(np.float32),
            np.array(scores, np.float32),
            np.array(labels, np.int32),
        )
        for boxes, scores, labels in found
    ]
    return truths, detections


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("year", [2007, 2012])
def test_numbers_equal_py_faster_rcnns(seed, year):
    truth, found = random_set(seed)
    scores = voc_metrics(*ours(truth, found), CLASSES, year=year)
    expected = [voc_eval(truth, found, label, year == 2007) for label in range(3)]
    np.testing.assert_allclose(
        [scores.per_class[name]["AP"] for name in CLASSES], expected, rtol=0, atol=1e-12
    )
    assert scores.means == pytest.approx({"mAP": np.mean(expected)}, abs=1e-12)
    assert 0.05 < scores.means["mAP"] < 0.95


def one(boxes, labels, difficult, found, scores, found_labels):
    return ours([(boxes, labels, difficult)], [(found, scores, found_labels)])


BOX, OTHER = (11, 11, 20, 20), (51, 51, 60, 60)


@pytest.mark.parametrize(
    ("difficult", "found", "expected"),
    [
        ([False, False], [BOX, OTHER], 1.0),
        ([False, True], [BOX], 1.0),  # Not missed.
        ([False, True], [BOX, OTHER], 1.0),  # Found, which is not wrong.
        ([False, True], [OTHER, OTHER, BOX], 1.0),  # However often and however early.
        ([False, False], [BOX, BOX], 0.5),  # The second one is wrong, the other box missed.
        ([False, False], [OTHER, BOX, (1, 1, 4, 4)], 1.0),
    ],
)
def test_difficult_boxes_count_neither_way(difficult, found, expected):
    scores = [1 - 0.1 * index for index in range(len(found))]
    arguments = one([BOX, OTHER], [0, 0], difficult, found, scores, [0] * len(found))
    assert voc_metrics(*arguments, CLASSES, year=2012).means["mAP"] == pytest.approx(expected)


def test_an_iou_of_exactly_half_is_wrong():
    arguments = one([(1, 1, 10, 10)], [0], [False], [(1, 1, 10, 20)], [0.9], [0])
    assert voc_metrics(*arguments, CLASSES).means["mAP"] == 0
    arguments = one([(1, 1, 10, 10)], [0], [False], [(1, 1, 10, 19)], [0.9], [0])
    assert voc_metrics(*arguments, CLASSES).means["mAP"] == pytest.approx(1)


def test_classes_without_a_box_do_not_count():
    arguments = one([BOX, OTHER], [0, 1], [False, True], [BOX, OTHER], [0.9, 0.8], [0, 2])
    scores = voc_metrics(*arguments, CLASSES, year=2012)
    assert scores.means == {"mAP": 1.0}
    assert [scores.per_class[name]["AP"] for name in CLASSES] == pytest.approx([1, -1, -1])
    assert list(scores.curves) == ["cat"]


def test_crowds_count_neither_way():
    truth, found = one([BOX, OTHER], [0, 0], [False, False], [BOX, OTHER], [0.8, 0.9], [0, 0])
    crowd = [dataclasses.replace(truth[0], is_crowd=np.array([False, True]))]
    found = [Detections(found[0].boxes[:1], found[0].scores[:1], found[0].labels[:1])]
    assert voc_metrics(truth, found, CLASSES, year=2012).means["mAP"] == 0.5
    assert voc_metrics(crowd, found, CLASSES, year=2012).means["mAP"] == 1


def test_classes_without_names():
    arguments = one([BOX, OTHER], [0, 2], [False, False], [BOX, OTHER], [0.9, 0.8], [0, 4])
    scores = voc_metrics(*arguments, year=2012)
    assert list(scores.per_class) == ["0", "1", "2", "3", "4"]
    assert scores.means["mAP"] == pytest.approx(0.5)


def test_nothing_found():
    arguments = one([BOX], [0], [False], [], [], [])
    assert voc_metrics(*arguments, CLASSES).per_class["cat"]["AP"] == 0
    assert voc_metrics(*arguments, CLASSES, year=2012).per_class["cat"]["AP"] == 0


def test_what_cannot_be_measured():
    truth, found = one([BOX], [0], [True], [BOX], [0.9], [0])
    with pytest.raises(EvaluationError, match="no box of the split counts: all are difficult or"):
        voc_metrics(truth, found, CLASSES)
    with pytest.raises(EvaluationError, match="1 images have 0 results"):
        voc_metrics(truth, [], CLASSES)
