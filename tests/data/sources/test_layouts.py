"""Folders in the layouts that people have: which are splits, which are classes, what is refused."""

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.prepare import prepare
from resnet_jax.data.sources import folders
from resnet_jax.errors import UnknownSplitError
from tests.data.sources.test_listing import write
from tests.data.tfds_files import encode, make_tfds_dataset

CLASSES = tuple(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10))


def opened(folder, split="train", **arguments):
    return data.open_source(str(folder), split, **arguments)


def test_class_folders_are_one_split(tmp_path):
    write(tmp_path / "classes", *CLASSES)
    write(tmp_path / "splits", *(f"train/{file}" for file in CLASSES))
    source, same = opened(tmp_path / "classes"), opened(tmp_path / "splits")
    assert (source.files, source.class_names) == (CLASSES, ("cat", "dog"))
    np.testing.assert_array_equal(source.labels, [0] * 10 + [1] * 10)
    assert [f"train/{file}" for file in source.files] == list(same.files)
    # Slices are fixed samples of all classes, the same ones as under train/ and when prepared.
    parts = [opened(tmp_path / "classes", f"train[{s}]") for s in (":80%", "80%:")]
    assert sorted(parts[0].files + parts[1].files) == sorted(CLASSES)
    assert set(parts[1].labels) == {0, 1}
    under = opened(tmp_path / "splits", "train[80%:]")
    assert [f"train/{file}" for file in parts[1].files] == list(under.files)
    _, counts = prepare(str(tmp_path / "classes"), tmp_path / "data")
    assert counts == {"train": 20}
    prepared = data.open_source("classes", "train[80%:]", tmp_path / "data")
    assert {prepared.describe(i) for i in range(4)} == set(parts[1].files)


@pytest.mark.parametrize(
    ("files", "split", "class_names"),
    [
        # Any folders of folders of images are splits.
        (["first/cat/1.jpg", "second/cat/1.jpg"], "second", ["cat"]),
        (["first/cat/1.jpg", "blind/1.jpg"], "first", ["cat"]),
        # Images of a class may lie deeper.
        (["cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg"], "train", ["cat", "dog"]),
        # These names are splits in any case, and the training's classes are those of all.
        (["Training/b/1.jpg", "Training/a/1.jpg", "Testing/b/1.jpg"], "Testing", ["a", "b"]),
        (["valid/b/1.jpg", "train/a/1.jpg", "train/b/1.jpg"], "valid", ["a", "b"]),
        (["train/a/1.jpg", "test/1.jpg"], "train", ["a"]),
    ],
)
def test_splits_and_classes_are_told_apart(tmp_path, files, split, class_names):
    write(tmp_path, *files)
    source = opened(tmp_path, split)
    assert list(source.class_names) == class_names
    names = [class_names[label] for label in source.labels]
    assert all(f"{name}/" in file for name, file in zip(names, source.files, strict=True))


@pytest.mark.parametrize(
    ("files", "split", "words"),
    [
        (
            ["cat/1.jpg", "dog/1.jpg"],
            "val",
            ["no split 'val'", "classes cat, dog", "'train[:80%]'"],
        ),
        (["cat/1.jpg", "dog/1.jpg"], "cat", ["no split 'cat'", "all its images are 'train'"]),
        (["cat/1.jpg", "dog/old/1.jpg"], "train", ["'cat', as if", "'dog', as if", "/train"]),
        (["cat/old/1.jpg", "dog/old/1.jpg"], "train", ["no split 'train'", "choose from cat, dog"]),
        (
            ["1.jpg", "2.png"],
            "train",
            ["holds images but no folders of classes", "predict", ".csv"],
        ),
        (["train/1.jpg", "test/1.jpg"], "train", ["split 'train'", "have no classes", "predict"]),
        (["train/a/1.jpg", "test/1.jpg"], "test", ["split 'test'", "have no classes", "predict"]),
        # Unpacked into a folder of its own name.
        (["pets/train/cat/1.jpg"], "train", ["no split 'train'", "but in", "/pets': give that"]),
        (["bus/1.jpg", "train/1.jpg", "car/1.jpg"], "train", ["not in train/CLASS/"]),
        (["a/x/1.jpg", "b/y/1.jpg"], "a+b", ["have different classes"]),
    ],
)
def test_other_layouts_are_refused_by_what_is_there(tmp_path, files, split, words):
    write(tmp_path, *files)
    with pytest.raises(data.DataError) as raised:
        opened(tmp_path, split)
    for word in words:
        assert word in str(raised.value)


def test_a_file_is_no_folder(tmp_path):
    write(tmp_path, "1.jpg")
    with pytest.raises(data.DataError, match="is a file; give a folder .* or a table"):
        opened(tmp_path / "1.jpg")


def test_a_split_without_classes_does_not_hide_one_with_classes(tmp_path):
    """`evaluate` looks for the first of validation, test and val."""
    write(tmp_path, "train/a/1.jpg", "test/1.jpg", "val/a/1.jpg")
    with pytest.raises(UnknownSplitError):
        opened(tmp_path, "test")
    assert len(opened(tmp_path, "val")) == 1


# A name may be that of a folder here, or of a data set or a folder in data_dir.


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with class folders `pets`; `data`, with a data set `small`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path, *(f"pets/{file}" for file in CLASSES))
    make_tfds_dataset(tmp_path / "data", "small", np.zeros((2, 4, 4, 3), np.uint8), [0, 1])
    return tmp_path


def test_a_name_of_class_folders_here(here):
    assert folders.is_folder("pets") and not folders.is_folder("data")
    source = data.open_source("pets", "train")
    assert len(source) == 20 and data.notices(source) == []
    (notice,) = data.notices(data.open_source("pets", "train", "data"))
    assert notice == f"'pets' is the folder {here}/pets, not one in data"
    assert data.notices(data.open_source("pets", "train", ".")) == []
    assert data.notices(data.open_source("./pets", "train", "data")) == []


@pytest.mark.parametrize("kind", ["data set", "folder"])
def test_a_name_with_two_meanings_is_refused(here, kind):
    if kind == "data set":
        make_tfds_dataset(here / "data", "pets", np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 1])
        other, count = "pets:1.0.0", 3
    else:
        write(here, "data/pets/train/cat/1.jpg")
        other, count = "data/pets", 1
    with pytest.raises(data.DataError) as raised:
        data.open_source("pets", "train", "data")
    assert f"give ./pets for the one here, {other} for the other" in str(raised.value)
    assert len(data.open_source("./pets", "train", "data")) == 20
    path = other if kind == "data set" else f"./{other}"
    assert len(data.open_source(path, "train", "data")) == count


def test_the_bundled_name_may_be_that_of_a_folder(here):
    name = "fashion_mnist_mini"
    write(here, f"{name}/train/cat/1.jpg")
    with pytest.raises(data.DataError, match=f"give ./{name} .* {name}:1.0.0 for the other"):
        data.open_source(name, "train")
    assert len(data.open_source(f"./{name}", "train")) == 1
    assert len(data.open_source(f"{name}:1.0.0", "test[:8]")) == 8


@pytest.mark.parametrize(
    ("name", "data_dir", "words"),
    [
        ("./data/small/1.0.0", None, ["give small:1.0.0 as the data set", "/data as the data_dir"]),
        ("./data/small", None, ["give small:1.0.0 as the data set", "/data as the data_dir"]),
        ("./data", None, ["give small:1.0.0 as the data set", "/data as the data_dir"]),
        ("data/small", None, ["give small:1.0.0 as the data set", "/data as the data_dir"]),
        ("small", "data/small", ["which is its own folder", "/data as the data_dir"]),
        ("small", "data/small/1.0.0", ["which is its own folder", "/data as the data_dir"]),
        ("pets", "..", ["'pets' not found: ", "/pets is a folder of images; give that path"]),
        ("flat", "..", ["'flat' not found: ", "/flat is a folder of images; give that path"]),
        ("flat", "data", ["'flat' not found, only a folder here; give ./flat"]),
    ],
)
def test_a_wrong_place_is_said_with_the_right_one(here, monkeypatch, name, data_dir, words):
    write(here, "flat/1.jpg")
    if data_dir == "..":
        monkeypatch.chdir(here / "data")
    with pytest.raises(data.DataError) as raised:
        data.open_source(name, "train", data_dir)
    for word in words:
        assert word in str(raised.value)


# Links that lead nowhere, and what else cannot be read.


@pytest.mark.parametrize("size", [5, 150])
@pytest.mark.parametrize("place", [0, 7])
def test_a_link_that_leads_nowhere_is_a_bad_image(tmp_path, size, place):
    """Among small images, which are read when opened, and among large ones."""
    for i in range(20):
        path = tmp_path / "train/a" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.full((size, size, 3), i, np.uint8)))
    link = tmp_path / "train/a" / f"{place:02d}.png"
    link.unlink()
    link.symlink_to("nowhere.png")
    named = rf"image {place} \(train/a/{place:02d}.png\) .*No such file"
    if size == 5:
        with pytest.raises(data.BadImageError, match=named):
            opened(tmp_path)
    source = opened(tmp_path, on_bad_image="skip")
    transform = data.eval_transform("none") if size == 5 else data.eval_transform("imagenet", 8)
    with pytest.raises(data.BadImageError, match=named):
        list(data.eval_batches(source, transform, batch_size=20))
    [batch] = data.eval_batches(source, transform, batch_size=20, on_bad_image="skip")
    assert np.flatnonzero(~batch["mask"]).tolist() == [place]
    [batch] = [data.train_batches(source, transform, batch_size=20, seed=0, on_bad_image="skip")[0]]
    assert len(batch["bad_images"]) == 1
    before = data.fingerprint(source)
    link.unlink()
    link.write_bytes(encode(np.full((size, size, 3), place, np.uint8)))
    after = data.fingerprint(opened(tmp_path))
    assert {key for key in before if before[key] != after[key]} == {"files"}


def test_a_lack_of_file_handles_is_no_bad_image(tmp_path, monkeypatch):
    """Which images that hits is chance: they must not be replaced in silence."""
    write(tmp_path, "train/a/1.jpg")
    source = opened(tmp_path, on_bad_image="skip")

    def fail(self, index):
        raise OSError(24, "Too many open files", self.files[index])

    monkeypatch.setattr(data.FolderSource, "__getitem__", fail)
    batches = data.eval_batches(
        source, data.eval_transform("imagenet", 8), batch_size=1, on_bad_image="skip"
    )
    with pytest.raises(OSError, match="Too many open files"):
        batches[0]
