"""A fingerprint tells what changed, and stays where nothing did."""

import shutil

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.sources import fingerprints
from tests.data.prepare.archive_files import jpeg
from tests.data.tfds_files import make_tfds_dataset

IMAGES = list(np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8))


def make_folder(root, names=("cat", "dog")):
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                (root / split / name / f"{number}.jpg").write_bytes(jpeg(number))
    return str(root)


def of(*arguments):
    return data.fingerprint(data.open_source(*arguments))


def changed(before, after):
    return {key for key in before if before[key] != after[key]}


def test_a_copy_elsewhere_is_the_same(tmp_path):
    before = of(make_folder(tmp_path / "a"), "train")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert of(str(tmp_path / "b"), "train") == before
    make_tfds_dataset(tmp_path / "c", "x", IMAGES, [0, 1] * 3)
    make_tfds_dataset(tmp_path / "d", "x", IMAGES, [0, 1] * 3)
    assert of("x", "train", tmp_path / "c") == of("x", "train", tmp_path / "d")


def add(root):
    (root / "train" / "cat" / "9.jpg").write_bytes(jpeg(9))


def lose(root):
    (root / "train" / "cat" / "1.jpg").unlink()


def replace(root):
    (root / "train" / "dog" / "0.jpg").write_bytes(jpeg(9))


def rename(root):
    for split in ("train", "val"):
        (root / split / "dog").rename(root / split / "wolf")


def move(root):
    (root / "train" / "cat" / "1.jpg").rename(root / "train" / "dog" / "7.jpg")


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (add, {"images", "labels", "files"}),
        (lose, {"images", "labels", "files"}),
        (replace, {"files"}),
        (rename, {"classes", "files"}),
        (move, {"labels", "files"}),
    ],
)
def test_a_folder_that_changed(tmp_path, change, keys):
    before = of(make_folder(tmp_path), "train")
    change(tmp_path)
    assert changed(before, of(str(tmp_path), "train")) == keys


def test_a_data_set_prepared_anew(tmp_path):
    def prepared(name, images=IMAGES, labels=(0, 1) * 3, **more):
        make_tfds_dataset(tmp_path / name, "x", images, labels, **more)
        return of("x", "train", tmp_path / name)

    before = prepared("before")
    assert changed(before, prepared("labels", labels=(1, 0) * 3)) == {"labels", "files"}
    assert "files" in changed(before, prepared("pixels", images=[i // 2 for i in IMAGES]))
    assert "files" in changed(before, prepared("shards", num_shards=2))
    named = prepared("named", class_names=["no", "yes"])
    assert changed(before, named) == {"classes"}


@pytest.mark.parametrize("most_bytes", [2**28, 100])
def test_a_large_one_is_not_read(tmp_path, monkeypatch, most_bytes):
    monkeypatch.setattr(fingerprints, "_MOST_BYTES", most_bytes)
    before = of(make_folder(tmp_path), "train")
    file = tmp_path / "train" / "cat" / "0.jpg"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + b"other" + content[-4:])
    assert changed(before, of(str(tmp_path), "train")) == ({"files"} if most_bytes > 100 else set())


def test_parts_of_a_split_differ(tmp_path):
    make_tfds_dataset(tmp_path, "x", IMAGES, [0, 1] * 3)
    assert "images" in changed(of("x", "train", tmp_path), of("x", "train[:4]", tmp_path))


def test_arrays_without_files_are_hashed():
    images, labels = np.stack(IMAGES), np.zeros(6, np.int32)
    before = data.fingerprint(data.ArraySource(images, labels, ("a",)))
    after = data.fingerprint(data.ArraySource(255 - images, labels, ("a",)))
    assert changed(before, after) == {"pixels"}
