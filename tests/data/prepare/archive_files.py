"""Small archives of the same form as the official ones."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES_OF_CIFAR = [f"class {i}" for i in range(10)]


def add(tar, name, content):
    """Adds a file to a tar archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def cifar_batch(images, protocol, **labels):
    """A batch as the archives have it: rows of red, green and blue planes, keys of bytes."""
    batch = {b"batch_label": b"a batch", b"data": images.transpose(0, 3, 1, 2).reshape(-1, 3072)}
    batch[b"filenames"] = [b"x.png"] * len(images)
    for key, values in labels.items():
        batch[key.encode()] = [int(value) for value in values]
    return pickle.dumps(batch, protocol)


def make_cifar10(directory: Path, num_train=15, num_test=4, protocol=2, extra=None):
    """Writes cifar-10-python.tar.gz; returns images and labels of train and test."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_train + num_test, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, num_train + num_test)
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(directory / "cifar-10-python.tar.gz", "w:gz") as tar:
        folder = "cifar-10-batches-py/"
        meta = {b"num_cases_per_batch": 3, b"num_vis": 3072}
        meta[b"label_names"] = [name.encode() for name in CLASSES_OF_CIFAR]
        add(tar, folder + "batches.meta", pickle.dumps(meta, protocol))
        for number, part in enumerate(np.array_split(np.arange(num_train), 5), 1):
            batch = cifar_batch(images[part], protocol, labels=labels[part])
            add(tar, f"{folder}data_batch_{number}", batch)
        test = np.arange(num_train, num_train + num_test)
        add(tar, folder + "test_batch", cifar_batch(images[test], protocol, labels=labels[test]))
        add(tar, folder + "readme.html", b"<html>")
        for name, content in (extra or {}).items():
            add(tar, folder + name, content)
    return (images[:num_train], labels[:num_train]), (images[num_train:], labels[num_train:])


def make_cifar100(directory: Path, protocol=2):
    """Writes cifar-100-python.tar.gz; returns images, fine and coarse labels of 6 + 3 images."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (9, 32, 32, 3), np.uint8)
    fine, coarse = rng.integers(0, 100, 9), rng.integers(0, 20, 9)
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(directory / "cifar-100-python.tar.gz", "w:gz") as tar:
        meta = {
            b"fine_label_names": [f"fine {i}".encode() for i in range(100)],
            b"coarse_label_names": [f"coarse {i}".encode() for i in range(20)],
        }
        add(tar, "cifar-100-python/meta", pickle.dumps(meta, protocol))
        for name, rows in (("train", slice(0, 6)), ("test", slice(6, 9))):
            content = cifar_batch(
                images[rows], protocol, fine_labels=fine[rows], coarse_labels=coarse[rows]
            )
            add(tar, f"cifar-100-python/{name}", content)
    return images, fine, coarse


def idx(array):
    """An array of bytes as a compressed IDX file."""
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def make_fashion_mnist(directory: Path):
    """Writes the four files; returns images and labels of 7 + 3 images."""
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (10, 28, 28), np.uint8)
    labels = rng.integers(0, 10, 10).astype(np.uint8)
    directory.mkdir(parents=True, exist_ok=True)
    for prefix, rows in (("train", slice(0, 7)), ("t10k", slice(7, 10))):
        (directory / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images[rows]))
        (directory / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels[rows]))
    return images, labels


def jpeg(seed):
    """A JPEG of a size of its own."""
    rng = np.random.default_rng(seed)
    size = rng.integers(8, 40, 2)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


def make_imagenet(directory: Path, validation=(1, 2, 3, 49_999), train=True):
    """Writes both tar archives; returns {file name: (content, synset or None)}."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    if train:
        with tarfile.open(directory / "ILSVRC2012_img_train.tar", "w") as outer:
            for position, synset in enumerate(("n01440764", "n02102318", "n15075141")):
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as inner:
                    for number in range(3 + position):
                        name = f"{synset}_{number}.JPEG"
                        files[name] = (jpeg(len(files)), synset)
                        add(inner, name, files[name][0])
                add(outer, f"{synset}.tar", buffer.getvalue())
    with tarfile.open(directory / "ILSVRC2012_img_val.tar", "w") as tar:
        for number in validation:
            name = f"ILSVRC2012_val_{number:08d}.JPEG"
            files[name] = (jpeg(100 + number), None)
            add(tar, name, files[name][0])
    return files
