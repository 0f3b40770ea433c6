"""The protocol of a data source, the source in memory, and the error for a bad image."""

import dataclasses
import errno
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int32, UInt8

from resnet_jax.data.images.decode import decode_image
from resnet_jax.errors import DataError, one_line


class Example(TypedDict):
    """An image with its label: an element of a source."""

    image: bytes | UInt8[np.ndarray, "h w c"]
    label: int


@runtime_checkable
class Source(Protocol):
    """A sequence of `Example`s; the loader accepts any object with these attributes.

    It may also have `describe(index)`, which returns an image's name, and `notices`, lines for
    people that `train` and `evaluate` print.
    """

    @property
    def name(self) -> str:
        """The data set's name, for messages and records."""
        ...

    @property
    def split(self) -> str:
        """The split, in TFDS's syntax."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes; labels are 0 to `num_classes - 1`."""
        ...

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels); height and width are None where they vary."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A source in memory, from which batches are made without a loop over images.

    Attributes:
      images: all images, `uint8 [n, h, w, c]`.
      labels: all labels, `int32 [n]`.
      class_names: one name per class.
      name: the data set's name, for messages and records.
      split: the split, for messages and records.
      root: the folder of the source's files.
      files: the names of the source's files.
      describe: returns an image's name in the data set; None if images have no names.
      notices: lines for people about what was found.

    Raises:
      DataError: an array has another type or shape.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str = "array"
    split: str = "all"
    root: str = ""
    files: tuple[str, ...] = ()
    describe: Callable[[int], str] | None = None
    notices: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of all images."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"images are {self.images.dtype} {self.images.shape}; give uint8 [n, h, w, c]"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int32:
            raise DataError(
                f"labels are {self.labels.dtype} {self.labels.shape}; give int32, one per image"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}


class BadImageError(DataError):
    """An image that cannot be decoded or does not match its data set's description.

    Attributes:
      description: which image it is and why it cannot be used, without the remedy.
      other_shape: whether it can be decoded but has a different shape.
    """

    description: str = ""
    other_shape: bool = False


def broken_image(source: Source, index: int, reason: object) -> BadImageError:
    """Returns the error for an image that cannot be used; it names the index and the file."""
    describe = getattr(source, "describe", None)
    name = f" ({describe(index)})" if describe and describe(index) else ""
    split = f"split {source.split!r} of {source.name!r}"
    description = f"image {index}{name} of {split} cannot be used ({reason})"
    error = BadImageError(f"{description}; repair the data set, or set on_bad_image='skip'")
    error.description = one_line(description, error.max_length)
    return error


_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the system, not of a file."""


def read_example(source: Source, index: int) -> Example:
    """Returns an example of a source.

    Raises:
      BadImageError: its file cannot be read: a link that leads nowhere, a lack of permission, ...
    """
    try:
        return source[index]
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        raise broken_image(source, index, error.strerror or error) from error


def image_name(source: Source, index: int) -> str:
    """Returns an image's name in the data set; without one, its place in the split: `test[7]`."""
    describe = getattr(source, "describe", None)
    return str(describe(index) if describe else "") or f"{source.split}[{index}]"


def notices(*sources: Source) -> list[str]:
    """Returns the lines for people about what was found in sources, each line once."""
    lines = (line for source in sources for line in getattr(source, "notices", ()))
    return list(dict.fromkeys(lines))


def read_into_memory(
    source: Source,
    shape: tuple[int, int, int],
    read: Callable[[range], Iterable[Example]],
) -> ArraySource:
    """Decodes a source whose images all have one shape.

    Args:
      source: the source.
      shape: height, width and channels of all images.
      read: returns the source's examples at some indices, in order.

    Raises:
      BadImageError: an image cannot be decoded or has another shape.
    """
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)

    def decode(start: int) -> None:
        indices = range(start, min(start + 1024, len(source)))
        for index, example in zip(indices, read(indices), strict=True):
            try:
                pixels = decode_image(example["image"], shape[2])
            except OSError as reason:
                raise broken_image(source, index, reason) from reason
            if pixels.shape != shape:
                error = broken_image(source, index, f"its shape is {pixels.shape}, not {shape}")
                error.other_shape = True
                raise error
            images[index], labels[index] = pixels, example["label"]

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode, range(0, len(source), 1024)):
            pass
    return ArraySource(
        images,
        labels,
        source.class_names,
        source.name,
        source.split,
        getattr(source, "root", ""),
        getattr(source, "files", ()),
        getattr(source, "describe", None),
        getattr(source, "notices", ()),
    )
