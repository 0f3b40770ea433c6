"""What a source of images is: the protocol, the one in memory, and the error of a bad image."""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypedDict

import numpy as np
from jaxtyping import Int32, UInt8

from .decode import decode_image
from .errors import DataError


class Example(TypedDict):
    """One image with its label: what a source holds."""

    image: bytes | UInt8[np.ndarray, "h w c"]
    label: int


class Source(Protocol):
    """A sequence of `Example`s; anything with these attributes can be loaded."""

    @property
    def name(self) -> str:
        """The data set, for messages and records."""
        ...

    @property
    def split(self) -> str:
        """The split, in TFDS's syntax."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        ...

    @property
    def num_classes(self) -> int:
        """The number of classes; labels are 0 up to, not including, this."""
        ...

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels); height and width are None where they vary."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """A source held in memory, ready to be cut into batches without a loop over images.

    Attributes:
      images: every image, `uint8 [n, h, w, c]`.
      labels: every label, `int32 [n]`.
      class_names: one name a class.
      name: the data set, for messages and records.
      split: the split, for messages and records.
      root: the folder that it was read from.
      files: the names of the files there.

    Raises:
      DataError: arrays of another type or shape.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str = "array"
    split: str = "all"
    root: str = ""
    files: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"images are {self.images.dtype} {self.images.shape}; give uint8 [n, h, w, c]"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int32:
            raise DataError(
                f"labels are {self.labels.dtype} {self.labels.shape}; give int32, one an image"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return {"image": self.images[index], "label": int(self.labels[index])}


class BadImageError(DataError):
    """An image that cannot be decoded, or is not what its data set says.

    Attributes:
      other_shape: whether it can be decoded but has another shape than the others.
    """

    other_shape: bool = False


def broken_image(source: Source, index: int, reason: object) -> BadImageError:
    """The error for an image that cannot be used; it names the image by index and by file."""
    describe = getattr(source, "describe", None)
    name = f" ({describe(index)})" if describe and describe(index) else ""
    return BadImageError(
        f"image {index}{name} of split {source.split!r} of {source.name!r} cannot be used "
        f"({reason}); mend the data set, or set on_bad_image='skip'"
    )


def read_into_memory(
    source: Source,
    shape: tuple[int, int, int],
    read: Callable[[range], Iterable[Example]],
) -> ArraySource:
    """Decodes a source whose images all have one shape.

    Args:
      source: what to read.
      shape: height, width and channels of every image.
      read: returns some of the source's examples, in order.

    Raises:
      BadImageError: an image that cannot be decoded or has another shape.
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
    root, files = getattr(source, "root", ""), getattr(source, "files", ())
    return ArraySource(images, labels, source.class_names, source.name, source.split, root, files)
