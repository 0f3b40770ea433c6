"""TFDS's `coco` and `voc` as records, without TensorFlow, and the bundled blood cells."""

import importlib.util
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import read_only_builder

from resnet_jax import data
from resnet_jax.detection.data.opening import open_detection_source
from resnet_jax.detection.data.records import BUNDLED_DIR, COCO_CATEGORY_IDS
from tests.data.tfds_files import TFDS, encode, make_tfds_dataset
from tests.detection.data.box_files import (
    BOX,
    VOC_LABELS,
    VOC_OBJECTS,
    features_json,
    label_feature,
    number_feature,
    pixels,
    voc_record,
    voc_xml,
    write_records,
    write_voc,
)

ROOT = Path(__file__).parents[3]
COCO_OBJECTS = {
    "area": number_feature("int64"),
    "bbox": BOX,
    "id": number_feature("int64"),
    "is_crowd": number_feature("bool"),
    "label": label_feature(80),
}
COCO_NAMES = [f"class{index}" for index in range(80)]
# As in instances_val2017.json: "stop sign" is the 12th class and has the id 13.
STOP_SIGN, TOOTHBRUSH = 11, 79


def coco_record(boxes, labels, crowd, areas, image_id, height=40, width=60):
    relative = [(y / height, x / width, (y + h) / height, (x + w) / width) for x, y, w, h in boxes]
    return {
        "image": encode(pixels(height, width, image_id), "jpeg"),
        "image/filename": f"{image_id:012}.jpg".encode(),
        "image/id": image_id,
        "objects/bbox": np.array(relative, np.float32).ravel(),
        "objects/label": np.array(labels, np.int64),
        "objects/is_crowd": np.array(crowd, np.int64),
        "objects/area": np.array(areas, np.int64),
        "objects/id": np.array(range(len(labels)), np.int64),
    }


@pytest.fixture
def coco(tmp_path):
    records = [
        coco_record([(1.5, 2, 10, 20.25), (3, 4, 57, 36)], [TOOTHBRUSH, 0], [0, 1], [99, 12], 139),
        coco_record([], [], [], [], 7),
        coco_record([(0, 0, 30, 25)], [STOP_SIGN], [0], [30], 581781, height=25, width=30),
    ]
    described = features_json(COCO_OBJECTS, **{"image/id": number_feature("int64")})
    write_records(tmp_path, "coco/2017", described, records, COCO_NAMES, "1.1.0")
    return tmp_path


def test_coco(coco):
    source = open_detection_source("coco/2017", "train", coco)
    assert [source.truth(index).image_id for index in range(3)] == [139, 7, 581781]
    assert source.describe(0) == "000000000139.jpg"
    first, none, last = (source[index] for index in range(3))
    np.testing.assert_allclose(
        first.boxes, [[1.5, 2, 11.5, 22.25], [3, 4, 60, 40]], rtol=0, atol=1e-5
    )
    assert first.labels.tolist() == [TOOTHBRUSH, 0]
    assert first.is_crowd.tolist() == [False, True]
    assert first.areas.tolist() == [99, 12]  # The masks', which TFDS cuts to whole numbers.
    assert none.boxes.shape == (0, 4)
    assert (last.height, last.width) == (25, 30)
    np.testing.assert_array_equal(last.boxes, [[0, 0, 30, 25]])
    assert source.files == ("coco-train.array_record-00000-of-00001",)
    assert (Path(source.root) / source.files[0]).exists()
    assert source.category_ids[STOP_SIGN] == 13
    assert source.category_ids[TOOTHBRUSH] == 90
    assert data.fingerprint(source)["images"] == 3


def test_the_ids_of_coco():
    """The numbers of COCO's paper: 80 of 91 categories, numbered from 1 to 90 with ten gaps."""
    assert len(COCO_CATEGORY_IDS) == 80
    assert sorted({*range(1, 91)} - {*COCO_CATEGORY_IDS}) == [
        *(12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    ]


def test_agrees_with_tfds(coco):
    source = open_detection_source("coco/2017:1.1.0", "train[1:]", coco)
    builder = read_only_builder.builder_from_files("coco/2017", data_dir=coco)
    examples = builder.as_data_source("train[1:]")
    assert len(source) == len(examples) == 2
    for index, example in enumerate(examples):
        objects, truth = example["objects"], source.truth(index)
        boxes = np.array(objects["bbox"], np.float32).reshape(-1, 4)
        height, width = example["image"].shape[:2]
        expected = boxes[:, [1, 0, 3, 2]] * np.float32([width, height, width, height])
        np.testing.assert_allclose(truth.boxes, expected, rtol=0, atol=1e-5)
        assert truth.labels.tolist() == list(objects["label"])
        assert truth.image_id == example["image/id"]


def test_voc_rounds_to_whole_pixels(tmp_path):
    """Every place in images of usual sizes comes back, though float32 fractions store it."""
    records, expected = [], []
    for width, height in [(500, 375), (333, 500), (486, 500), (500, 281)]:
        xs, ys = np.arange(1, width), np.arange(1, height)
        length = max(len(xs), len(ys))
        xs, ys = np.resize(xs, length), np.resize(ys, length)
        boxes = np.stack([xs, ys, np.minimum(xs + 7, width), np.minimum(ys + 3, height)], axis=1)
        labels = [index % 3 for index in range(length)]
        records.append(voc_record(boxes.tolist(), labels, [0] * length, height=height, width=width))
        expected.append(boxes - [1, 1, 0, 0])
    write_records(tmp_path, "voc/2007", features_json(VOC_OBJECTS), records, VOC_LABELS, "4.0.0")
    source = open_detection_source("voc/2007", "train", tmp_path)
    for index, boxes in enumerate(expected):
        np.testing.assert_array_equal(source.truth(index).boxes, boxes)
    assert source.category_ids == (1, 2, 3)


def test_voc_records_equal_the_folder(tmp_path):
    """Difficult ones, one pixel, a minimum of 0, an image without boxes."""
    boxes = [(1, 1, 5, 6), (60, 40, 60, 40), (0, 3, 20, 30)]
    labels, difficult = [0, 2, 0], [0, 1, 0]
    records = [voc_record(boxes, labels, difficult), voc_record([], [], [], "000002.jpg")]
    described = features_json(VOC_OBJECTS)
    write_records(tmp_path / "tfds", "voc/2012", described, records, VOC_LABELS, "4.0.0")
    objects = [
        (VOC_LABELS[label], box, flag)
        for label, box, flag in zip(labels, boxes, difficult, strict=True)
    ]
    write_voc(tmp_path / "voc", {"000001": voc_xml(*objects), "000002": voc_xml()})
    prepared = open_detection_source("voc/2012", "train", tmp_path / "tfds")
    folder = open_detection_source(str(tmp_path / "voc"), "train", class_names=VOC_LABELS)
    for index in range(2):
        one, other = prepared.truth(index), folder.truth(index)
        for key in ("boxes", "labels", "is_crowd", "is_difficult", "areas", "name", "image_id"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key), key)
    assert prepared.notices[1:] == ("voc/2012: no box in 'train' for bicycle",)
    assert (
        "1 box has xmin or ymin 0 although VOC counts from 1, first in 000001.jpg"
        in (prepared.notices[0])
    )


def test_a_copy_reads_the_same(coco):
    source = open_detection_source("coco/2017", "train", coco)
    copy = pickle.loads(pickle.dumps(source))
    assert copy[2].image == source[2].image
    np.testing.assert_array_equal(copy[2].boxes, source[2].boxes)


def test_classes_in_another_order(coco):
    names = tuple(reversed(COCO_NAMES))
    source = open_detection_source("coco/2017", "train", coco, class_names=names)
    assert source.truth(0).labels.tolist() == [0, 79]
    assert source.category_ids[79 - STOP_SIGN] == 13


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_an_image_that_cannot_be_opened(tmp_path, on_bad_image):
    records = [voc_record([(1, 1, 5, index + 2)], [0], [0], f"{index}.jpg") for index in range(3)]
    records[1]["image"] = b"no image"
    write_records(tmp_path, "voc/2007", features_json(VOC_OBJECTS), records, VOC_LABELS)
    options = {"data_dir": tmp_path, "on_bad_image": on_bad_image}
    if on_bad_image == "error":
        with pytest.raises(
            data.BadImageError, match=r"image 1 \(1.jpg\) of 'voc/2007' cannot be u"
        ):
            open_detection_source("voc/2007", "train", **options)
        return
    source = open_detection_source("voc/2007", "train", **options)
    assert [source.describe(index) for index in range(2)] == ["0.jpg", "2.jpg"]
    assert source[1].image == records[2]["image"]
    np.testing.assert_array_equal(source[1].boxes, [[0, 0, 5, 4]])
    assert "1 images left out, because image 1 (1.jpg)" in source.notices[0]


def test_bad_boxes(tmp_path):
    records = [voc_record([(1, 1, 5, 6), (9, 9, 20, 8)], [0, 1], [0, 0])]
    write_records(tmp_path, "voc/2007", features_json(VOC_OBJECTS), records, VOC_LABELS)
    with pytest.raises(data.DataError, match="box 2 of 000001.jpg is 12 px wide and 0 high; rem"):
        open_detection_source("voc/2007", "train", tmp_path)
    source = open_detection_source("voc/2007", "train", tmp_path, on_bad_box="skip")
    np.testing.assert_array_equal(source.truth(0).boxes, [[0, 0, 5, 6]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects/label": np.array([3])}, "000001.jpg of 'voc/2007' has the label 3, which is no"),
        ({"objects/label": np.array([-1])}, "has the label -1"),
        ({"objects/label": np.array([1, 2])}, "has 1 boxes and 2 labels; prepare the data set aga"),
    ],
)
def test_records_that_do_not_fit_their_description(tmp_path, changes, message):
    record = voc_record([(1, 1, 5, 6)], [0], [0]) | changes
    write_records(tmp_path, "voc/2007", features_json(VOC_OBJECTS), [record], VOC_LABELS)
    with pytest.raises(data.DataError, match=message):
        open_detection_source("voc/2007", "train", tmp_path)


def changed(**changes):
    return features_json(VOC_OBJECTS | changes)


XYXY = BOX | {"boundingBox": BOX["boundingBox"] | {"bboxFormat": "XYXY"}}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (changed(label=number_feature("int64")), "has no 'objects' with a class 'label'; use a de"),
        (changed(bbox=number_feature("int64")), "has 'objects' without 'bbox' in TFDS's own form"),
        (changed(bbox=XYXY), "has 'objects' without 'bbox' in TFDS's own form"),
        (
            changed(bbox={"pythonClassName": "mine.Box"}),
            "names the class 'mine.Box', which is not TFDS's and not imported",
        ),
    ],
)
def test_features_that_are_not_boxes(tmp_path, described, message):
    records = [voc_record([(1, 1, 5, 6)], [0], [0])]
    write_records(tmp_path, "voc/2007", described, records, VOC_LABELS)
    with pytest.raises(data.DataError, match=message):
        open_detection_source("voc/2007", "train", tmp_path)


def test_a_classification_set(tmp_path):
    make_tfds_dataset(tmp_path, "pets", [pixels(40, 60)], [0])
    with pytest.raises(data.DataError, match="'pets' has no 'objects' with a class 'label'"):
        open_detection_source("pets", "train", tmp_path)


def test_a_set_or_split_that_is_missing(coco):
    with pytest.raises(data.DataError, match="data set 'coco/2014' not found"):
        open_detection_source("coco/2014", "train", coco)
    with pytest.raises(data.DataError, match="no split 'val' in 'coco/2017'"):
        open_detection_source("coco/2017", "val", coco)


def test_a_damaged_file(coco):
    (path,) = (coco / "coco/2017/1.1.0").glob("*.array_record*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(data.DataError, match="a file of 'coco/2017' is missing or damaged"):
        open_detection_source("coco/2017", "train", coco)


def test_a_registered_source(monkeypatch):
    monkeypatch.setattr(data.DATASETS, "_makers", {})
    own = open_detection_source("bccd_mini", "test")
    data.register_dataset("mine")(lambda split, data_dir: own)
    assert open_detection_source("mine", "train") is own


def test_the_bundled_blood_cells(tmp_path):
    counts = {"train": 205, "val": 87, "test": 72}
    sources = {s: open_detection_source("bccd_mini", s, tmp_path) for s in counts}
    assert {split: len(source) for split, source in sources.items()} == counts
    labels = np.concatenate([source.labels for source in sources.values()])
    assert sources["test"].class_names == ("Platelets", "RBC", "WBC")
    assert np.bincount(labels).tolist() == [361, 4155, 372]  # As published.
    names = {source.describe(i) for source in sources.values() for i in range(len(source))}
    assert len(names) == 364
    assert all(source.notices == () for source in sources.values())
    example = sources["test"][0]
    assert Image.open(io.BytesIO(example.image)).size == (213, 160)


def test_the_bundled_boxes_surround_the_cells():
    """White cells are blue: within their boxes red is much lower than around them."""
    source = open_detection_source("bccd_mini", "test")
    lower = []
    for index in range(len(source)):
        example = source[index]
        red = np.asarray(Image.open(io.BytesIO(example.image)), np.float64)[:, :, 0]
        for x1, y1, x2, y2 in example.boxes[example.labels == 2].astype(int).tolist():
            lower.append(red[y1:y2, x1:x2].mean() < red.mean())
    assert np.mean(lower) > 0.95
    assert len(lower) > 70


def test_size_origin_and_licence_of_the_blood_cells():
    folder = BUNDLED_DIR / "bccd_mini"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3.2e6
    readme, licence = ((folder / name).read_text() for name in ("README.md", "LICENSE"))
    assert "Shenggan/BCCD_Dataset" in readme and "MIT" in readme
    assert "MIT License" in licence and "Copyright (c) 2017 shenggan" in licence


def test_the_tool_scales_images_with_their_boxes(tmp_path):
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools" / "make_bccd_mini.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    xml = voc_xml(("RBC", (1, 1, 30, 20), False), ("WBC", (60, 40, 60, 40), False))
    write_voc(tmp_path, {"a": xml, "b": voc_xml()})
    split = tool.make_split("train", open_detection_source(str(tmp_path), "train"))
    assert (len(split), split.keys) == (2, ["a.jpg", "b.jpg"])
    assert Image.open(io.BytesIO(split.read_image(0))).size == (213, 160)
    fields = split.fields(0)
    expected = [[0, 0, 0.5, 0.5], [39 / 40, 59 / 60, 1, 1]]
    np.testing.assert_allclose(fields["objects/bbox"].reshape(-1, 4), expected, rtol=1e-6)
    assert fields["objects/label"].tolist() == [0, 1]
    assert split.fields(1)["objects/bbox"].shape == (0,)


def test_no_tensorflow():
    program = (
        "import sys\n"
        "from resnet_jax.detection.data import open_detection_source\n"
        "source = open_detection_source('bccd_mini', 'test[:5]')\n"
        "assert len(source) == 5 and len(source[0].image) > 1000\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_old_files_state_no_form_of_boxes(tmp_path):
    old = {
        "pythonClassName": f"{TFDS}.bounding_boxes.BBoxFeature",
        "boundingBox": {"shape": {"dimensions": ["4"]}, "dtype": "float32"},
    }
    records = [voc_record([(1, 1, 5, 6)], [0], [0])]
    write_records(tmp_path, "voc/2007", changed(bbox=old), records, VOC_LABELS)
    boxes = open_detection_source("voc/2007", "train", tmp_path).truth(0).boxes
    np.testing.assert_array_equal(boxes, [[0, 0, 5, 6]])
