"""COCO's JSON: layouts, ids with gaps, crowds, images without boxes, and files with errors."""

import json

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.detection.data.opening import open_detection_source
from tests.detection.data.box_files import write_coco, write_image

CATEGORIES = [
    {"id": 44, "name": "bottle"},
    {"id": 1, "name": "person"},
    {"id": 18, "name": "dog"},
]
IMAGES = [
    {"id": 581781, "file_name": "b.jpg", "height": 40, "width": 60},
    {"id": 9, "file_name": "a.jpg", "height": 40, "width": 60},
    {"id": 25, "file_name": "c.jpg", "height": 40, "width": 60},
]
ANNOTATIONS = [
    {"id": 7, "image_id": 25, "category_id": 44, "bbox": [1.5, 2, 10, 20.25], "area": 99.5},
    {"id": 3, "image_id": 581781, "category_id": 1, "bbox": [0, 0, 5, 6], "iscrowd": 0},
    {"id": 0, "image_id": 25, "category_id": 18, "bbox": [3, 4, 57, 36], "area": 12, "iscrowd": 1},
]


def make(root, json_path, folder, images=IMAGES, annotations=ANNOTATIONS, categories=CATEGORIES):
    for image in images:
        write_image(root / folder / image["file_name"])
    write_coco(root / json_path, images, annotations, categories)
    return str(root)


@pytest.mark.parametrize(
    ("json_path", "folder", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val2017"),
        ("annotations/instances_val.json", "images", "val"),
        ("annotations/instances_val.json", ".", "val"),
        ("annotations.json", ".", "train"),
        ("annotations.json", "images", "train"),
        ("valid/_annotations.coco.json", "valid", "valid"),
        ("test/annotations.json", "test/images", "test"),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_layouts(tmp_path, monkeypatch, json_path, folder, split, relative):
    path = make(tmp_path / "set", json_path, folder)
    monkeypatch.chdir(tmp_path)
    source = open_detection_source("./set" if relative else path, split)
    assert [source.describe(index) for index in range(3)] == ["b.jpg", "a.jpg", "c.jpg"]
    assert source[0].image == (tmp_path / "set" / folder / "b.jpg").read_bytes()
    assert data.notices(source) == []
    assert json_path in source.files
    assert all((tmp_path / "set" / file).exists() for file in source.files)


@pytest.mark.parametrize(
    ("json_path", "folder"),
    [
        ("annotations/instances_train.json", "train"),
        ("annotations/instances_train.json", "images/train"),
        ("boxes.json", "."),
        ("boxes/boxes.json", "images"),
    ],
)
@pytest.mark.parametrize("here", [True, False])
def test_a_single_file(tmp_path, monkeypatch, json_path, folder, here):
    make(tmp_path, json_path, folder)
    path = tmp_path / json_path
    monkeypatch.chdir(path.parent)
    source = open_detection_source(path.name if here else str(path), "train")
    assert source[1].image == (tmp_path / folder / "a.jpg").read_bytes()
    files = [path.parent / source.root / file for file in source.files]
    assert all(file.exists() for file in files)


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path, "annotations/instances_train.json", "train")


def test_boxes_labels_crowds_and_areas(folder):
    source = open_detection_source(folder, "train")
    assert source.class_names == ("person", "dog", "bottle")  # In the order of ids, with gaps.
    assert source.category_ids == (1, 18, 44)
    assert [source.truth(index).image_id for index in range(3)] == [581781, 9, 25]
    one, none, two = (source.truth(index) for index in range(3))
    np.testing.assert_array_equal(one.boxes, [[0, 0, 5, 6]])
    np.testing.assert_array_equal(one.areas, [30])  # Not stated.
    assert none.boxes.shape == (0, 4)
    np.testing.assert_array_equal(two.boxes, np.float32([[1.5, 2, 11.5, 22.25], [3, 4, 60, 40]]))
    assert two.labels.tolist() == [2, 1]
    assert two.is_crowd.tolist() == [False, True]
    assert two.areas.tolist() == [99.5, 12]
    assert not two.is_difficult.any()


def test_slices_and_sums(tmp_path):
    make(tmp_path, "annotations/instances_train.json", "train")
    make(tmp_path, "annotations/instances_val.json", "val", annotations=ANNOTATIONS[:1])
    bad = [{**ANNOTATIONS[0], "bbox": [1, 2, 0, 3]}]
    make(tmp_path, "annotations/instances_other.json", "other", IMAGES[2:], bad)
    (tmp_path / "annotations" / "instances_other.json").write_text(
        (tmp_path / "annotations" / "instances_other.json").read_text().replace("c.jpg", "e.jpg")
    )
    (tmp_path / "other" / "c.jpg").rename(tmp_path / "other" / "e.jpg")
    with pytest.raises(data.DataError, match="box 1 of e.jpg in instances_other.json is 0 px wide"):
        open_detection_source(str(tmp_path), "train+other")
    every = open_detection_source(str(tmp_path), "train+val")
    assert len(every) == 6
    assert every.truth(2).labels.tolist() == [2, 1]
    assert every.truth(5).labels.tolist() == [2]
    parts = [open_detection_source(str(tmp_path), f"train[{part}]+val") for part in (":1", "1:")]
    names = [part.describe(index) for part in parts for index in range(len(part) - 3)]
    assert sorted(names) == ["a.jpg", "b.jpg", "c.jpg"]
    with pytest.raises(
        data.DataError, match=r"no split 'vall' .*mean 'val'.*choose from other, train, v"
    ):
        open_detection_source(str(tmp_path), "vall")


def test_classes_of_a_training(folder):
    names = ("cat", "bottle", "dog", "person")
    source = open_detection_source(folder, "train", class_names=names)
    assert source.class_names == names
    assert source.truth(2).labels.tolist() == [1, 2]
    assert source.category_ids[1:] == (44, 18, 1)
    assert source.category_ids[0] == 2  # The first one that is free.
    assert data.notices(source) == [f"{folder}: no box in 'train' for cat"]
    with pytest.raises(data.DataError, match="has the class 'person', which is not among bottle, "):
        open_detection_source(folder, "train", class_names=("bottle", "dog", "parson"))


def test_a_category_that_groups_the_others(tmp_path):
    """Roboflow's id 0, which no box has; its name may even be that of a class."""
    categories = [
        {"id": 0, "name": "person", "supercategory": "none"},
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 2, "name": "dog", "supercategory": "person"},
    ]
    annotations = [{"id": 0, "image_id": 9, "category_id": 1, "bbox": [0, 0, 5, 5]}]
    path = make(
        *(tmp_path, "train/_annotations.coco.json", "train"),
        annotations=annotations,
        categories=categories,
    )
    source = open_detection_source(path, "train")
    assert source.class_names == ("person", "dog")
    assert source.category_ids == (1, 2)
    assert source.truth(1).labels.tolist() == [0]


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 0}, {"height": None, "width": None}])
def test_sizes_that_are_not_stated_are_the_images(tmp_path, size):
    images = [{"id": 25, "file_name": "c.jpg", **size}]
    annotations = [{"id": 1, "image_id": 25, "category_id": 1, "bbox": [0, 0, 99, 99]}]
    path = make(tmp_path, "annotations.json", ".", images, annotations)
    source = open_detection_source(path, "train")
    np.testing.assert_array_equal(source[0].boxes, [[0, 0, 60, 40]])
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(data.BadImageError, match=r"image 0 \(c.jpg\)"):
        open_detection_source(path, "train")


def test_images_that_no_entry_lists(tmp_path):
    path = make(tmp_path, "annotations.json", ".")
    write_image(tmp_path / "d.jpg")
    (line,) = data.notices(open_detection_source(path, "train"))
    assert "annotations.json does not list 1 of the images beside it, such as d.jpg" in line


def changed(annotation, **changes):
    return [*ANNOTATIONS[:2], {**ANNOTATIONS[2], **changes}] if annotation else []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": changed(2, category_id=2)},
            "annotation 0 of .*train.json has the category_id 2, which is not among the file's cat",
        ),
        (
            {"annotations": changed(2, image_id=10)},
            "annotation 0 of .*train.json has the image_id 10, which is not among the file's imag",
        ),
        ({"annotations": changed(2, id=7)}, "has two annotations of id 7; renumber them"),
        (
            {"images": [*IMAGES, {**IMAGES[0], "file_name": "d.jpg"}]},
            "two images of id 581781: 'b.jpg' and 'd.jpg'; renumber one",
        ),
        (
            {"categories": [*CATEGORIES, {"id": 18, "name": "cat"}]},
            "two categories of id 18: 'dog' and 'cat'; renumber one",
        ),
        (
            {"categories": [*CATEGORIES, {"id": 19, "name": "dog"}]},
            "two categories of the name 'dog'; rename one",
        ),
        ({"categories": [{"id": "x", "name": "dog"}]}, "the category id 'x'; give whole numbers"),
        ({"categories": [{"name": "dog"}]}, "has a category without id or 'name'"),
        ({"annotations": changed(2, bbox=[1, 2, 3])}, r"has the bbox \[1, 2, 3\]; give \[x, y"),
        ({"annotations": changed(2, bbox=None)}, "has the bbox None; give"),
        ({"annotations": changed(2, bbox=[1, 2, "3", 4])}, "has the bbox .*; give"),
        ({"images": [{"id": 1}]}, "has an image without id or 'file_name': {'id': 1}"),
        ({"images": None}, "has no list of 'images'; give a file of COCO's object detection"),
        ({"annotations": [3]}, "has no list of 'annotations'; give"),
        (
            {"annotations": changed(2, bbox=[3, 4, 12, 0])},
            "box 2 of c.jpg in instances_train.json is 12 px wide and 0 high; remove it, or set",
        ),
        (
            {"annotations": changed(2, bbox=[3, 4, float("nan"), 5])},
            "box 2 of c.jpg .* has a coordinate that",
        ),
        (
            {"annotations": changed(2, bbox=[3, 4, 10**400, 5])},
            "c.jpg in .* has a number that cannot",
        ),
        ({"annotations": changed(2, area="large")}, "c.jpg in .* has a number that cannot be used"),
        (
            {"annotations": changed(2, id=[3], category_id=[1])},
            r"the category_id \[1\], which is no",
        ),
        (
            {"images": [{**each, "height": 10**12} for each in IMAGES]},
            "b.jpg in .* has a number th",
        ),
        ({"images": [{**each, "width": [7]} for each in IMAGES]}, "b.jpg in .* has a number that "),
        ({"annotations": []}, "split 'train' of .* has no box in any of its 3 images"),
    ],
)
def test_files_that_cannot_be_used(folder, tmp_path, changes, message):
    content = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES} | changes
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(data.DataError, match=message):
        open_detection_source(folder, "train")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_files_that_are_not_json(folder, tmp_path, text):
    (tmp_path / "annotations" / "instances_train.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(data.DataError, match="instances_train.json is not JSON .*; write or fetch"):
        open_detection_source(folder, "train")


def test_a_missing_image(folder, tmp_path):
    (tmp_path / "train" / "a.jpg").rename(tmp_path / "train" / "aa.jpg")
    message = r"image a.jpg in instances_train.json is not in .*train \(did you mean 'aa.j"
    with pytest.raises(data.DataError, match=message):
        open_detection_source(folder, "train")


def test_no_image_at_all(folder, tmp_path):
    (tmp_path / "train").rename(tmp_path / "pictures")
    with pytest.raises(data.DataError, match="image 'b.jpg' of .* is neither beside it nor in tr"):
        open_detection_source(folder, "train")


def test_a_missing_file(tmp_path):
    with pytest.raises(data.DataError, match=r"cannot read .*boxes.json \(No such file"):
        open_detection_source(str(tmp_path / "boxes.json"), "train")
    with pytest.raises(data.DataError, match="there is no folder .*nowhere"):
        open_detection_source(str(tmp_path / "nowhere"), "train")
    with pytest.raises(
        data.DataError, match="holds no boxes that can be read; it should hold COCO"
    ):
        open_detection_source(str(tmp_path), "train")


def test_splits_with_different_categories(tmp_path):
    make(tmp_path, "annotations/instances_train.json", "train")
    make(
        *(tmp_path, "annotations/instances_val.json", "val"),
        annotations=ANNOTATIONS[1:2],
        categories=CATEGORIES[:2],
    )
    with pytest.raises(data.DataError, match="have different categories; make them equal, or use"):
        open_detection_source(str(tmp_path), "train+val")
