"""Names as systems, cameras and other machines leave them in folders of images."""

import os
import pickle
import unicodedata

import pytest

from resnet_jax import data
from resnet_jax.data.prepare import prepare
from resnet_jax.data.sources import listing
from tests.data.sources.test_folders import image_file

SYSTEM_NAMES = (
    *(".DS_Store", "._cat.jpg", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "Thumbs.db"),
    *("thumbs.db", "desktop.ini", "Desktop.ini", "lost+found", "$RECYCLE.BIN"),
)


def write(root, *paths):
    """Writes images that are too large to be decoded when opened."""
    for seed, path in enumerate(paths):
        target = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(image_file(seed, height=150))


@pytest.mark.parametrize("name", SYSTEM_NAMES)
@pytest.mark.parametrize("below", ["", "train", "train/a", "train/a/deep"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_system_leaves_is_no_split_class_or_image(tmp_path, name, below, kind):
    write(tmp_path, "train/a/1.jpg", "train/a/deep/2.jpg", "train/b/3.jpg")
    before = data.open_source(str(tmp_path), "train")
    path = os.path.join(below, name)
    write(tmp_path, path if kind == "file" else f"{path}/x/4.jpg")
    source = data.open_source(str(tmp_path), "train")
    assert (source.files, source.class_names) == (before.files, before.class_names)
    with pytest.raises(data.DataError, match="choose from train, slices"):
        data.open_source(str(tmp_path), name)
    assert data.notices(source) == []


def test_an_image_may_be_called_as_it_likes(tmp_path):
    names = ["a..jpg", "thumbs.db.jpg", "@.png", "x.JPG", "macosx.jpg"]
    write(tmp_path, *(f"train/a/{name}" for name in names))
    source = data.open_source(str(tmp_path), "train")
    assert {file.rpartition("/")[2] for file in source.files} == set(names)


LATIN = b"caf\xe9"


@pytest.mark.parametrize("path", [b"a/%s.jpg", b"%s/1.jpg", b"a/%s/1.jpg"])
def test_names_that_are_not_utf8(tmp_path, path):
    """Of a file, a class or a folder within one, as an old disk has them."""
    path = path % LATIN
    write(tmp_path / "photos", "train/a/0.jpg", "train/b/0.jpg", b"train/" + path)
    source = data.open_source(str(tmp_path / "photos"), "train")
    (index,) = [i for i in range(len(source)) if "\\xe9" in source.describe(i)]
    shown = source.describe(index)
    assert shown == "train/" + path.decode("utf-8", "backslashreplace")
    with open(os.path.join(os.fsencode(tmp_path), b"photos/train", path), "rb") as file:
        assert pickle.loads(pickle.dumps(source))[index]["image"] == file.read()
    for name in source.class_names:
        assert name.encode().decode() == name
    data.fingerprint(source)
    parts = [data.open_source(str(tmp_path / "photos"), f"train[{s}]") for s in (":50%", "50%:")]
    assert sorted(parts[0].files + parts[1].files) == sorted(source.files)

    prepare(str(tmp_path / "photos"), tmp_path / "data")
    prepared = data.open_source("photos", "train[:50%]", tmp_path / "data")
    assert prepared.class_names == source.class_names
    names = [f"train/{prepared.describe(i)}" for i in range(len(prepared))]
    assert sorted(names) == sorted(map(parts[0].describe, range(len(parts[0]))))


def test_a_bad_image_of_such_a_name_is_named(tmp_path):
    write(tmp_path, "train/a/0.jpg")
    (tmp_path / "train/a" / os.fsdecode(LATIN + b".jpg")).write_bytes(b"")
    batches = data.eval_batches(
        data.open_source(str(tmp_path), "train"),
        data.eval_transform("imagenet", 8),
        batch_size=2,
    )
    with pytest.raises(data.BadImageError, match=r"\(train/a/caf\\xe9.jpg\)") as raised:
        batches[0]
    assert str(raised.value).isascii()


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "éclair") for form in ("NFC", "NFD"))


def test_two_spellings_in_unicode_are_one_class(tmp_path):
    assert COMPOSED != DECOMPOSED
    write(
        tmp_path,
        f"train/{DECOMPOSED}/1.jpg",
        "train/f/1.jpg",
        f"val/{COMPOSED}/1.jpg",
        "val/f/2.jpg",
    )
    train, val = (data.open_source(str(tmp_path), split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("f", COMPOSED)
    assert val.labels.tolist() == [0, 1]
    # Files keep the names that they have on the disk.
    assert train.files == ("train/f/1.jpg", f"train/{DECOMPOSED}/1.jpg")
    assert train[1]["label"] == 1
    write(tmp_path, f"val/{DECOMPOSED}/3.jpg")
    with pytest.raises(data.DataError, match=r"'e\\u0301clair' and '\\xe9clair' .* one class"):
        data.open_source(str(tmp_path), "val")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """Simulated, because the superuser may read everything."""
    write(tmp_path, "train/a/1.jpg", "train/a/deep/1.jpg")
    scandir = os.scandir

    def forbidding(path):
        if str(path).endswith(forbidden):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    for forbidden in ("train", "deep"):
        with pytest.raises(data.DataError, match=f"{forbidden}' .Permission denied.; change its p"):
            data.open_source(str(tmp_path), "train")


def test_files_that_are_not_read_are_counted(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    for name in ("a/x.heic", "b/y.HEIC", "b/sub/z.avif", "b/notes.txt", "b/.z.heic"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).touch()
    source = data.open_source(str(tmp_path), "train")
    (notice,) = data.notices(source, source, data.open_source(str(tmp_path), "val"))
    assert "split 'train' leaves out 1 file ending in .avif, 2 files ending in .heic" in notice
    assert notice.endswith("convert them to JPEG or PNG")
    for file in (tmp_path / "train/b").glob("*.jpg"):
        file.unlink()
    with pytest.raises(data.DataError, match="'b' .* no images but 1 file ending in .avif, 1 fil"):
        data.open_source(str(tmp_path), "train")


def test_endings_are_read_or_left_out():
    assert not set(listing.IMAGE_EXTENSIONS) & set(listing.UNREAD_EXTENSIONS)
    for extension in (*listing.IMAGE_EXTENSIONS, *listing.UNREAD_EXTENSIONS):
        assert extension == extension.lower() and extension.startswith(".")


@pytest.mark.parametrize(
    ("names", "is_said"),
    [
        (range(11), True),
        (range(10), False),
        (["00", "01", "10"], False),
        (["1", "10", "2", "x"], False),
    ],
)
def test_numbers_in_the_order_of_text_are_said(tmp_path, names, is_said):
    write(tmp_path, *(f"train/{name}/1.jpg" for name in names))
    source = data.open_source(str(tmp_path), "train")
    notices = data.notices(source)
    assert len(notices) == is_said
    assert not is_said or "10 before 2; for that of numbers, rename 2 to 02" in notices[0]
