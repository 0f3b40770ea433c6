import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.proto import tf_example_pb2

from resnet_jax import data
from resnet_jax.data.images.decode import decode_image
from resnet_jax.data.prepare import RECIPES, prepare, writer
from tests.data.prepare import archive_files

DESCRIPTIONS = ("dataset_info.json", "features.json")


def tfds_order(split, keys, directory):
    """The order that TFDS's own shuffler gives to examples."""
    shuffler = shuffle.Shuffler(dirpath=directory, hash_salt=split)
    for position, key in enumerate(keys):
        shuffler.add(key, str(position).encode())
    return [int(value) for _, value in shuffler]


def examples(directory, split):
    """What TFDS itself reads, images still encoded."""
    builder = tfds.builder_from_directory(directory)
    skip = {"image": tfds.decode.SkipDecoding()}
    return list(builder.as_data_source(split, decoders=skip))


def no_incomplete_files(data_dir):
    return not [path for path in Path(data_dir).rglob("*") if ".incomplete" in str(path)]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar10(tmp_path, protocol):
    train, test = archive_files.make_cifar10(tmp_path / "source", protocol=protocol)
    directory, counts = prepare("cifar10", tmp_path / "data", tmp_path / "source", verified=False)
    assert counts == {"train": 15, "test": 4}
    assert directory == tmp_path / "data" / "cifar10" / "3.0.2"
    for split, (images, labels) in (("train", train), ("test", test)):
        order = tfds_order(split, range(len(images)), tmp_path)
        read = examples(directory, split)
        for example, index in zip(read, order, strict=True):
            assert example["id"].decode() == f"{split}_{index:05d}"
            assert example["label"] == labels[index]
            np.testing.assert_array_equal(decode_image(example["image"]), images[index])
        source = data.open_source("cifar10", split, tmp_path / "data")
        assert source.class_names == tuple(archive_files.CLASSES_OF_CIFAR)
        np.testing.assert_array_equal(source.images, images[order])
        np.testing.assert_array_equal(source.labels, labels[order])
        ids = [data.image_name(source, index) for index in range(len(source))]
        assert ids == [f"{split}_{index:05d}" for index in order]
    assert no_incomplete_files(tmp_path / "data")


def test_cifar100(tmp_path):
    images, fine, coarse = archive_files.make_cifar100(tmp_path)
    directory, counts = prepare(
        "cifar100", tmp_path / "data", tmp_path / "cifar-100-python.tar.gz", verified=False
    )
    assert counts == {"train": 6, "test": 3} and directory.name == "3.0.2"
    order = tfds_order("train", range(6), tmp_path)
    read = examples(directory, "train")
    assert [example["label"] for example in read] == fine[order].tolist()
    assert [example["coarse_label"] for example in read] == coarse[order].tolist()
    source = data.open_source("cifar100", "test", tmp_path / "data")
    order = tfds_order("test", range(3), tmp_path)
    np.testing.assert_array_equal(source.images, images[6:][order])
    assert source.class_names[7] == "fine 7" and source.num_classes == 100
    info = tfds.builder_from_directory(directory).info
    assert info.features["coarse_label"].names[19] == "coarse 19"


def test_fashion_mnist(tmp_path):
    images, labels = archive_files.make_fashion_mnist(tmp_path / "source")
    directory, counts = prepare(
        "fashion_mnist", tmp_path / "data", tmp_path / "source", verified=False
    )
    assert counts == {"train": 7, "test": 3} and directory.name == "3.0.1"
    source = data.open_source("fashion_mnist", "train", tmp_path / "data")
    order = tfds_order("train", range(7), tmp_path)
    np.testing.assert_array_equal(source.images[..., 0], images[:7][order])
    np.testing.assert_array_equal(source.labels, labels[:7][order])
    assert source.class_names[:2] == ("T-shirt/top", "Trouser")


def test_imagenet2012(tmp_path):
    files = archive_files.make_imagenet(tmp_path / "source")
    directory, counts = prepare(
        "imagenet2012", tmp_path / "data", tmp_path / "source", verified=False
    )
    assert counts == {"train": 12, "validation": 4} and directory.name == "5.1.0"
    builder = tfds.builder_from_directory(directory)
    synsets = builder.info.features["label"].names
    assert (len(synsets), synsets[0], synsets[-1]) == (1000, "n01440764", "n15075141")
    read = examples(directory, "train")
    names = [example["file_name"].decode() for example in read]
    train = [name for name in files if name.startswith("n")]
    assert names == [train[i] for i in tfds_order("train", train, tmp_path)]
    for name, example in zip(names, read, strict=True):
        # To the byte.
        assert example["image"] == files[name][0]
        assert synsets[example["label"]] == files[name][1]
    labels = {e["file_name"].decode(): e["label"] for e in examples(directory, "validation")}
    listed = (
        Path(tfds.__file__).parent / "datasets/imagenet2012/validation_labels.txt"
    ).read_text()
    for number in (1, 2, 3, 49_999):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        assert synsets[labels[name]] == listed.split()[number - 1]
    source = data.open_source("imagenet2012", "train", tmp_path / "data")
    assert isinstance(source, data.RecordSource)
    assert source.describe(3) == names[3]


def test_imagenet_for_evaluation_alone(tmp_path):
    archive_files.make_imagenet(tmp_path / "source", train=False)
    _, counts = prepare("imagenet2012", tmp_path / "data", tmp_path / "source", verified=False)
    assert counts == {"validation": 4}
    assert len(data.open_source("imagenet2012", "validation", tmp_path / "data")) == 4


def test_imagenet_unpacked_is_the_same(tmp_path):
    files = archive_files.make_imagenet(tmp_path / "source")
    packed, _ = prepare("imagenet2012", tmp_path / "a", tmp_path / "source", verified=False)
    labels = {e["file_name"].decode(): e["label"] for e in examples(packed, "validation")}
    synsets = tfds.builder_from_directory(packed).info.features["label"].names
    for name, (content, synset) in files.items():
        split = "train" if synset else "val"
        path = tmp_path / "tree" / split / (synset or synsets[labels[name]]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    unpacked, _ = prepare("imagenet2012", tmp_path / "b", tmp_path / "tree", verified=False)
    for split in ("train", "validation"):
        assert examples(packed, split) == examples(unpacked, split)
    (tmp_path / "tree/train/n99999999").mkdir()
    with pytest.raises(data.DataError, match="n99999999 is not one of ImageNet's 1,000 classes"):
        prepare("imagenet2012", tmp_path / "c", tmp_path / "tree", verified=False)


@pytest.mark.parametrize("given", ["folder", "name and source"])
def test_a_folder(tmp_path, given):
    folder = tmp_path / "My Flowers 2"
    for split, count in (("train", 9), ("val", 4)):
        for i in range(count):
            path = folder / split / ("rose" if i % 3 else "Aster") / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive_files.jpeg(i))
    if given == "folder":
        directory, counts = prepare(str(folder), tmp_path / "data")
        name = "my_flowers_2"
    else:
        directory, counts = prepare("flowers", tmp_path / "data", folder)
        name = "flowers"
    assert counts == {"train": 9, "val": 4}
    assert directory == tmp_path / "data" / name / "1.0.0"
    direct = data.open_source(str(folder), "train")
    prepared = data.open_source(name, "train", tmp_path / "data")
    assert prepared.class_names == direct.class_names == ("Aster", "rose")
    assert prepared.image_shape == (None, None, 3)

    def content(source):
        return sorted((source[i]["image"], source[i]["label"]) for i in range(len(source)))

    assert content(prepared) == content(direct)
    # A slice of the folder is the slice of what is prepared from it.
    for split in ("train[:40%]", "train[40%:]", "val[1:3]"):
        assert content(data.open_source(str(folder), split)) == content(
            data.open_source(name, split, tmp_path / "data")
        )


def test_descriptions_are_those_of_tfds(tmp_path):
    """What the library's own builder would write, and what data sets made by it hold."""
    archive_files.make_cifar10(tmp_path)
    directory, _ = prepare("cifar10", tmp_path / "data", tmp_path, verified=False)
    info, features = (json.loads((directory / name).read_text()) for name in DESCRIPTIONS)
    assert info["name"] == "cifar10" and info["version"] == "3.0.2"
    assert info["fileFormat"] == "array_record"
    assert info["moduleName"] == "tensorflow_datasets.image_classification.cifar"
    assert info["supervisedKeys"]["tuple"]["items"] == [
        {"featureKey": "image"},
        {"featureKey": "label"},
    ]
    for split, length in (("train", "15"), ("test", "4")):
        (described,) = (s for s in info["splits"] if s["name"] == split)
        assert described["filepathTemplate"] == "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        assert described["shardLengths"] == [length]
        builder = tfds.builder_from_directory(directory)
        records = builder.as_data_source(split).data_source
        assert int(described["numBytes"]) == sum(len(record) for record in records)
        assert (directory / f"cifar10-{split}.array_record-00000-of-00001").is_file()
    kinds = {
        name: described["pythonClassName"].rpartition(".")[2]
        for name, described in features["featuresDict"]["features"].items()
    }
    assert kinds == {"id": "Text", "image": "Image", "label": "ClassLabel"}
    assert sorted(path.name for path in directory.iterdir() if "array" not in path.name) == [
        *DESCRIPTIONS,
        "label.labels.txt",
    ]


def test_large_splits_are_spread_over_files_as_tfds_spreads_them(tmp_path, monkeypatch):
    from tensorflow_datasets.core.utils import shard_utils

    archive_files.make_cifar10(tmp_path)
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 10_000)
    monkeypatch.setattr(shard_utils.ShardConfig, "max_shard_size", 20_000)
    directory, _ = prepare("cifar10", tmp_path / "data", tmp_path, verified=False)
    info = json.loads((directory / "dataset_info.json").read_text())
    (lengths,) = (s["shardLengths"] for s in info["splits"] if s["name"] == "train")
    # 15 images of about 3.2 kB are 48 kB: four files of 12 kB, at every fourth of 15 rounded.
    assert lengths == ["4", "4", "3", "4"]
    order = tfds_order("train", range(15), tmp_path)
    read = [example["id"].decode() for example in examples(directory, "train")]
    assert read == [f"train_{index:05d}" for index in order]


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 300, 20_000, 3_000_000])
def test_record_sizes_are_known_without_the_image(size):
    split = writer.Split(
        "train",
        ["a"],
        [size],
        lambda index: b"x" * size,
        lambda index: {"label": 999, "file_name": b"n01440764_1.JPEG", "id": b"", "zero": 0},
    )
    assert writer.record_size(split, 0) == len(writer.make_record(split, 0))


@pytest.mark.parametrize("size", [0, 1, 31, 32, 5_000])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_sequences_of_numbers(size, dtype):
    numbers = np.random.default_rng(0).integers(-2, 2**40, size).astype(dtype)
    split = writer.Split("train", ["a"], [1], lambda index: b"x", lambda index: {"some": numbers})
    record = writer.make_record(split, 0)
    assert writer.record_size(split, 0) == len(record)
    feature = tf_example_pb2.Example.FromString(record).features.feature["some"]
    kind = "float_list" if dtype == np.float32 else "int64_list"
    assert feature.WhichOneof("kind") == kind
    np.testing.assert_array_equal(np.array(getattr(feature, kind).value, dtype), numbers)


# Verification.


def published(monkeypatch, name, directory, counts):
    """Makes small archives the published ones."""
    recipe = RECIPES[name]
    archives = []
    for archive in recipe.archives:
        algorithm = archive.digest.partition(":")[0]
        digest = hashlib.new(algorithm, (directory / archive.name).read_bytes()).hexdigest()
        archives.append(type(archive)(archive.name, f"{algorithm}:{digest}", archive.url))
    changed = type(recipe)(tuple(archives), recipe.make, counts)
    monkeypatch.setitem(RECIPES, name, changed)


@pytest.mark.parametrize(
    ("name", "make", "counts"),
    [
        ("cifar10", archive_files.make_cifar10, {"train": 15, "test": 4}),
        ("fashion_mnist", archive_files.make_fashion_mnist, {"train": 7, "test": 3}),
        ("imagenet2012", archive_files.make_imagenet, {"train": 12, "validation": 4}),
    ],
)
def test_digests_and_counts_are_verified(tmp_path, monkeypatch, name, make, counts):
    source = tmp_path / "source"
    make(source)
    first = RECIPES[name].archives[0].name
    with pytest.raises(
        data.DataError, match=f"{first} is not the published .*; fetch it again, or"
    ):
        prepare(name, tmp_path / "data", source)
    assert not list((tmp_path / "data").rglob("*array_record*"))
    published(monkeypatch, name, source, counts)
    assert prepare(name, tmp_path / "good", source)[1] == counts
    split = next(iter(counts))
    published(monkeypatch, name, source, counts | {split: 99})
    with pytest.raises(
        data.DataError, match=f"{split!r} .* would have {counts[split]} images, not"
    ):
        prepare(name, tmp_path / "bad", source)
    assert not list((tmp_path / "bad").rglob("*array_record*"))


def test_the_published_digests_are_those_that_others_check():
    """torchvision, Keras and TFDS have the same ones; a slip of the pen would lock users out."""
    known = Path(tfds.__file__).parent / "url_checksums" / "fashion_mnist.txt"
    lines = [line.split("\t") for line in known.read_text().splitlines()]
    expected = {line[-1]: f"sha256:{line[2]}" for line in lines}
    archives = RECIPES["fashion_mnist"].archives
    assert {archive.name: archive.digest for archive in archives} == expected
    for recipe in RECIPES.values():
        for archive in recipe.archives:
            algorithm, _, digits = archive.digest.partition(":")
            assert len(digits) == {"sha256": 64, "md5": 32}[algorithm]


# Interruptions.

INTERRUPTED = """
import sys, time
sys.path[:0] = {path!r}
from resnet_jax.data.prepare import prepare, writer
from tensorflow_datasets.core.utils import shard_utils
shard_utils.ShardConfig.calculate_number_shards = classmethod(lambda *a, **k: 5)

def slow(split, index, make=writer.make_record):
    print(split.name, index, flush=True)
    time.sleep({pause})
    return make(split, index)

writer.make_record = slow
prepare("cifar10", {data!r}, {source!r}, verified=False)
"""


def test_killed_half_way_the_next_run_goes_on(tmp_path):
    train, _ = archive_files.make_cifar10(tmp_path / "source", 25, 5)
    arguments = {
        "path": sys.path,
        "data": str(tmp_path / "data"),
        "source": str(tmp_path / "source"),
    }
    command = [sys.executable, "-c", INTERRUPTED.format(**arguments, pause=0.05)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        seen = [process.stdout.readline() for _ in range(13)]
        process.send_signal(signal.SIGKILL)
    assert all(seen)
    incomplete = tmp_path / "data/cifar10/3.0.2.incomplete"
    whole = sorted(incomplete.glob("*-of-00005"))
    assert 1 <= len(whole) <= 3
    assert not (tmp_path / "data/cifar10/3.0.2").exists()
    with pytest.raises(data.DataError):
        data.open_source("cifar10", "train", tmp_path / "data")
    written = {path: path.stat().st_mtime_ns for path in whole}

    command[-1] = INTERRUPTED.format(**arguments, pause=0)
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # What was whole was not written again.
    assert len(run.stdout.splitlines()) == 30 - 5 * len(whole)
    for path, time_written in written.items():
        assert (tmp_path / "data/cifar10/3.0.2" / path.name).stat().st_mtime_ns == time_written
    source = data.open_source("cifar10", "train", tmp_path / "data")
    order = tfds_order("train", range(25), tmp_path)
    np.testing.assert_array_equal(source.images, train[0][order])
    assert no_incomplete_files(tmp_path / "data")


def test_with_another_source_it_starts_over(tmp_path, monkeypatch):
    archive_files.make_cifar10(tmp_path / "a", num_train=10)

    def broken(split, index):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "make_record", broken)
    with pytest.raises(OSError, match="No space"):
        prepare("cifar10", tmp_path / "data", tmp_path / "a", verified=False)
    monkeypatch.undo()
    incomplete = tmp_path / "data/cifar10/3.0.2.incomplete"
    leftover = incomplete / "cifar10-train.array_record-00000-of-00001"
    leftover.write_bytes(b"of another archive")
    train, _ = archive_files.make_cifar10(tmp_path / "b", num_train=20)
    prepare("cifar10", tmp_path / "data", tmp_path / "b", verified=False)
    source = data.open_source("cifar10", "train", tmp_path / "data")
    assert len(source) == 20
    assert not incomplete.exists()


def test_an_archive_is_verified_once(tmp_path, monkeypatch):
    """138 GB are not read again after an interruption, unless the file has changed."""
    archive_files.make_cifar10(tmp_path / "source")
    published(monkeypatch, "cifar10", tmp_path / "source", {"train": 15, "test": 4})

    def run():
        reports = []
        with pytest.raises(OSError, match="No space"):
            prepare(
                "cifar10",
                tmp_path / "data",
                tmp_path / "source",
                report=lambda what, done, total: reports.append(what),
            )
        return any("verifying" in what for what in reports)

    def broken(split, index):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "make_record", broken)
    assert run() and not run()
    archive = tmp_path / "source/cifar-10-python.tar.gz"
    os.utime(archive, ns=(time.time_ns(), time.time_ns()))
    assert run()


def test_progress_ends_at_the_whole(tmp_path):
    archive_files.make_imagenet(tmp_path / "source")
    reports = []
    prepare(
        "imagenet2012",
        tmp_path / "data",
        tmp_path / "source",
        verified=False,
        report=lambda *report: reports.append(report),
    )
    assert reports[-1] == ("writing imagenet2012", 16, 16)


# Bad input.


def test_what_is_there_is_not_written_again(tmp_path):
    archive_files.make_cifar10(tmp_path)
    prepare("cifar10", tmp_path / "data", tmp_path, verified=False)
    with pytest.raises(data.DataError, match="3.0.2 already exists; delete it to prepare it ag"):
        prepare("cifar10", tmp_path / "data", tmp_path, verified=False)


@pytest.mark.parametrize(
    ("dataset", "source", "message"),
    [
        ("cifra10", None, r"unknown data set 'cifra10' \(did you mean 'cifar10'\?\); give one of"),
        ("imagenet2012", None, "cannot be downloaded without an account; get ILSVRC2012_img_trai"),
        ("imagenet2012", "empty", "has no file ILSVRC2012_img_train.tar; give --source the folder"),
        ("cifar10", "empty", "has no file cifar-10-python.tar.gz"),
        ("cifar10", "none", "none does not exist; give --source the archive"),
        ("empty", "empty", "is not a folder of images; it should hold train/CLASS"),
        ("./none", None, "is not a folder of images"),
    ],
)
def test_errors_name_the_remedy(tmp_path, dataset, source, message):
    (tmp_path / "empty").mkdir()
    source = source and str(tmp_path / source)
    with pytest.raises(data.DataError, match=message):
        prepare(dataset, tmp_path / "data", source)
    assert not list(tmp_path.rglob("*array_record*"))


def test_remote_targets_are_refused():
    with pytest.raises(data.DataError, match="cannot write to gs://bucket; prepare in a local"):
        prepare("cifar10", "gs://bucket")
