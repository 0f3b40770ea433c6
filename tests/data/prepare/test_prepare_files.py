"""Folders and tables of images of one's own: what is chosen, left out and refused."""

import pytest

from resnet_jax import data
from resnet_jax.data.prepare import prepare
from tests.data.prepare import archive_files


def make_folder(folder, *files):
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(archive_files.jpeg(number))
    return str(folder)


def test_a_split_without_classes_is_left_out_and_said(tmp_path):
    pets = make_folder(tmp_path / "pets", "train/a/1.jpg", "val/a/2.jpg", "test/1.jpg")
    said = []
    _, counts = prepare(pets, tmp_path / "data", notify=said.append)
    assert counts == {"train": 1, "val": 1}
    (line,) = said
    assert "split 'test' is left out, because its images have no classes" in line
    said.clear()
    _, counts = prepare(pets, tmp_path / "chosen", splits=["val"], notify=said.append)
    assert (counts, said) == ({"val": 1}, [])
    for splits, message in (
        (["train", "vla"], "no split 'vla' .*did you mean 'val'"),
        (["test"], "split 'test' .* have no classes"),
    ):
        with pytest.raises(data.DataError, match=message):
            prepare(pets, tmp_path / "refused", splits=splits)
    with pytest.raises(data.DataError, match="'cifar10' is prepared as a whole"):
        prepare("cifar10", tmp_path / "refused", splits=["train"])
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("name", ["cat ", " cat", "\tcat", "c\nat"])
def test_class_names_that_tfds_would_cut_off(tmp_path, name):
    pets = make_folder(tmp_path / "pets", f"train/{name}/1.jpg", "train/dog/1.jpg")
    with pytest.raises(data.DataError) as raised:
        prepare(pets, tmp_path / "data")
    assert repr(name) in str(raised.value) and "rename it" in str(raised.value)
    assert not (tmp_path / "data").exists()
    # As they are, they are classes.
    assert name in data.open_source(pets, "train").class_names


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    pets = make_folder(tmp_path / "pets", "train/a/1.jpg")
    (tmp_path / "pets/photos.csv").write_text("file,label\ntrain/a/1.jpg,a\ntrain/a/2.jpg,a\n")
    if kind == "link":
        (tmp_path / "pets/train/a/2.jpg").symlink_to("nowhere")
    else:
        pets = f"{pets}/photos.csv"
        (tmp_path / "pets/train/a/2.jpg").mkdir()
    with pytest.raises(data.DataError, match=r"image '.*a/2.jpg' of split 'train' .* repair or re"):
        prepare(pets, tmp_path / "data")
