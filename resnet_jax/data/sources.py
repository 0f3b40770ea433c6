"""Where images and labels come from: any TFDS data set that is prepared as ArrayRecord files.

A `Source` is a sequence of images with their labels. Data sets whose images all have one shape and
fit in memory are decoded once, when they are opened (`ArraySource`); of all others the encoded
bytes are handed out (`RecordSource`), so that an image is decoded only where it is needed, and
only as much of it as is needed. TensorFlow takes no part in either.
"""

import dataclasses
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from jaxtyping import Int32, UInt8

from .decode import decode_image
from .errors import DataError, nearest

BUNDLED_DIR = Path(__file__).parent / "bundled"
"""The `data_dir` of the data sets that come with the package."""

BUNDLED = ("fashion_mnist_mini",)
"""Names of the data sets that come with the package; they need no `data_dir`."""

MAX_BYTES_IN_MEMORY = 2**30
"""Decoded size in bytes up to which a data set of one image shape is held in memory."""


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

    Raises:
      DataError: arrays of another type or shape.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    name: str = "array"
    split: str = "all"

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


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """A source that reads one record of an ArrayRecord file an image and leaves it encoded.

    Safe to use from several threads; pickled, it opens its files anew.

    Attributes:
      records: a random-access sequence of serialised `tf.train.Example`s.
      class_names: one name a class.
      image_shape: (height, width, channels) with None where images differ.
      name: the data set, for messages and records.
      split: the split, for messages and records.
    """

    records: Any
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    name: str
    split: str

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        return self.parse(self.records[index])

    def parse(self, record: bytes) -> Example:
        """Takes the image and the label out of a serialised record."""
        from tensorflow_datasets.proto import tf_example_pb2

        feature = tf_example_pb2.Example.FromString(record).features.feature
        label = feature["label"].int64_list.value[0]
        if not 0 <= label < self.num_classes:
            raise DataError(
                f"split {self.split!r} of {self.name!r} has an image with the label {label}, which "
                f"is none of its {self.num_classes} classes; choose a split that has labels"
            )
        return {"image": feature["image"].bytes_list.value[0], "label": label}


def open_source(
    dataset: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> ArraySource | RecordSource:
    """Opens one split of a data set that TFDS has prepared as ArrayRecord files.

    Only files are read: neither the code that made the data set nor TensorFlow is needed, and
    nothing is downloaded.

    Args:
      dataset: TFDS's name, `name[/config][:version]`, or one of `BUNDLED`. The data set has the
        features `image` (uint8) and `label` (a class label).
      split: TFDS's split syntax: `"train"`, `"train[:45000]"`, `"train[90%:]"`, `"train+test"`.
      data_dir: the directory that holds data sets; TFDS's own (`TFDS_DATA_DIR`, or
        `~/tensorflow_datasets`) if None. Without effect on bundled data sets.

    Returns:
      An `ArraySource` if all images have one shape and take at most `MAX_BYTES_IN_MEMORY` bytes
      decoded, a `RecordSource` otherwise.

    Raises:
      DataError: the data set is not there or not in ArrayRecord form, lacks a feature, or does not
        have the split.
    """
    directory = BUNDLED_DIR if dataset in BUNDLED else data_dir
    data_dir = None if directory is None else os.path.expanduser(directory)
    builder = _open_builder(dataset, data_dir)
    image, label = _features(builder, dataset)
    splits = builder.info.splits
    try:
        num_examples = splits[split].num_examples
    except (KeyError, ValueError) as error:
        there = ", ".join(f"{name} ({splits[name].num_examples} images)" for name in splits)
        raise DataError(
            f"no split {split!r} in {dataset!r}{nearest(split, splits)}; there are {there}, and "
            "slices and sums of them such as 'train[:90%]'"
        ) from error
    if num_examples == 0:
        raise DataError(f"split {split!r} of {dataset!r} is empty; widen the slice")
    try:
        records = builder.as_data_source(split, file_format="array_record").data_source
    except (NotImplementedError, ValueError) as error:
        raise DataError(
            f"{dataset!r} is not stored as ArrayRecord files; {_remedy(dataset, data_dir)}"
        ) from error
    source = RecordSource(records, tuple(label.names), image.shape, dataset, split)
    height, width, channels = image.shape
    try:
        if height and width and num_examples * height * width * channels <= MAX_BYTES_IN_MEMORY:
            return _read_into_memory(source, (height, width, channels))
        source[0]  # Fails now rather than after the first step.
    except RuntimeError as error:
        raise DataError(
            f"a file of {dataset!r} is missing or damaged; {_remedy(dataset, data_dir)}"
        ) from error
    return source


def _open_builder(dataset: str, data_dir: str | None) -> Any:
    # Imported here, for it takes longer than all else that this room imports.
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        return read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except DatasetNotFoundError as error:
        raise DataError(
            f"data set {dataset!r} not found{nearest(dataset, _known(data_dir))}; "
            f"{_remedy(dataset, data_dir)}"
        ) from error
    except Exception as error:  # TFDS raises whatever the files make it stumble on.
        raise DataError(
            f"cannot open data set {dataset!r} ({_first_line(error)}); {_remedy(dataset, data_dir)}"
        ) from error


def _known(data_dir: str | None) -> list[str]:
    """The data sets that could have been meant."""
    return [*BUNDLED, *(os.listdir(data_dir) if data_dir and os.path.isdir(data_dir) else ())]


def _remedy(dataset: str, data_dir: str | None) -> str:
    from tensorflow_datasets.core.utils import file_utils

    directory = str(file_utils.list_data_dirs(given_data_dir=data_dir)[0])
    name, directory = shlex.quote(dataset), shlex.quote(directory)
    return f"prepare it by: python -m resnet_jax prepare {name} --data_dir {directory}"


def _features(builder: Any, dataset: str) -> tuple[Any, Any]:
    """The features `image` and `label` of a data set, checked."""
    from tensorflow_datasets.core import features as tfds_features

    features = dict(getattr(builder.info.features, "items", tuple)())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds_features.Image) or image.np_dtype != np.uint8:
        raise DataError(f"{dataset!r} has no feature 'image' of uint8; use a classification set")
    if not isinstance(label, tfds_features.ClassLabel) or not label.num_classes:
        raise DataError(f"{dataset!r} has no class 'label'; use a classification set")
    return image, label


def broken_image(source: Source, index: int, reason: object) -> DataError:
    """The error for an image that cannot be decoded or is not what its data set says."""
    return DataError(
        f"image {index} of split {source.split!r} of {source.name!r} cannot be used ({reason}); "
        "prepare the data set again"
    )


def _read_into_memory(source: RecordSource, shape: tuple[int, int, int]) -> ArraySource:
    """Decodes a source whose images all have one shape."""
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)

    def read(start: int) -> None:
        # Many records in one call, for a call costs more than a small record.
        records = source.records.__getitems__(range(start, min(start + 1024, len(source))))
        for index, record in enumerate(records, start):
            example = source.parse(record)
            try:
                pixels = decode_image(example["image"], shape[2])
            except OSError as error:
                raise broken_image(source, index, error) from error
            if pixels.shape != shape:
                raise broken_image(source, index, f"its shape is {pixels.shape}, not {shape}")
            images[index], labels[index] = pixels, example["label"]

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(read, range(0, len(source), 1024)):
            pass
    return ArraySource(images, labels, source.class_names, source.name, source.split)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
