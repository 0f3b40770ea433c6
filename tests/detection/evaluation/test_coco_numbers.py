"""COCO's numbers against pycocotools on files: ids with gaps, crowds, no boxes, ties."""

import contextlib
import dataclasses
import io
import json
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_jax.detection.data.opening import open_detection_source
from resnet_jax.detection.evaluation import (
    Detections,
    coco_metrics,
    coco_results,
    coco_truth,
    write_coco_results,
)
from resnet_jax.detection.evaluation.coco import COCO_NUMBERS
from resnet_jax.errors import EvaluationError, missing_package
from tests.detection.data.box_files import write_coco, write_image

CATEGORIES = [{"id": 3, "name": "cup"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "none"}]
HEIGHT, WIDTH = 300, 400


def make_truth(rng):
    """Annotated images whose ids have gaps and are not in order; some are crowds, some empty."""
    ids = [int(number) for number in rng.permutation(np.arange(1, 200, 7))[:20]]
    images = [
        {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
        for number in ids
    ]
    annotations = []
    for number in ids[2:]:
        for _ in range(int(rng.integers(0, 9))):
            x, y = rng.integers(0, WIDTH - 40), rng.integers(0, HEIGHT - 40)
            # Of all three sizes: areas below 32², above 96².
            w, h = rng.uniform(8, 38 if rng.random() < 0.5 else 150, 2)
            w, h = min(w, WIDTH - x), min(h, HEIGHT - y)
            annotations.append(
                {
                    "id": 5 + 3 * len(annotations),
                    "image_id": number,
                    "category_id": int(rng.choice([3, 17])),
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h * rng.uniform(0.5, 1)),  # A mask's.
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return images, annotations


def make_found(rng, source):
    """Boxes near and far from the truth, with few different scores, of all classes."""
    found = []
    for index in range(len(source)):
        truth = source.truth(index)
        near = np.repeat(truth.boxes, 2, axis=0) + rng.normal(0, 3, (2 * len(truth.boxes), 4))
        corner = rng.uniform(0, 200, (4, 2))
        far = np.concatenate([corner, corner + rng.uniform(5, 99, (4, 2))], axis=1)
        boxes = np.concatenate([near, far]).astype(np.float32)
        labels = np.concatenate([np.repeat(truth.labels, 2), rng.integers(0, 3, 4)])
        scores = rng.integers(1, 8, len(boxes)) / 8
        kept = rng.random(len(boxes)) < 0.8
        found.append(
            Detections(boxes[kept], scores[kept].astype(np.float32), labels[kept].astype(np.int32))
        )
    found[4] = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
    )
    return found


def by_pycocotools(truth_file, results_file):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(4))
def test_numbers_equal_pycocotools_on_files(tmp_path, seed):
    rng = np.random.default_rng(seed)
    images, annotations = make_truth(rng)
    path = tmp_path / "annotations" / "instances_val.json"
    write_coco(path, images, annotations, CATEGORIES)
    write_image(tmp_path / "val" / images[0]["file_name"], HEIGHT, WIDTH)
    for image in images:
        (tmp_path / "val" / image["file_name"]).touch()
    source = open_detection_source(str(tmp_path), "val")
    truth, found = [source.truth(index) for index in range(len(source))], make_found(rng, source)
    scores = coco_metrics(truth, found, source.class_names)

    results = tmp_path / "results.json"
    write_coco_results(results, truth, found, source.category_ids)
    evaluation = by_pycocotools(path, results)
    assert tuple(scores.means) == COCO_NUMBERS
    # The source's boxes are float32, which moves no pair across a threshold here.
    np.testing.assert_allclose(list(scores.means.values()), evaluation.stats, rtol=0, atol=1e-12)
    assert 0.1 < scores.means["AP"] < 0.9
    assert all(value >= 0 for value in scores.means.values())
    precision = evaluation.eval["precision"]
    for label, name in enumerate(source.class_names[:2]):
        own = precision[:, :, label, 0, -1]
        np.testing.assert_allclose(scores.per_class[name]["AP"], own.mean(), atol=1e-12)
        np.testing.assert_allclose(scores.per_class[name]["AP50"], own[0].mean(), atol=1e-12)
        np.testing.assert_array_equal(scores.curves[name][1], own[0])
    assert scores.per_class["none"] == {"AP": -1, "AP50": -1}  # No box of it in the split.
    assert set(scores.curves) == {"cup", "cat"}

    # Our own file of the truth is as good as the data set's.
    ours = coco_truth(truth, source.class_names, source.category_ids)
    assert [each["id"] for each in ours["annotations"]] == list(range(1, len(annotations) + 1))
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    again = by_pycocotools(tmp_path / "ours.json", results)
    np.testing.assert_allclose(again.stats, evaluation.stats, rtol=0, atol=1e-12)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(5)
    images, annotations = make_truth(rng)
    write_coco(tmp_path / "annotations.json", images, annotations, CATEGORIES)
    for image in images:
        (tmp_path / image["file_name"]).touch()
    return open_detection_source(str(tmp_path), "train")


def truths(source):
    return [source.truth(index) for index in range(len(source))]


def empty():
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))


def perfect(truth):
    target = truth.is_target
    ones = np.ones(int(target.sum()), np.float32)
    return Detections(truth.boxes[target], ones, truth.labels[target])


def test_crowds_matter(source):
    """Their boxes are found, which counts neither way; as ordinary boxes they would."""
    truth = truths(source)
    assert any(each.is_crowd.any() for each in truth)
    found = [perfect(each) for each in truth]
    assert coco_metrics(truth, found, source.class_names).means["AP"] == 1
    inside = [
        Detections(each.boxes, np.ones(len(each.labels), np.float32), each.labels) for each in truth
    ]
    assert coco_metrics(truth, inside, source.class_names).means["AP"] == 1
    plain = [dataclasses.replace(each, is_crowd=np.zeros_like(each.is_crowd)) for each in truth]
    assert coco_metrics(plain, found, source.class_names).means["AP"] < 1


def test_an_annotation_numbered_0_would_count_as_unmatched(source, tmp_path):
    """Why files of ours count from 1."""
    truth = truths(source)
    ours = coco_truth(truth, source.class_names, source.category_ids)
    results = coco_results(truth, [perfect(each) for each in truth], source.category_ids)
    (tmp_path / "results.json").write_text(json.dumps(results))
    for start, expected in ((1, True), (0, False)):
        for number, each in enumerate(ours["annotations"], start):
            each["id"] = number
        (tmp_path / "truth.json").write_text(json.dumps(ours))
        ap = by_pycocotools(tmp_path / "truth.json", tmp_path / "results.json").stats[0]
        assert (ap == 1) == expected


def test_results_have_the_data_sets_ids(source):
    truth = truths(source)
    rows = coco_results(truth, [perfect(each) for each in truth], source.category_ids)
    assert {row["image_id"] for row in rows} <= {each.image_id for each in truth}
    assert {row["category_id"] for row in rows} == {3, 17}
    first = next(each for each in truth if each.is_target.any())
    x1, y1, x2, y2 = first.boxes[first.is_target][0].tolist()
    assert rows[0] == {
        "image_id": first.image_id,
        "category_id": source.category_ids[first.labels[first.is_target][0]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": 1.0,
    }


def test_nothing_found(source):
    scores = coco_metrics(truths(source), [empty()] * len(source), source.class_names)
    assert scores.means["AP"] == scores.means["AR100"] == 0


@pytest.mark.parametrize("ids", [range(1, 5), "abcd", [1, 2, "c", "d"], [7, 7, 7, 7]])
def test_ids_that_are_text_or_come_twice(ids):
    """As in VOC folders and joined data sets."""
    source = open_detection_source("bccd_mini", "test[:4]")
    truth = truths(source)
    truth = [dataclasses.replace(each, image_id=i) for each, i in zip(truth, ids, strict=True)]
    found = [perfect(each) for each in truth]
    assert coco_metrics(truth, found, source.class_names).means["AP"] == 1
    # An image without its boxes, if it is one of its own.
    found[1] = empty()
    numbers = coco_metrics(truth, found, source.class_names).means
    shares = [
        np.sum([np.sum(each.labels == label) for each in (truth[0], *truth[2:])])
        / np.sum([np.sum(each.labels == label) for each in truth])
        for label in np.unique(source.labels)
    ]
    assert numbers["AR100"] == pytest.approx(np.mean(shares))
    rows = coco_results(truth, found, source.category_ids)
    assert rows[0]["image_id"] == ids[0] and rows[-1]["image_id"] == ids[3]


def test_difficult_boxes_count_neither_way(source):
    truth = truths(source)
    marked = [dataclasses.replace(each, is_difficult=each.areas > 3000) for each in truth]
    assert any(each.is_difficult.any() for each in marked)
    found = [perfect(each) for each in marked]
    assert coco_metrics(marked, found, source.class_names).means["AP"] == 1
    assert coco_metrics(truth, found, source.class_names).means["AP"] < 1


def test_classes_without_names(source):
    truth = truths(source)
    found = [perfect(each) for each in truth]
    scores = coco_metrics(truth, found)
    assert scores.means == coco_metrics(truth, found, source.class_names).means
    assert list(scores.per_class) == ["0", "1"]


def test_nothing_is_printed(source, capsys):
    coco_metrics(truths(source), [empty()] * len(source), source.class_names)
    assert capsys.readouterr() == ("", "")


def test_one_result_per_image(source):
    with pytest.raises(EvaluationError, match="20 images have 19 results; give one for each image"):
        coco_metrics(truths(source), [empty()] * 19, source.class_names)


def test_without_pycocotools(source, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pycocotools")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        coco_metrics(truths(source), [empty()] * len(source), source.class_names)
    assert missing_package(caught.value) == (
        "this needs the package pycocotools: python -m pip install 'resnet-jax[detection]'"
    )
