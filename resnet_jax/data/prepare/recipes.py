"""The archives of each official data set, and the conversion of its examples."""

import contextlib
import io
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.prepare.archives import (
    Archive,
    Member,
    Report,
    list_tar,
    read_idx,
    read_tar,
    unpickle,
)
from resnet_jax.data.prepare.writer import Split
from resnet_jax.data.sources.folders import list_images
from resnet_jax.data.sources.listing import Listed, Listing, list_folders, visible
from resnet_jax.errors import DataError

CIFAR10 = (
    Archive(
        "cifar-10-python.tar.gz",
        "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)
CIFAR100 = (
    Archive(
        "cifar-100-python.tar.gz",
        "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)
_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST = tuple(
    Archive(name, f"sha256:{digest}", _FASHION_MNIST + name)
    for name, digest in (
        (
            "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
)
IMAGENET2012 = (
    Archive("ILSVRC2012_img_train.tar", "md5:1d675b47d978889d74fa0da5fadfb00e"),
    Archive("ILSVRC2012_img_val.tar", "md5:29b22e2961454d5413ddabcf34fc5622"),
)

_IMAGENET_FOLDERS = {"train": "train", "val": "validation", "validation": "validation"}

Made = tuple[list[Split], dict[str, tuple[str, ...]]]
"""Splits, and the class names of each feature that has any."""


def cifar10(files: Mapping[str, Path]) -> Made:
    """Returns the examples of CIFAR-10 from its Python archive."""
    path = files[CIFAR10[0].name]
    train = tuple(f"data_batch_{number}" for number in range(1, 6))
    batches = _read_cifar(path, (*train, "test_batch", "batches.meta"))
    splits = [
        _cifar_split(path, "train", [batches[name] for name in train], {"label": "labels"}),
        _cifar_split(path, "test", [batches["test_batch"]], {"label": "labels"}),
    ]
    return splits, {"label": _names(path, batches["batches.meta"], "label_names")}


def cifar100(files: Mapping[str, Path]) -> Made:
    """Returns the examples of CIFAR-100 from its Python archive; `label` is the fine label."""
    path = files[CIFAR100[0].name]
    batches = _read_cifar(path, ("train", "test", "meta"))
    labels = {"label": "fine_labels", "coarse_label": "coarse_labels"}
    splits = [_cifar_split(path, name, [batches[name]], labels) for name in ("train", "test")]
    names = {
        feature: _names(path, batches["meta"], key)
        for feature, key in (("label", "fine_label_names"), ("coarse_label", "coarse_label_names"))
    }
    return splits, names


def fashion_mnist(files: Mapping[str, Path]) -> Made:
    """Returns the examples of Fashion-MNIST from its four IDX files."""
    splits = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(files[f"{prefix}-images-idx3-ubyte.gz"])
        labels = read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"])
        if images.ndim != 3 or images.shape[:1] != labels.shape:
            raise DataError(
                f"{files[f'{prefix}-images-idx3-ubyte.gz']} holds an array of {images.shape} for "
                f"labels of {labels.shape}; fetch both files again"
            )
        _check_labels(labels, 10, files[f"{prefix}-labels-idx1-ubyte.gz"])
        splits.append(_array_split(split, images, {"label": labels.tolist()}))
    return splits, {}


def imagenet2012(files: Mapping[str, Path], report: Report) -> Made:
    """Returns the examples of ImageNet from those of its tar archives that are given."""
    synsets, validation = _imagenet_labels()
    numbers = {name: number for number, name in enumerate(synsets)}
    splits = []
    for split, archive in zip(("train", "validation"), IMAGENET2012, strict=True):
        if archive.name not in files:
            continue
        path = files[archive.name]
        members: list[Member] = []
        labels: list[int] = []
        if split == "train":
            # The archive contains one archive per class.
            for position, inner in enumerate(list_tar(path)):
                name = inner.name.removesuffix(".tar")
                if name not in numbers:
                    raise DataError(f"{path} has a file {inner.name!r}; fetch it again")
                found = list(list_tar(path, inner.offset))
                members += found
                labels += [numbers[name]] * len(found)
                report(f"listing {path.name}", position + 1, len(synsets))
        else:
            for member in list_tar(path):
                # By the image's number, so that a partial archive also has the correct labels.
                match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", member.name)
                if not match or not 0 < int(match[1]) <= len(validation):
                    raise DataError(f"{path} has a file {member.name!r}; fetch it again")
                members.append(member)
                labels.append(numbers[validation[int(match[1]) - 1]])
        if not members:
            raise DataError(f"{path} holds no images; fetch it again")
        splits.append(_member_split(path, split, members, labels))
    return splits, {}


def image_files(listing: Listing) -> list[Split]:
    """Returns the examples of a folder or a table of images."""
    return [_file_split(listing.root, name, images) for name, images in listing.splits.items()]


def imagenet_folder(folder: str) -> Made:
    """Returns the examples of an unpacked ImageNet, `train/n01440764/*.JPEG` and so on."""
    synsets, _ = _imagenet_labels()
    splits = []
    for directory in list_folders(folder):
        if directory not in _IMAGENET_FOLDERS:
            continue
        if strange := sorted(set(list_folders(f"{folder}/{directory}")) - set(synsets)):
            raise DataError(
                f"{folder}/{directory}/{strange[0]} is not one of ImageNet's 1,000 classes; remove "
                "it, or prepare the folder under another name"
            )
        images, _ = list_images(folder, directory, synsets)
        images = [image._replace(key=posixpath.basename(image.key)) for image in images]
        splits.append(_file_split(folder, _IMAGENET_FOLDERS[directory], images))
    return splits, {}


def _read_cifar(path: Path, names: tuple[str, ...]) -> dict[str, dict[bytes, object]]:
    batches = {}
    for name, content in read_tar(path, names).items():
        batch = unpickle(content, f"{name} in {path}")
        if not isinstance(batch, dict):
            raise DataError(f"{name} in {path} is not a dictionary; fetch the archive again")
        batches[name] = batch
    return batches


def _cifar_split(
    path: Path, split: str, batches: list[dict[bytes, object]], labels: Mapping[str, str]
) -> Split:
    images = []
    fields: dict[str, list[int]] = {feature: [] for feature in labels}
    for batch in batches:
        pixels = batch.get(b"data")
        if (
            not isinstance(pixels, np.ndarray)
            or pixels.dtype != np.uint8
            or pixels.shape[1:] != (3072,)
        ):
            raise DataError(f"a batch of {path} holds no images of 32x32; fetch it again")
        images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        for feature, key in labels.items():
            numbers = batch.get(key.encode())
            if not isinstance(numbers, list) or len(numbers) != len(pixels):
                raise DataError(f"a batch of {path} has no {key} for its images; fetch it again")
            count = {"labels": 10, "fine_labels": 100, "coarse_labels": 20}[key]
            _check_labels(np.asarray(numbers), count, path)
            fields[feature] += numbers
    return _array_split(split, np.concatenate(images), fields, ids=f"{split}_")


def _check_labels(labels: np.ndarray, num_classes: int, path: Path) -> None:
    if labels.dtype.kind not in "iu" or (
        labels.size and not 0 <= labels.min() <= labels.max() < num_classes
    ):
        raise DataError(f"{path} has labels that are not 0 to {num_classes - 1}; fetch it again")


def _names(path: Path, meta: dict[bytes, object], key: str) -> tuple[str, ...]:
    names = meta.get(key.encode())
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} has no {key}; fetch it again")
    return tuple(name.decode() for name in names)


def _array_split(
    name: str,
    images: UInt8[np.ndarray, "n h w c"] | UInt8[np.ndarray, "n h w"],
    labels: Mapping[str, list[int]],
    ids: str | None = None,
) -> Split:
    """Returns a split of arrays, converted to PNG files."""
    files = [_png(image) for image in images]

    def fields(index: int) -> dict[str, bytes | int]:
        named = {"id": f"{ids}{index:05d}".encode()} if ids else {}
        return named | {feature: numbers[index] for feature, numbers in labels.items()}

    return Split(name, range(len(files)), [len(file) for file in files], files.__getitem__, fields)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def _member_split(path: Path, name: str, members: list[Member], labels: list[int]) -> Split:
    """Returns a split of files in a tar archive; their bytes stay unchanged."""

    def read(index: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(members[index].offset)
            return file.read(members[index].size)

    return _named_split(name, [m.name for m in members], [m.size for m in members], read, labels)


def _file_split(folder: str, name: str, images: Sequence[Listed]) -> Split:
    """Returns a split of files in a folder; their bytes stay unchanged."""
    from etils import epath

    root = epath.Path(folder)

    @contextlib.contextmanager
    def named(image: Listed) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"image {visible(image.file)!r} of split {name!r} of {folder!r} cannot be read "
                f"({error.strerror or error}); repair or remove it"
            ) from error

    def size(image: Listed) -> int:
        with named(image):
            return int((root / image.file).stat().length)

    def read(index: int) -> bytes:
        with named(images[index]):
            return bytes((root / images[index].file).read_bytes())

    keys, labels = [image.key for image in images], [image.label for image in images]
    return _named_split(name, keys, list(map(size, images)), read, labels)


def _named_split(
    name: str,
    keys: list[str],
    sizes: list[int],
    read: Callable[[int], bytes],
    labels: list[int],
) -> Split:
    if len(set(keys)) < len(keys):
        raise DataError(f"split {name!r} has two images with one name; rename one of them")

    def fields(index: int) -> dict[str, bytes | int]:
        file_name = keys[index].encode(errors="surrogateescape")
        return {"label": labels[index], "file_name": file_name}

    return Split(name, keys, sizes, read, fields)


def _imagenet_labels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns TFDS's synsets in the order of their labels, and that of each validation image."""
    import tensorflow_datasets

    directory = Path(tensorflow_datasets.__file__).parent / "datasets" / "imagenet2012"
    synsets, validation = (
        tuple((directory / file).read_text().split())
        for file in ("labels.txt", "validation_labels.txt")
    )
    return synsets, validation
