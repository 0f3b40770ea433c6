"""Tables of files and labels, as spreadsheets, pandas and people write them."""

import sys
import unicodedata

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from resnet_jax import data
from resnet_jax.data.prepare import prepare
from tests.data.sources.test_listing import write

FILES = tuple(f"images/{i}.jpg" for i in range(6))
LABELS = ("dog", "cat", "dog", "bee", "cat", "bee")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, *FILES)
    return tmp_path


def table(folder, text, name="photos.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding, "surrogateescape"))
    return str(folder / name)


def lines(header, *columns, separator=","):
    rows = [header, *zip(*columns, strict=True)]
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def opened(path, split="train"):
    source = data.open_source(path, split)
    names = [source.class_names[label] for label in source.labels]
    return source, list(zip(source.files, names, strict=True))


@pytest.mark.parametrize("header", [("file", "label"), ("Path", "CLASS"), ("image", " target ")])
@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_file(folder, header, separator, encoding):
    text = lines(header, FILES, LABELS, separator=separator)
    source, rows = opened(table(folder, text, encoding=encoding))
    assert rows == list(zip(FILES, LABELS, strict=True))
    assert source.class_names == ("bee", "cat", "dog")
    assert isinstance(source, data.FolderSource)
    assert source[2] == {"image": (folder / FILES[2]).read_bytes(), "label": 2}
    assert data.notices(source) == []


@pytest.mark.parametrize("text", [True, False])
def test_a_parquet_file(folder, text):
    labels = LABELS if text else [10.0, 9.0, 10.0, 2.0, 9.0, 2.0]
    columns = {"other": range(6), "file": FILES, "label": labels}
    parquet.write_table(pyarrow.table(columns), folder / "photos.PARQUET")
    source, rows = opened(str(folder / "photos.PARQUET"))
    expected = LABELS if text else ["10", "9", "10", "2", "9", "2"]
    assert rows == list(zip(FILES, expected, strict=True))
    assert source.class_names == (("bee", "cat", "dog") if text else ("2", "9", "10"))


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["10", "9", "-1", "9", "10", "9"], ("-1", "9", "10")),
        (["10", "9", "x", "9", "10", "9"], ("10", "9", "x")),
        ([unicodedata.normalize(f, "é") for f in ("NFC", "NFD")] * 3, ("é",)),
    ],
)
def test_the_order_of_classes(folder, labels, class_names):
    source, _ = opened(table(folder, lines(("file", "label"), FILES, labels)))
    assert source.class_names == class_names


def test_a_column_of_splits(folder):
    splits = ["train", "train", "test", "train", "test", "test"]
    path = table(folder, lines(("file", "label", "split"), FILES, LABELS, splits))
    for split in ("train", "test"):
        _, rows = opened(path, split)
        every = zip(FILES, LABELS, splits, strict=True)
        assert rows == [(file, label) for file, label, of in every if of == split]
    assert len(opened(path, "train+test[:1]")[1]) == 4
    with pytest.raises(data.DataError, match="no split 'tst' .* mean 'test'.* choose from train"):
        opened(path, "tst")


def test_slices_are_the_same_once_prepared(folder):
    path = table(folder, lines(("file", "label"), FILES, LABELS))
    parts = [opened(path, f"train[{s}]")[1] for s in (":50%", "50%:")]
    assert sorted(parts[0] + parts[1]) == sorted(zip(FILES, LABELS, strict=True))
    directory, counts = prepare(path, folder / "data")
    assert (directory.parent.name, counts) == ("photos", {"train": 6})
    prepared = data.open_source("photos", "train[:50%]", folder / "data")
    names = [prepared.class_names[prepared[i]["label"]] for i in range(3)]
    described = map(prepared.describe, range(3))
    assert sorted(zip(described, names, strict=True)) == sorted(parts[0])


def test_small_images_are_decoded_when_opened(folder):
    from tests.data.tfds_files import encode

    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), np.uint8)
    for file, image in zip(FILES, images, strict=True):
        (folder / file).write_bytes(encode(image))
    source, _ = opened(table(folder, lines(("file", "label"), FILES, LABELS)))
    np.testing.assert_array_equal(source.images, images)
    assert data.image_name(source, 3) == FILES[3]


def test_where_files_lie(folder, monkeypatch):
    """Relative to the table, or anywhere; also under names that are not UTF-8."""
    write(folder, b"caf\xe9.jpg")
    files = ["caf\udce9.jpg", f"./{FILES[0]}", str(folder / FILES[1])]
    path = table(folder, lines(("file", "label"), files, "abc"))
    monkeypatch.chdir(folder.parent)
    source, _ = opened(f"{folder.name}/photos.csv")
    assert source.describe(0) == "caf\\xe9.jpg"
    assert source[1]["image"] == (folder / FILES[0]).read_bytes()
    assert source[2]["image"] == (folder / FILES[1]).read_bytes()
    monkeypatch.chdir(folder)
    assert data.open_source("photos.csv", "train")[0] == data.open_source(path, "train")[0]


def test_the_choice_between_columns_is_said(folder):
    text = lines(("class", "label", "filename", "file"), LABELS, range(6), "x" * 6, FILES)
    source, rows = opened(table(folder, text))
    assert rows[0] == (FILES[0], "0")
    first, second = data.notices(source)
    assert "an image's file is taken from column 'file', not 'filename'" in first
    assert "an image's label is taken from column 'label', not 'class'" in second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,label\na,b\n", ["no column for an image's file", "'name', 'label'", "file or path"]),
        ("file,kind\na,b\n", ["no column for an image's label", "label or class"]),
        ("", ["no column for an image's file"]),
        ("file,label\n", ["has no rows"]),
        ("file,label\nimages/0.jpg,a\n\nimages/1.jpg,\n", ["line 4", "has no label"]),
        ("file,label\nimages/0.jpg,a\nimages/1.jpg\n", ["line 3", "has no label"]),
        ("file,label\n,a\n", ["line 2", "has no file"]),
        ("file,label,split\nimages/0.jpg,a,\n", ["line 2", "has no split"]),
        ("file,label\nimages/0.jpg,a\nimages/9.jpg,a\n", ["line 3", "9.jpg", "correct the path"]),
        ("file,label\nimages/0.jpg,a\n./images/0.jpg,b\n", ["line 2 and line 3", "remove one"]),
        (
            "file,label,split\nimages/0.jpg,dog,train\nimages/1.jpg,dgo,val\n",
            ["line 3", "class 'dgo'", "did you mean 'dog'", "not in 'train'"],
        ),
        ("file,label\n" + "x" * 200_000 + ",a\n", ["cannot be used", "field limit"]),
    ],
)
def test_a_wrong_row_is_named(folder, text, words):
    with pytest.raises(data.DataError) as raised:
        opened(table(folder, text), "val" if "val" in text else "train")
    for word in ("photos.csv", *words):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (None, ["cannot be used"]),
        ({"file": FILES, "label": [*LABELS[:5], None]}, ["row 6", "has no label"]),
        ({"file": FILES, "label": [1, 2, 3, 4, 5, None]}, ["row 6", "has no label"]),
        ({"file": [{"bytes": b""}] * 6, "label": LABELS}, ["a file is dict, not text"]),
        ({"file": FILES, "label": [[1]] * 6}, ["a label is list, not text"]),
    ],
)
def test_a_wrong_parquet_file(folder, columns, words):
    path = folder / "photos.parquet"
    if columns is None:
        path.write_bytes(b"PAR1, but no more")
    else:
        parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(data.DataError) as raised:
        opened(str(path))
    for word in ("photos.parquet", *words):
        assert word in str(raised.value)


def test_a_table_that_is_not_there(folder):
    with pytest.raises(data.DataError, match="cannot read table .*none.csv' .No such file"):
        opened(str(folder / "none.csv"))


def test_parquet_files_need_a_package(folder, monkeypatch):
    (folder / "photos.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match="pyarrow"):
        opened(str(folder / "photos.parquet"))


def test_a_file_that_cannot_be_read_is_a_bad_image(folder):
    (folder / FILES[1]).unlink()
    (folder / FILES[1]).mkdir()
    (folder / FILES[4]).unlink()
    (folder / FILES[4]).symlink_to("nowhere")
    source, _ = opened(table(folder, lines(("file", "label"), FILES, LABELS)))
    transform = data.eval_transform("imagenet", 8)
    with pytest.raises(data.BadImageError, match=r"image 1 \(images/1.jpg\) .*Is a directory"):
        data.eval_batches(source, transform, batch_size=6)[0]
    [batch] = data.eval_batches(source, transform, batch_size=6, on_bad_image="skip")
    assert batch["mask"].tolist() == [True, False, True, True, False, True]
    data.fingerprint(source)
