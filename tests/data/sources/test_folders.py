import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.data.sources import folders
from resnet_jax.data.sources import records as sources
from tests.data.tfds_files import encode, image_feature, label_feature, make_tfds_dataset


def image_file(seed, height=20, width=30, encoding="jpeg", channels=3):
    rng = np.random.default_rng(seed)
    return encode(rng.integers(0, 256, (height, width, channels), np.uint8), encoding)


def write(root, files):
    """Writes {path: seed} as images of different sizes, by their ending."""
    for path, seed in files.items():
        path = root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = {".png": "png", ".bmp": "bmp", ".webp": "webp"}.get(path.suffix.lower(), "jpeg")
        path.write_bytes(image_file(seed, height=150 + seed, encoding=encoding))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    files = {f"train/{name}/{i}.jpg": i for name in ("bee", "ant", "Cat") for i in range(10)}
    files |= {"train/bee/sub/x.PNG": 1, "train/bee/a.JPEG": 2, "train/bee/10.webp": 3}
    files |= {f"val/{name}/{i}.bmp": i for name in ("ant", "bee") for i in range(3)}
    write(root, files)
    (root / "train/bee/notes.txt").write_text("no image")
    (root / "train/README.md").write_text("no class")
    (root / "train/.cache").mkdir()
    return root


def image_folder(directory):
    """What torchvision's ImageFolder lists, after its source: (path, label)."""
    extensions = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
    classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
    classes.remove(".cache") if ".cache" in classes else None
    samples = []
    for label, name in enumerate(classes):
        for root, _, names in sorted(os.walk(os.path.join(directory, name), followlinks=True)):
            samples += [
                (os.path.join(root, file), label)
                for file in sorted(names)
                if file.lower().endswith(extensions)
            ]
    return samples


def test_a_folder_is_listed_as_torchvision_lists_it(photographs):
    source = data.open_source(str(photographs), "train")
    samples = image_folder(photographs / "train")
    assert isinstance(source, data.FolderSource)
    assert source.class_names == ("Cat", "ant", "bee")
    assert (len(source), source.num_classes, source.image_shape) == (33, 3, (None, None, 3))
    assert (source.name, source.split) == (str(photographs), "train")
    for i, (path, label) in enumerate(samples):
        with open(path, "rb") as file:
            assert source[i] == {"image": file.read(), "label": label}
        assert str(photographs / source.describe(i)) == path


def test_labels_are_those_of_the_training_folder(photographs):
    """A validation folder that lacks a class does not shift the others' labels."""
    source = data.open_source(str(photographs), "val")
    assert source.class_names == ("Cat", "ant", "bee")
    assert source.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert source.labels.dtype == np.int32


def test_slices_are_shares_of_every_class(photographs):
    whole = data.open_source(str(photographs), "train")
    first, rest = (data.open_source(str(photographs), f"train[{s}]") for s in (":60%", "60%:"))
    assert len(first) == 20 and len(rest) == 13
    assert set(first.files) | set(rest.files) == set(whole.files)
    assert not set(first.files) & set(rest.files)
    assert set(first.labels) == set(rest.labels) == {0, 1, 2}
    # In the order of the whole.
    assert list(first.files) == [file for file in whole.files if file in set(first.files)]
    assert data.open_source(str(photographs), "train[:100%]").files == whole.files
    both = data.open_source(str(photographs), "train[-2:]+val[:1]")
    assert [file.split("/")[0] for file in both.files] == ["train", "train", "val"]


def test_small_images_of_one_size_are_decoded_into_memory(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 3), np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "train" / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    source = data.open_source(str(tmp_path), "train")
    assert isinstance(source, data.ArraySource)
    np.testing.assert_array_equal(source.images, np.concatenate([images[::2], images[1::2]]))
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    # Another size among them, which the eight that are looked at do not show.
    (tmp_path / "train/class1/11.png").write_bytes(image_file(0, 9, 8, "png"))
    source = data.open_source(str(tmp_path), "train")
    assert isinstance(source, data.FolderSource)


@pytest.mark.parametrize("link", [False, True])
def test_a_class_may_be_a_link(tmp_path, link):
    write(tmp_path, {"elsewhere/deep/1.jpg": 1, "train/a/1.jpg": 2})
    if link:
        (tmp_path / "train/b").symlink_to(tmp_path / "elsewhere")
    source = data.open_source(str(tmp_path), "train")
    assert source.class_names == (("a", "b") if link else ("a",))
    assert len(source) == 1 + link


def test_a_folder_may_lie_in_a_bucket(photographs, monkeypatch):
    """epath's own stand-in: gs:// is mapped to a local folder."""
    from etils.epath import backend, gpath

    class Bucket(type(backend.os_backend)):
        def __getattribute__(self, name):
            method = super().__getattribute__(name)
            if name.startswith("_") or not callable(method):
                return method
            return lambda path, *a, **k: method(
                str(path).replace("gs://bucket", str(photographs)), *a, **k
            )

    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "gs", Bucket())
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    remote = data.open_source("gs://bucket", "train[:40%]")
    local = data.open_source(str(photographs), "train[:40%]")
    assert remote.files == local.files and len(remote) == 13
    assert [remote[i] for i in range(13)] == [local[i] for i in range(13)]
    # As a folder of classes, and as a table.
    remote = data.open_source("gs://bucket/train", "train[:40%]")
    local = data.open_source(str(photographs / "train"), "train[:40%]")
    assert remote.files == local.files and remote[0] == local[0]
    table = "file,label\ntrain/ant/1.jpg,ant\nval/bee/1.bmp,bee\n"
    (photographs / "photos.csv").write_text(table)
    remote = data.open_source("gs://bucket/photos.csv", "train")
    assert [remote.describe(i) for i in range(2)] == ["train/ant/1.jpg", "val/bee/1.bmp"]
    assert remote[1]["image"] == (photographs / "val/bee/1.bmp").read_bytes()
    (photographs / "photos.csv").write_text(table.replace("1.bmp", "9.bmp"))
    with pytest.raises(data.DataError, match="line 3 .*9.bmp"):
        data.open_source("gs://bucket/photos.csv", "train")


def test_names_and_paths_are_told_apart(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    assert len(data.open_source(photographs.name, "val")) == 6
    monkeypatch.setenv("HOME", str(photographs.parent))
    assert len(data.open_source(f"~/{photographs.name}", "val")) == 6
    # A data directory of TFDS that one stands in: the data set is meant, not the folder.
    monkeypatch.chdir(tmp_path)
    make_tfds_dataset(tmp_path, "small", np.zeros((2, 4, 4, 3), np.uint8), [0, 1])
    assert isinstance(data.open_source("small", "train", "."), data.ArraySource)
    assert not folders.is_folder("small") and not folders.is_folder("name/config:1.0.0")


def test_folders_train_and_evaluate(photographs):
    source = pickle.loads(pickle.dumps(data.open_source(str(photographs), "train")))
    batches = data.train_batches(source, data.train_transform("imagenet", 16), batch_size=8, seed=1)
    first = next(data.train_iterator(batches, num_threads=2))
    assert first["image"].shape == (8, 16, 16, 3)
    seen = [
        batch["label"][batch["mask"]]
        for batch in data.eval_batches(source, data.eval_transform("imagenet", 16), batch_size=8)
    ]
    assert np.concatenate(seen).tolist() == source.labels.tolist()


@pytest.mark.parametrize(
    ("change", "split", "message"),
    [
        (
            lambda root: (root / "train/dog").mkdir(),
            "train",
            "class 'dog' of split 'train' .* no i",
        ),
        (lambda root: (root / "test").mkdir(), "test", "split 'test' .* is empty; it should hold"),
        (
            lambda root: write(root, {"val/owl/1.jpg": 1}),
            "val",
            "class 'owl' is in 'val' .* not in",
        ),
        (
            lambda root: None,
            "vla",
            r"no split 'vla' .*did you mean 'val'\?.* choose from train, val",
        ),
        (lambda root: None, "train[:7]", r"no split 'train\[:7\]' .* train \(2 images\)"),
        (lambda root: None, "train[:", r"no split 'train\[:'"),
        (lambda root: None, "train[:0]", "is empty; widen the slice"),
    ],
)
def test_errors_name_the_remedy(tmp_path, change, split, message):
    write(tmp_path, {"train/cat/1.jpg": 1, "train/bee/2.jpg": 2, "val/cat/1.jpg": 1})
    change(tmp_path)
    with pytest.raises(data.DataError, match=message):
        data.open_source(str(tmp_path), split)


def test_what_is_no_folder_of_images_is_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(
            data.DataError, match="is not a folder of images; it should hold train/"
        ):
            data.open_source(str(path), "train")


def test_a_bad_image_is_named_by_its_file(tmp_path):
    write(tmp_path, {f"train/cat/{i}.jpg": i for i in range(3)})
    (tmp_path / "train/cat/1.jpg").write_bytes(b"GIF89a")
    source = data.open_source(str(tmp_path), "train")
    batches = data.train_batches(source, data.train_transform("imagenet", 8), batch_size=3, seed=0)
    with pytest.raises(data.BadImageError, match=r"image 1 \(train/cat/1.jpg\) of split 'train'"):
        batches[0]


def test_a_bad_image_among_small_ones(tmp_path):
    for i in range(20):
        path = tmp_path / "train/cat" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file(i, 5, 5, "png"))
    (tmp_path / "train/cat/03.png").write_bytes(image_file(3, 5, 5, "png")[:-30])
    with pytest.raises(data.BadImageError, match=r"image 3 \(train/cat/03.png\)"):
        data.open_source(str(tmp_path), "train")
    source = data.open_source(str(tmp_path), "train", on_bad_image="skip")
    assert isinstance(source, data.FolderSource) and len(source) == 20


def test_every_ending_of_torchvision_is_read(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 9, 3), np.uint8))
    formats = {".ppm": "PPM", ".pgm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG"}
    directory = tmp_path / "train" / "a"
    directory.mkdir(parents=True)
    for ending in folders.IMAGE_EXTENSIONS:
        one = picture.convert("L") if ending == ".pgm" else picture
        encoding = formats.get(ending, ending[1:])
        buffer = io.BytesIO()
        one.save(buffer, encoding)
        (directory / f"x{ending}").write_bytes(buffer.getvalue())
    source = data.open_source(str(tmp_path), "train")
    assert len(source) == 9
    transform = data.eval_transform("imagenet", 8)
    for batch in data.eval_batches(source, transform, batch_size=9):
        assert batch["image"].any(axis=(1, 2, 3)).all()


def test_bad_images_of_prepared_sets_leave_them_encoded(tmp_path):
    files = [image_file(i, 4, 4, "png") for i in range(4)]
    files[2] = files[2][:-40]
    features = {
        "image": image_feature((4, 4, 3)),
        "label": label_feature(4),
    }
    make_tfds_dataset(tmp_path, "torn", files, [0, 1, 2, 3], features=features)
    with pytest.raises(data.BadImageError, match="image 2 of split 'train' of 'torn'"):
        data.open_source("torn", "train", tmp_path)
    source = data.open_source("torn", "train", tmp_path, on_bad_image="skip")
    assert isinstance(source, sources.RecordSource)
