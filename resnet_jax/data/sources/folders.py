"""Folders of images: `FOLDER/SPLIT/CLASS/*.jpg`, local or in a bucket (`gs://`)."""

import dataclasses
import hashlib
import io
import itertools
import os
import posixpath
from collections.abc import Iterator

import numpy as np
from etils import epath
from jaxtyping import Int32
from PIL import Image

from resnet_jax.data.sources.base import ArraySource, BadImageError, Example, read_into_memory
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in any case, as in torchvision's `ImageFolder`."""

LARGEST_IN_MEMORY = 128
"""Largest height and width in pixels of images of one size that are decoded when opened."""


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """A source that reads one file per image and leaves it encoded.

    Attributes:
      root: the folder.
      files: the path of each image below the folder, `SPLIT/CLASS/...`.
      labels: all labels, `int32 [n]`.
      class_names: one name per class.
      name: the data set's name, for messages and records.
      split: the split, for messages and records.
    """

    root: str
    files: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str
    split: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[None, None, int]:
        """Any size and three channels, to which images are converted as in torchvision's loader."""
        return None, None, 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        path = posixpath.join(self.root, self.files[index])
        if _is_remote(path):
            return {"image": epath.Path(path).read_bytes(), "label": int(self.labels[index])}
        with open(path, "rb") as file:
            return {"image": file.read(), "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        """Returns the path of an image's file below the folder."""
        return self.files[index]


def is_folder(dataset: str) -> bool:
    """Whether a data set's name denotes a folder of images.

    It is a path (`/...`, `./...`, `~/...`, `gs://...`), or the name of a folder that contains
    `train` or `val`.
    """
    if dataset.startswith(("/", "./", "../", "~")) or _is_remote(dataset):
        return True
    return any(os.path.isdir(os.path.join(dataset, split)) for split in ("train", "val"))


def open_folder(
    folder: str, split: str, *, max_bytes: int, on_bad_image: str = "error"
) -> ArraySource | FolderSource:
    """Opens one split of a folder of images.

    Classes are the folders in `train` (or in the split if there is no `train`), sorted by name;
    images are sorted within each class as in torchvision's `ImageFolder`. A slice such as
    `train[:90%]` is not the first classes but a fixed selection from all images, the same as after
    `python -m resnet_jax prepare FOLDER`.

    Args:
      folder: the folder's path.
      split: a folder in it, or slices and sums of such folders in TFDS's syntax.
      max_bytes: largest decoded size of small images of one size to hold in memory.
      on_bad_image: "skip" to keep images encoded if one of them cannot be decoded.

    Returns:
      An `ArraySource` if all images have one size of at most `LARGEST_IN_MEMORY` pixels per side
      and fit in `max_bytes`, otherwise a `FolderSource`.

    Raises:
      DataError: there is no such folder or split, or a split or class has no images.
    """
    root = folder if _is_remote(folder) else os.path.expanduser(folder)
    splits = list_folders(root)
    if not splits:
        raise DataError(
            f"{folder!r} is not a folder of images; it should hold train/CLASS/*.jpg and "
            "val/CLASS/*.jpg"
        )
    listed: dict[str, list[tuple[str, int]]] = {}
    class_names: tuple[str, ...] = ()
    for name in dict.fromkeys(part.split("[")[0].strip() for part in split.split("+")):
        if name not in splits:
            raise UnknownSplitError(
                f"no split {name!r} in folder {folder!r}{did_you_mean(name, splits)}; choose from "
                f"{', '.join(splits)}, slices and sums of them such as 'train[:90%]'"
            )
        names = list_folders(posixpath.join(root, "train" if "train" in splits else name))
        class_names = class_names or names
        if class_names != names:
            raise DataError(f"splits {split!r} of {folder!r} have different classes; choose one")
        listed[name] = list_images(root, name, class_names)
    files, labels = zip(*_select(split, listed, folder), strict=True)
    source = FolderSource(root, files, np.array(labels, np.int32), class_names, folder, split)
    shape = _common_shape(source)
    if shape and len(source) * np.prod(shape) <= max_bytes:
        try:
            return read_into_memory(source, shape, lambda indices: map(source.__getitem__, indices))
        except BadImageError as error:
            if not error.other_shape and on_bad_image != "skip":
                raise
    return source


def list_folders(path: str) -> tuple[str, ...]:
    """Returns the sorted names of the folders in a folder; empty if it does not exist."""
    directory = epath.Path(path)
    if not directory.is_dir():
        return ()
    children = (child for child in directory.iterdir() if not child.name.startswith("."))
    return tuple(sorted(child.name for child in children if child.is_dir()))


def list_images(root: str, split: str, class_names: tuple[str, ...]) -> list[tuple[str, int]]:
    """Returns the (path below `root`, label) of a split's images, sorted as in `ImageFolder`.

    Raises:
      DataError: there is no class, or a class is empty or not in `class_names`.
    """
    there = list_folders(posixpath.join(root, split))
    if not there:
        raise DataError(
            f"split {split!r} of folder {root!r} is empty; it should hold {split}/CLASS/*.jpg"
        )
    if strange := sorted(set(there) - set(class_names)):
        raise DataError(
            f"class {strange[0]!r} is in {split!r} of folder {root!r} but not in 'train'"
            f"{did_you_mean(strange[0], class_names)}; every class needs training images"
        )
    images: list[tuple[str, int]] = []
    for label, class_name in enumerate(class_names):
        if class_name not in there:
            continue  # No other class gets its label.
        start = len(images)
        folder = posixpath.join(root, split, class_name)
        for parent, names in sorted(_walk(folder)):
            below = posixpath.join(split, class_name, posixpath.relpath(parent, folder))
            images += [
                (posixpath.normpath(posixpath.join(below, name)), label)
                for name in sorted(names)
                if name.lower().endswith(IMAGE_EXTENSIONS)
            ]
        if len(images) == start:
            raise DataError(
                f"class {class_name!r} of split {split!r} of folder {root!r} has no images; "
                f"remove the folder, or put {', '.join(IMAGE_EXTENSIONS)} files into it"
            )
    return images


def example_key(file: str) -> str:
    """Returns an image's shuffling key: its path below the folder of its split."""
    return file.partition("/")[2]


def shuffle_hash(split: str, key: str | int) -> bytes:
    """Returns TFDS's sorting key of an example: MD5 of the split's name and the example's key."""
    return hashlib.md5(f"{split}{key}".encode(), usedforsecurity=False).digest()


def _select(
    spec: str, listed: dict[str, list[tuple[str, int]]], folder: str
) -> list[tuple[str, int]]:
    """Selects the images of a split in TFDS's syntax."""
    # Imported here because it takes longer than all other imports of this package.
    from tensorflow_datasets.core import splits as tfds_splits

    infos = [
        tfds_splits.SplitInfo(name=name, shard_lengths=[len(images)], num_bytes=0)
        for name, images in listed.items()
    ]
    try:
        instruction = tfds_splits.AbstractSplit.from_spec(spec)
        parts = instruction.to_absolute(tfds_splits.SplitDict(infos))
    except (KeyError, ValueError, AssertionError) as error:
        there = ", ".join(f"{name} ({len(images)} images)" for name, images in listed.items())
        raise UnknownSplitError(
            f"no split {spec!r} in folder {folder!r} with {there}; give splits, slices and sums "
            "of them such as 'train[:90%]'"
        ) from error
    chosen = []
    for part in parts:
        images = listed[part.splitname]
        order: list[int] | range = range(len(images))
        wanted = slice(part.from_, part.to)
        if len(order[wanted]) < len(images):
            keys = [shuffle_hash(part.splitname, example_key(file)) for file, _ in images]
            order = sorted(order, key=keys.__getitem__)
        chosen += [images[index] for index in sorted(order[wanted])]
    if not chosen:
        raise DataError(f"split {spec!r} of folder {folder!r} is empty; widen the slice")
    return chosen


def _common_shape(source: FolderSource) -> tuple[int, int, int] | None:
    """Returns the shape that a sample of images shares if it is small; others may differ."""
    sizes = set()
    for index in itertools.islice(range(0, len(source), max(1, len(source) // 8)), 8):
        try:
            file = source[index]["image"]
            sizes.add(Image.open(io.BytesIO(bytes(file))).size)
        except Exception:  # Decoding reports it later, by name.
            return None
    width, height = sizes.pop()
    if sizes or max(width, height) > LARGEST_IN_MEMORY:
        return None
    return height, width, 3


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields this folder and all folders below it, each with the names in it."""
    if not _is_remote(folder):
        # Links to folders are followed, as in torchvision but not in epath.
        for path, _, names in os.walk(folder, followlinks=True):
            yield path, names
        return
    children = list(epath.Path(folder).iterdir())
    yield folder, [child.name for child in children]
    for child in children:
        # Checking every image would take one request per file.
        if not child.name.lower().endswith(IMAGE_EXTENSIONS) and child.is_dir():
            yield from _walk(posixpath.join(folder, child.name))


def _is_remote(path: str) -> bool:
    return "://" in path
