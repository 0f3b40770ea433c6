"""Sources of single image files, from a folder or a table; slices of them."""

import dataclasses
import hashlib
import io
import itertools
import posixpath
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int32
from PIL import Image

from resnet_jax.data.sources.base import (
    ArraySource,
    BadImageError,
    Example,
    read_example,
    read_into_memory,
)
from resnet_jax.data.sources.folders import list_folder
from resnet_jax.data.sources.listing import Listed, Listing, is_remote, visible
from resnet_jax.data.sources.tables import is_table, list_table
from resnet_jax.errors import DataError, UnknownSplitError

LARGEST_IN_MEMORY = 128
"""Largest height and width in pixels of images of one size that are decoded when opened."""


@dataclasses.dataclass(frozen=True, eq=False)
class FolderSource:
    """A source that reads one file per image and leaves it encoded.

    Attributes:
      root: the folder.
      files: the path of each image below the folder.
      labels: all labels, `int32 [n]`.
      class_names: one name per class.
      name: the data set's name, for messages and records.
      split: the split, for messages and records.
      image_shape: (height, width, channels), with None for height and width if images differ. There
        are three channels, to which images are converted as in torchvision's loader.
      notices: lines for people about what was found.
    """

    root: str
    files: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str
    split: str
    image_shape: tuple[int | None, int | None, int] = (None, None, 3)
    notices: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        path = posixpath.join(self.root, self.files[index])
        if is_remote(path):
            return {"image": epath.Path(path).read_bytes(), "label": int(self.labels[index])}
        with open(path, "rb") as file:
            return {"image": file.read(), "label": int(self.labels[index])}

    def describe(self, index: int) -> str:
        """Returns the path of an image's file below the folder, as valid text."""
        return visible(self.files[index])


def open_files(
    dataset: str,
    split: str,
    *,
    max_bytes: int,
    on_bad_image: str = "error",
    notices: tuple[str, ...] = (),
) -> ArraySource | FolderSource:
    """Opens one split of a folder or a table of images.

    A slice such as `train[:90%]` is not the first classes but a fixed selection from all images,
    the same as after `python -m resnet_jax prepare`.

    Args:
      dataset: the path of a folder, see `list_folder`, or of a table, see `list_table`.
      split: a split in it, or slices and sums of splits in TFDS's syntax.
      max_bytes: largest decoded size of small images of one size to hold in memory.
      on_bad_image: "skip" to keep images encoded if one of them cannot be decoded.
      notices: the source's first notices.

    Returns:
      An `ArraySource` if all images have one size of at most `LARGEST_IN_MEMORY` pixels per side
      and fit in `max_bytes`, otherwise a `FolderSource`.

    Raises:
      DataError: there is no such folder, table or split, or a split or class has no images.
    """
    names = dict.fromkeys(part.split("[")[0].strip() for part in split.split("+"))
    listing = list_files(dataset, tuple(names))
    files, labels, _ = zip(*select(split, listing, dataset), strict=True)
    source = FolderSource(
        listing.root,
        files,
        np.array(labels, np.int32),
        listing.class_names,
        dataset,
        split,
        notices=(*notices, *listing.notices),
    )
    shape = _common_shape(source)
    if shape and len(source) * np.prod(shape) <= max_bytes:
        try:
            return read_into_memory(
                source, shape, lambda indices: (read_example(source, index) for index in indices)
            )
        except BadImageError as error:
            if not error.other_shape and on_bad_image != "skip":
                raise
            if not error.other_shape:
                return dataclasses.replace(source, image_shape=shape)
    return source


def list_files(dataset: str, wanted: Sequence[str] | None = None) -> Listing:
    """Lists splits of a folder or a table of images, see `list_folder` and `list_table`."""
    return list_table(dataset, wanted) if is_table(dataset) else list_folder(dataset, wanted)


def shuffle_hash(split: str, key: str | int) -> bytes:
    """Returns TFDS's sorting key of an example: MD5 of the split's name and the example's key."""
    text = f"{split}{key}".encode(errors="surrogateescape")
    return hashlib.md5(text, usedforsecurity=False).digest()


def select(spec: str, listing: Listing, dataset: str) -> list[Listed]:
    """Selects the images of a split in TFDS's syntax, see `open_files`.

    Raises:
      DataError: there is no such split, or it is empty.
    """
    # Imported here because it takes longer than all other imports of this package.
    from tensorflow_datasets.core import splits as tfds_splits

    infos = [
        tfds_splits.SplitInfo(name=name, shard_lengths=[len(images)], num_bytes=0)
        for name, images in listing.splits.items()
    ]
    try:
        instruction = tfds_splits.AbstractSplit.from_spec(spec)
        parts = instruction.to_absolute(tfds_splits.SplitDict(infos))
    except (KeyError, ValueError, AssertionError) as error:
        there = ", ".join(f"{name} ({len(all_)} images)" for name, all_ in listing.splits.items())
        raise UnknownSplitError(
            f"no split {spec!r} in {dataset!r} with {there}; give splits, slices and sums of them "
            "such as 'train[:90%]'"
        ) from error
    chosen: list[Listed] = []
    for part in parts:
        images = listing.splits[part.splitname]
        order: list[int] | range = range(len(images))
        wanted = slice(part.from_, part.to)
        if len(order[wanted]) < len(images):
            keys = [shuffle_hash(part.splitname, image.key) for image in images]
            order = sorted(order, key=keys.__getitem__)
        chosen += [images[index] for index in sorted(order[wanted])]
    if not chosen:
        raise DataError(f"split {spec!r} of {dataset!r} is empty; widen the slice")
    return chosen


def _common_shape(source: FolderSource) -> tuple[int, int, int] | None:
    """Returns the shape that a sample of images shares if it is small; others may differ."""
    sizes = set()
    for index in itertools.islice(range(0, len(source), max(1, len(source) // 8)), 8):
        try:
            file = source[index]["image"]
            sizes.add(Image.open(io.BytesIO(bytes(file))).size)
        except Exception:  # Decoding reports it later, by name.
            continue
    if len(sizes) != 1 or max(max(sizes)) > LARGEST_IN_MEMORY:
        return None
    width, height = sizes.pop()
    return height, width, 3
