import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds

from resnet_jax import data
from resnet_jax.data.sources import records as sources
from tests.data.tfds_files import encode, image_feature, label_feature, make_tfds_dataset

CLASS_NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def small(tmp_path_factory, rng):
    """13 colour images of 5x7 in two splits of three files each."""
    data_dir = tmp_path_factory.mktemp("small")
    images = rng.integers(0, 256, (13, 5, 7, 3), np.uint8)
    labels = rng.integers(0, 3, 13)
    labels[:3] = 0, 1, 2
    make_tfds_dataset(
        data_dir,
        "small",
        images,
        labels,
        splits={"train": 9, "test": 4},
        class_names=CLASS_NAMES,
        num_shards=3,
    )
    return data_dir, images, labels


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, rng):
    """Six JPEGs of different sizes, one of them grey."""
    data_dir = tmp_path_factory.mktemp("photographs")
    sizes = [(24, 31, 3), (40, 20, 3), (33, 33, 1), (17, 64, 3), (50, 49, 3), (21, 22, 3)]
    files = [encode(rng.integers(0, 256, size, np.uint8), "jpeg") for size in sizes]
    make_tfds_dataset(data_dir, "photographs", files, [2, 0, 1, 1, 0, 2], "jpeg")
    return data_dir, files


def test_images_of_one_shape_are_decoded_into_memory(small):
    data_dir, images, labels = small
    source = data.open_source("small", "train", data_dir)
    assert isinstance(source, data.ArraySource)
    assert (source.name, source.split, len(source)) == ("small", "train", 9)
    assert (source.image_shape, source.num_classes) == ((5, 7, 3), 3)
    assert source.class_names == CLASS_NAMES
    np.testing.assert_array_equal(source.images, images[:9])
    np.testing.assert_array_equal(source.labels, labels[:9])
    assert source.labels.dtype == np.int32
    example = source[4]
    np.testing.assert_array_equal(example["image"], images[4])
    assert example["label"] == labels[4] and type(example["label"]) is int


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:4]", slice(0, 4)),
        ("train[4:]", slice(4, 9)),
        ("train[-2:]", slice(7, 9)),
        ("train[:34%]", slice(0, 3)),
        ("test", slice(9, 13)),
        ("train[5:]+test[:3]", slice(5, 12)),
    ],
)
def test_splits_are_cut_as_tfds_cuts_them(small, split, expected):
    data_dir, images, labels = small
    source = data.open_source("small", split, data_dir)
    np.testing.assert_array_equal(source.images, images[expected])
    np.testing.assert_array_equal(source.labels, labels[expected])


def test_name_may_carry_a_version(small):
    data_dir, images, _ = small
    assert len(data.open_source("small:1.0.0", "test", data_dir)) == 4


def test_images_of_many_shapes_stay_encoded(photographs):
    data_dir, files = photographs
    source = data.open_source("photographs", "train", data_dir)
    assert isinstance(source, data.RecordSource)
    assert (len(source), source.image_shape, source.num_classes) == (6, (None, None, 3), 3)
    assert source.class_names == ("0", "1", "2")
    assert [source[i]["image"] for i in range(6)] == files
    assert [source[i]["label"] for i in range(6)] == [2, 0, 1, 1, 0, 2]


def test_what_does_not_fit_in_memory_stays_encoded(small, monkeypatch):
    data_dir, images, labels = small
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 9 * 5 * 7 * 3 - 1)
    source = data.open_source("small", "train", data_dir)
    assert isinstance(source, data.RecordSource)
    assert source.image_shape == (5, 7, 3)
    assert [source[i]["image"] for i in range(9)] == [encode(image) for image in images[:9]]
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 9 * 5 * 7 * 3)
    assert isinstance(data.open_source("small", "train", data_dir), data.ArraySource)


def test_grey_file_in_a_colour_set_gets_three_channels(tmp_path, rng):
    grey, colour = (rng.integers(0, 256, (4, 4, c), np.uint8) for c in (1, 3))
    features = {"image": image_feature((4, 4, 3)), "label": label_feature(2)}
    make_tfds_dataset(tmp_path, "mixed", [grey, colour], [0, 1], features=features)
    source = data.open_source("mixed", "train", tmp_path)
    np.testing.assert_array_equal(source.images, [np.repeat(grey, 3, axis=2), colour])


def test_sources_can_be_pickled_and_read_by_threads(small, photographs):
    for name, data_dir in (("small", small[0]), ("photographs", photographs[0])):
        source = data.open_source(name, "train", data_dir)
        copy = pickle.loads(pickle.dumps(source))
        indices = list(range(len(source))) * 20
        with ThreadPoolExecutor(8) as pool:
            for i, example in zip(indices, pool.map(copy.__getitem__, indices), strict=True):
                np.testing.assert_equal(example, source[i])


def test_agrees_with_tfds_on_the_bundled_images():
    reference = tfds.builder_from_directory(
        sources.BUNDLED_DIR / "fashion_mnist_mini" / "1.0.0"
    ).as_data_source("test[100:200]")
    source = data.open_source("fashion_mnist_mini", "test[100:200]")
    np.testing.assert_array_equal(source.images, [example["image"] for example in reference])
    np.testing.assert_array_equal(source.labels, [example["label"] for example in reference])


def test_reads_without_tensorflow_or_a_word(photographs):
    program = f"""
import sys
import resnet_jax.data as data
slow = {{"tensorflow_datasets", "grain", "torch", "matplotlib"}} & set(sys.modules)
assert not slow, slow
source = data.open_source("photographs", "train", {str(photographs[0])!r})
batches = data.train_batches(source, data.train_transform("imagenet", 16), batch_size=3, seed=0)
batch = next(data.train_iterator(batches))
assert batch["image"].shape == (3, 16, 16, 3)
assert "tensorflow" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "smal",
            "train",
            r"'smal' not found \(did you mean 'small'\?\); prepare it with TFDS.*'array_record'",
        ),
        ("cifar10:9.9.9", "train", r"resnet_jax prepare cifar10 --data_dir"),
        ("fashion_mnist_mimi", "train", r"did you mean 'fashion_mnist_mini'"),
        ("small:9.9.9", "train", r"'small:9.9.9' not found.*; prepare it with TFDS"),
        ("no name", "train", r"cannot open data set 'no name' .*prepare it with TFDS"),
        ("", "train", r"cannot open data set ''"),
        ("small", "tset", r"no split 'tset' .*did you mean 'test'.* train \(9 images\), test \(4"),
        ("small", "train[:10]", r"no split 'train\[:10\]'"),
        ("small", "train[:", r"no split 'train\[:'"),
        ("small", "train[:0]", r"'train\[:0\]' of 'small' is empty"),
        ("small", "train[5:3]", r"'train\[5:3\]' of 'small' is empty; widen the slice"),
        ("small", "test[3:1]+train", r"'test\[3:1\]\+train' of 'small' is empty"),
    ],
)
def test_errors_name_the_remedy(small, name, split, message):
    with pytest.raises(data.DataError, match=message):
        data.open_source(name, split, small[0])


def test_missing_directories_are_named(tmp_path, monkeypatch):
    with pytest.raises(data.DataError, match=f"prepare cifar10 --data_dir {tmp_path}/none"):
        data.open_source("cifar10", "train", tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(data.DataError, match="prepare cifar10 --data_dir /"):
        data.open_source("cifar10", "train")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": label_feature(2)}, "no feature 'image'"),
        ({"image": image_feature((4, 4, 1))}, "no class 'label'"),
        ({"image": label_feature(2), "label": label_feature(2)}, "no feature 'image'"),
        (
            {"image": image_feature((4, 4, 1), dtype="uint16"), "label": label_feature(2)},
            "no feature 'image' of uint8",
        ),
    ],
)
def test_features_are_checked(tmp_path, features, message):
    image = np.zeros((4, 4, 1), np.uint8)
    make_tfds_dataset(tmp_path, "odd", [image, image], [0, 1], features=features)
    with pytest.raises(data.DataError, match=message):
        data.open_source("odd", "train", tmp_path)


def test_other_file_formats_are_refused(tmp_path, rng):
    directory = make_tfds_dataset(
        tmp_path, "old", rng.integers(0, 9, (2, 4, 4, 1), np.uint8), [0, 1]
    )
    info = json.loads((directory / "dataset_info.json").read_text())
    (directory / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(data.DataError, match="'old' is not stored as ArrayRecord files; prepare"):
        data.open_source("old", "train", tmp_path)


def test_damaged_descriptions_are_refused(tmp_path, rng):
    directory = make_tfds_dataset(
        tmp_path, "torn", rng.integers(0, 9, (2, 4, 4, 1), np.uint8), [0, 1]
    )
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(data.DataError, match="cannot open data set 'torn' .*prepare it with TFDS"):
        data.open_source("torn", "train", tmp_path)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_files_are_refused(tmp_path, rng, monkeypatch, encoded, damage):
    if encoded:
        monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", 0)
    images = rng.integers(0, 256, (8, 64, 64, 3), np.uint8)
    directory = make_tfds_dataset(tmp_path, "torn", images, list(range(8)))
    (file,) = directory.glob("*array_record*")
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    with pytest.raises(data.DataError, match="a file of 'torn' is missing or damaged; prepare"):
        data.open_source("torn", "train", tmp_path)


def test_images_that_are_not_what_is_said_are_refused(tmp_path, rng):
    features = {"image": image_feature((4, 4, 3)), "label": label_feature(2)}
    good, large = rng.integers(0, 9, (4, 4, 3), np.uint8), rng.integers(0, 9, (5, 4, 3), np.uint8)
    make_tfds_dataset(tmp_path, "large", [good, large], [0, 1], features=features)
    with pytest.raises(data.DataError, match=r"image 1 of split 'train' of 'large' .*\(5, 4, 3\)"):
        data.open_source("large", "train", tmp_path)
    make_tfds_dataset(tmp_path, "text", [good, b"text"], [0, 1], features=features)
    with pytest.raises(data.DataError, match="image 1 of split 'train' of 'text' cannot be used"):
        data.open_source("text", "train", tmp_path)


@pytest.mark.parametrize("name", ["bee ", " bee", "bee\t"])
def test_class_names_that_tfds_cuts_off_are_refused(tmp_path, name):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    make_tfds_dataset(tmp_path, "odd", images, [0, 1], class_names=["ant", name])
    with pytest.raises(data.DataError) as raised:
        data.open_source("odd", "train", tmp_path)
    assert f"class {name!r} of {tmp_path}/odd/1.0.0/label.labels.txt" in str(raised.value)


def test_names_from_another_system_are_read(tmp_path):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    folder = make_tfds_dataset(tmp_path, "odd", images, [0, 1], class_names=["ant", "bee"])
    (folder / "label.labels.txt").write_bytes(b"ant\r\nbee\r\n")
    assert data.open_source("odd", "train", tmp_path).class_names == ("ant", "bee")


def test_what_a_system_leaves_beside_a_data_set_is_no_part_of_it(tmp_path):
    folder = make_tfds_dataset(tmp_path, "small", np.zeros((2, 4, 4, 3), np.uint8), [0, 1])
    for parent in (tmp_path, folder.parent, folder):
        (parent / ".DS_Store").touch()
        (parent / "@eaDir").mkdir()
    assert len(data.open_source("small", "train", tmp_path)) == 2


def test_images_in_memory_keep_their_names(tmp_path):
    """Those of the records; without any, their places in the split."""
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "photos" / "train" / "a" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    names = [f"train/a/{i}.png" for i in range(4)]
    folder = data.open_source(str(tmp_path / "photos"), "train[1:3]")
    assert isinstance(folder, data.ArraySource)
    assert {data.image_name(folder, i) for i in range(2)} < set(names)
    make_tfds_dataset(tmp_path, "nameless", images, [0] * 4)
    nameless = pickle.loads(pickle.dumps(data.open_source("nameless", "train[1:]", tmp_path)))
    assert isinstance(nameless, data.ArraySource)
    assert data.image_name(nameless, 2) == "train[1:][2]"


def test_missing_labels_are_refused(tmp_path, rng):
    images = rng.integers(0, 9, (2, 4, 4, 3), np.uint8)
    features = {"image": image_feature((-1, -1, 3)), "label": label_feature(2)}
    make_tfds_dataset(tmp_path, "blind", images, [1, -1], features=features)
    source = data.open_source("blind", "train", tmp_path)
    with pytest.raises(data.DataError, match="label -1, which is not one of its 2 classes"):
        source[1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)),
    ],
)
def test_arrays_are_checked(images, labels):
    with pytest.raises(data.DataError, match="; give "):
        data.ArraySource(images, labels, ("a",))


LEGACY = {"type": "stranger.Feature", "content": {}}
IN_TEXT = {
    "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "jsonFeature": {"json": json.dumps({"x": LEGACY})},
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("set_of_a_stranger", {"pythonClassName": "stranger.Feature"}),
        ("set_of_a_stranger", LEGACY),
        ("set_of_a_stranger", IN_TEXT),
        ("set_of_a_stranger", LEGACY | {"content": "{"}),
        ("set_of_a_stranger", LEGACY | {"content": "[" * 100_000 + "]" * 100_000}),
        ("SetOfAStranger", LEGACY),
        ("linked", LEGACY),
    ],
)
def test_nothing_is_imported_that_a_data_set_names(tmp_path, monkeypatch, name, more):
    """In the words of today's TFDS and of earlier ones, and wherever TFDS finds the description."""
    (tmp_path / "stranger.py").write_text("class Feature: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    features = {"image": image_feature((8, 8, 1)), "label": label_feature(2), "more": more}
    images = np.zeros((2, 8, 8, 1), np.uint8)
    folder = make_tfds_dataset(tmp_path, "set_of_a_stranger", images, [0, 1], features=features)
    if name == "linked":
        description = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").write_text(json.dumps(description | {"name": "linked"}))
        (tmp_path / "linked").mkdir()
        (tmp_path / "linked" / "1.0.0").symlink_to(folder)
    with pytest.raises(
        data.DataError, match="the class 'stranger.Feature', .* not imported|nested too"
    ):
        data.open_source(name, "train", tmp_path)
    assert "stranger" not in sys.modules
