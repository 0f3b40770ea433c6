"""Where images and labels come from: TFDS data sets in ArrayRecord form, and folders of images.

A `Source` is a sequence of images with their labels. Data sets whose images all have one shape and
fit in memory are decoded once, when they are opened (`ArraySource`); of all others the encoded
bytes are handed out (`RecordSource`, `FolderSource`), so that an image is decoded only where it is
needed, and only as much of it as is needed. TensorFlow takes no part in either.
"""

import dataclasses
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .base import ArraySource, BadImageError, Example, read_into_memory
from .errors import DataError, nearest
from .folders import FolderSource, is_folder, open_folder
from .metadata import check_features, check_files

BUNDLED_DIR = Path(__file__).parent / "bundled"
"""The `data_dir` of the data sets that come with the package."""

BUNDLED = ("fashion_mnist_mini",)
"""Names of the data sets that come with the package; they need no `data_dir`."""

MAX_BYTES_IN_MEMORY = 2**30
"""Decoded size in bytes up to which a data set of one image shape is held in memory."""

_NAMES = ("file_name", "image/filename", "filename", "id")


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
      root: the folder that it is read from.
      files: the names of the files there.
    """

    records: Any
    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    name: str
    split: str
    root: str = ""
    files: tuple[str, ...] = ()

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

    def describe(self, index: int) -> str:
        """The name that the data set gives to an image, or nothing."""
        from tensorflow_datasets.proto import tf_example_pb2

        feature = tf_example_pb2.Example.FromString(self.records[index]).features.feature
        names = (feature[key].bytes_list.value for key in _NAMES if key in feature)
        return next((name[0].decode(errors="replace") for name in names if name), "")


def open_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    on_bad_image: str = "error",
) -> ArraySource | RecordSource | FolderSource:
    """Opens one split of a data set that TFDS has prepared, or of a folder of images.

    Only files are read: neither the code that made the data set nor TensorFlow is needed, and
    nothing is downloaded. A folder may lie in a bucket (`gs://...`, which needs gcsfs); ArrayRecord
    files are read from a local or mounted directory.

    Args:
      dataset: TFDS's name, `name[/config][:version]`, of a data set in ArrayRecord form with the
        features `image` (uint8) and `label` (a class label); or one of `BUNDLED`; or the path of
        a folder that holds `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, see `open_folder`.
      split: TFDS's split syntax: `"train"`, `"train[:45000]"`, `"train[90%:]"`, `"train+test"`.
      data_dir: the directory that holds data sets; TFDS's own (`TFDS_DATA_DIR`, or
        `~/tensorflow_datasets`) if None. Without effect on bundled data sets and folders.
      on_bad_image: what becomes of a data set that would be decoded here and has an image that
        cannot be: "error", or "skip" to leave it encoded and the image to the loader.

    Returns:
      An `ArraySource` if all images have one shape and take at most `MAX_BYTES_IN_MEMORY` bytes
      decoded, a `RecordSource` or `FolderSource` otherwise.

    Raises:
      DataError: the data set is not there or not in ArrayRecord form, lacks a feature, or does not
        have the split.
    """
    if is_folder(dataset):
        return open_folder(dataset, split, max_bytes=MAX_BYTES_IN_MEMORY, on_bad_image=on_bad_image)
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
    from tensorflow_datasets.core.splits import AbstractSplit

    # TFDS gives a slice whose end lies before its beginning less than no images.
    parts = AbstractSplit.from_spec(split).to_absolute(splits)
    backwards = [part for part in parts if part.to is not None and (part.from_ or 0) > part.to]
    if backwards or num_examples == 0:
        raise DataError(f"split {split!r} of {dataset!r} is empty; widen the slice")
    try:
        records = builder.as_data_source(split, file_format="array_record").data_source
    except (NotImplementedError, ValueError) as error:
        raise DataError(
            f"{dataset!r} is not stored as ArrayRecord files; {_remedy(dataset, data_dir)}"
        ) from error
    root, files = str(builder.data_dir), _files_of(builder, split)
    source = RecordSource(records, tuple(label.names), image.shape, dataset, split, root, files)
    height, width, channels = image.shape
    try:
        if height and width and num_examples * height * width * channels <= MAX_BYTES_IN_MEMORY:
            try:
                return _read_into_memory(source, (height, width, channels))
            except BadImageError:
                if on_bad_image != "skip":
                    raise
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

    check_features(dataset, data_dir)
    try:
        builder = read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except DatasetNotFoundError as error:
        raise DataError(
            f"data set {dataset!r} not found{nearest(dataset, _known(dataset, data_dir))}; "
            f"{_remedy(dataset, data_dir)}"
        ) from error
    except Exception as error:  # TFDS raises whatever the files make it stumble on.
        raise DataError(
            f"cannot open data set {dataset!r} ({_first_line(error)}); {_remedy(dataset, data_dir)}"
        ) from error
    check_files(builder, dataset)
    return builder


def _known(dataset: str, data_dir: str | None) -> list[str]:
    """The data sets that could have been meant."""
    from .prepare import RECIPES

    there = os.listdir(data_dir) if data_dir and os.path.isdir(data_dir) else ()
    recipes = () if dataset in RECIPES else RECIPES
    return [name for name in (*BUNDLED, *recipes, *there) if name != dataset]


def _remedy(dataset: str, data_dir: str | None) -> str:
    from tensorflow_datasets.core.utils import file_utils

    from .prepare import RECIPES

    directory = str(file_utils.list_data_dirs(given_data_dir=data_dir)[0])
    name = dataset.partition(":")[0]
    if name not in RECIPES:
        return f"prepare it with TFDS, as file_format 'array_record', in {directory}"
    directory = shlex.quote(directory)
    return f"prepare it by: python -m resnet_jax prepare {name} --data_dir {directory}"


def _files_of(builder: Any, split: str) -> tuple[str, ...]:
    """The names of the files that hold a split in TFDS's syntax."""
    instructions = builder.info.splits[split].file_instructions
    return tuple(os.path.basename(instruction.filename) for instruction in instructions)


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


def _read_into_memory(source: RecordSource, shape: tuple[int, int, int]) -> ArraySource:
    """Decodes a source whose images all have one shape."""

    def read(indices: range) -> Iterator[Example]:
        # Many records in one call, for a call costs more than a small record.
        return map(source.parse, source.records.__getitems__(indices))

    return read_into_memory(source, shape, read)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
