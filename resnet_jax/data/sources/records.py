"""`open_source` and TFDS data sets in ArrayRecord form.

A `Source` is a sequence of images with their labels. Data sets whose images all have one shape and
fit in memory are decoded once, when opened (`ArraySource`). All others return encoded bytes
(`RecordSource`, `FolderSource`), so that only the needed images, and only the needed parts of them,
are decoded. None of them needs TensorFlow.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.sources.base import (
    ArraySource,
    BadImageError,
    Example,
    Source,
    read_into_memory,
)
from resnet_jax.data.sources.files import open_files
from resnet_jax.data.sources.folders import is_folder, is_path, looks_like_images
from resnet_jax.data.sources.listing import holds_images, is_system_name
from resnet_jax.data.sources.metadata import (
    check_class_names,
    check_features,
    check_files,
    find_prepared,
)
from resnet_jax.data.sources.tables import is_table
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean
from resnet_jax.registry import Registry
from resnet_jax.runtime.files import expanded, has_home

BUNDLED_DIR = Path(__file__).parents[1] / "bundled"
"""The `data_dir` of the bundled data sets."""

BUNDLED = ("fashion_mnist_mini",)
"""Names of the bundled data sets; they need no `data_dir`."""

DATASETS = Registry("data set", DataError)
"""Functions of (split, data_dir) that return a `Source`: custom data sets."""

register_dataset = DATASETS.register
"""Decorator that registers a function of (split, data_dir) that returns a `Source`."""

MAX_BYTES_IN_MEMORY = 2**30
"""Largest decoded size in bytes of a data set of one image shape to hold in memory."""

_NAMES = ("file_name", "image/filename", "filename", "id")


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSource:
    """A source that reads one ArrayRecord record per image and leaves it encoded.

    It is thread-safe; an unpickled copy reopens its files.

    Attributes:
      records: a random-access sequence of serialised `tf.train.Example`s.
      class_names: one name per class.
      image_shape: (height, width, channels) with None where images differ.
      name: the data set's name, for messages and records.
      split: the split, for messages and records.
      root: the folder of the source's files.
      files: the names of the source's files.
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
        """Returns the image and the label of a serialised record."""
        from tensorflow_datasets.proto import tf_example_pb2

        feature = tf_example_pb2.Example.FromString(record).features.feature
        label = feature["label"].int64_list.value[0]
        if not 0 <= label < self.num_classes:
            raise DataError(
                f"split {self.split!r} of {self.name!r} has an image with the label {label}, which "
                f"is not one of its {self.num_classes} classes; choose a split with labels"
            )
        return {"image": feature["image"].bytes_list.value[0], "label": label}

    def describe(self, index: int) -> str:
        """Returns an image's name in the data set, or an empty string."""
        from tensorflow_datasets.proto import tf_example_pb2

        feature = tf_example_pb2.Example.FromString(self.records[index]).features.feature
        names = (feature[key].bytes_list.value for key in _NAMES if key in feature)
        return next((name[0].decode(errors="backslashreplace") for name in names if name), "")


def open_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    on_bad_image: str = "error",
) -> Source:
    """Opens one split of a prepared TFDS data set, of a folder or table, or of a custom data set.

    It only reads files: it needs neither TensorFlow nor the code that made the data set, and
    downloads nothing. A folder may be in a bucket (`gs://...`, which needs gcsfs); ArrayRecord
    files must be in a local or mounted directory.

    Args:
      dataset: TFDS's name, `name[/config][:version]`, of a data set in ArrayRecord form with the
        features `image` (uint8) and `label` (a class label); or one of `BUNDLED`; or the path of
        a folder with `train/CLASS/*.jpg` and `val/CLASS/*.jpg`, or only `CLASS/*.jpg`; or the path
        of a table, `.csv` or `.parquet`, with a column `file` and a column `label`; or a name of
        `register_dataset`.
      split: TFDS's split syntax: `"train"`, `"train[:45000]"`, `"train[90%:]"`, `"train+test"`.
      data_dir: the folder of data sets; None for TFDS's own (`TFDS_DATA_DIR`, or
        `~/tensorflow_datasets`). Bundled data sets, folders and tables ignore it.
      on_bad_image: effect of an undecodable image in a data set that would be decoded here:
        "error" raises, "skip" leaves the data set encoded and the image to the loader.

    Returns:
      An `ArraySource` if all images have one shape and take at most `MAX_BYTES_IN_MEMORY` bytes
      decoded, otherwise a `RecordSource` or `FolderSource`.

    Raises:
      DataError: the data set is missing, is not in ArrayRecord form, or lacks a feature or the
        split.
    """
    if dataset in DATASETS:
        own: Source = DATASETS[dataset](split, data_dir)
        return own
    directory = BUNDLED_DIR if dataset.partition(":")[0] in BUNDLED else data_dir
    data_dir = None if directory is None else expanded(directory)
    if is_table(dataset) or is_folder(dataset):
        return open_files(
            dataset,
            split,
            max_bytes=MAX_BYTES_IN_MEMORY,
            on_bad_image=on_bad_image,
            notices=_choose_folder(dataset, data_dir),
        )
    builder = open_builder(dataset, data_dir)
    image, label = _features(builder, dataset)
    records, root, files = open_records(builder, dataset, split, data_dir)
    source = RecordSource(records, tuple(label.names), image.shape, dataset, split, root, files)
    height, width, channels = image.shape
    try:
        if height and width and len(records) * height * width * channels <= MAX_BYTES_IN_MEMORY:
            try:
                return _read_into_memory(source, (height, width, channels))
            except BadImageError:
                if on_bad_image != "skip":
                    raise
        source[0]  # Fails now rather than after the first step.
    except RuntimeError as error:
        raise damaged_records(dataset, data_dir) from error
    return source


def open_records(
    builder: Any, dataset: str, split: str, data_dir: str | None
) -> tuple[Any, str, tuple[str, ...]]:
    """Opens the records of one split of a prepared TFDS data set.

    Args:
      builder: see `open_builder`.
      dataset: TFDS's name.
      split: TFDS's split syntax.
      data_dir: the folder of data sets; None for TFDS's own.

    Returns:
      A random-access sequence of serialised `tf.train.Example`s, the data set's folder, and the
      names of the files in it that hold the split.

    Raises:
      DataError: there is no such split, it is empty, or it is not stored as ArrayRecord files.
    """
    splits = builder.info.splits
    try:
        num_examples = splits[split].num_examples
    except (KeyError, ValueError) as error:
        there = ", ".join(f"{name} ({splits[name].num_examples} images)" for name in splits)
        raise UnknownSplitError(
            f"no split {split!r} in {dataset!r}{did_you_mean(split, splits)}; choose from {there}, "
            "slices and sums of them such as 'train[:90%]'"
        ) from error
    from tensorflow_datasets.core.splits import AbstractSplit

    # TFDS counts a negative number of images for a slice that ends before it starts.
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
    return records, str(builder.data_dir), _files_of(builder, split)


def damaged_records(dataset: str, data_dir: str | None) -> DataError:
    """Returns the error for a record that cannot be read."""
    return DataError(f"a file of {dataset!r} is missing or damaged; {_remedy(dataset, data_dir)}")


def open_builder(dataset: str, data_dir: str | None) -> Any:
    """Opens a prepared TFDS data set by its files alone, without the code that made it.

    Args:
      dataset: TFDS's name, `name[/config][:version]`.
      data_dir: the folder of data sets; None for TFDS's own.

    Returns:
      A TFDS builder.

    Raises:
      DataError: the data set is missing, damaged, or names code or files that are not its own.
    """
    if data_dir is None and not os.environ.get("TFDS_DATA_DIR") and not has_home():
        raise DataError(
            f"data set {dataset!r} has no default folder, because there is no home folder; give "
            "data_dir, or set TFDS_DATA_DIR"
        )
    # Imported here because it takes longer than all other imports of this package.
    from tensorflow_datasets.core import read_only_builder
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    check_features(dataset, data_dir)
    try:
        builder = read_only_builder.builder_from_files(dataset, data_dir=data_dir)
    except DatasetNotFoundError as error:
        remedy = _elsewhere(dataset, data_dir) or (
            f"{did_you_mean(dataset, _known(dataset, data_dir))}; {_remedy(dataset, data_dir)}"
        )
        raise DataError(f"data set {dataset!r} not found{remedy}") from error
    except Exception as error:  # Damaged files make TFDS raise any exception.
        raise DataError(
            f"cannot open data set {dataset!r} ({_first_line(error)}); {_remedy(dataset, data_dir)}"
        ) from error
    check_files(builder, dataset)
    check_class_names(str(builder.data_dir))
    return builder


def _choose_folder(dataset: str, data_dir: str | None) -> tuple[str, ...]:
    """Returns a notice if a name is that of a folder here although `data_dir` is given.

    Raises:
      DataError: the name is also that of a data set or a folder in `data_dir`.
    """
    if is_path(dataset) or is_table(dataset):
        return ()
    from tensorflow_datasets.core.utils import file_utils

    for directory in file_utils.list_data_dirs(given_data_dir=data_dir):
        there = os.path.join(directory, dataset)
        if os.path.realpath(there) == os.path.realpath(dataset):
            return ()
        found = find_prepared(there)
        if found or (data_dir and looks_like_images(there)):
            raise DataError(
                f"{dataset!r} is a folder here, and there is one in {directory}; give ./{dataset} "
                f"for the one here, {found[0] if found else there} for the other"
            )
    if data_dir is None:
        return ()
    return (f"{dataset!r} is the folder {os.path.abspath(dataset)}, not one in {data_dir}",)


def _elsewhere(dataset: str, data_dir: str | None) -> str:
    """Returns where a data set is that is not found in `data_dir`, and what to give, or ""."""
    name = re.split("[:/]", dataset)[0]
    if data_dir:
        found = find_prepared(data_dir)
        own = found and re.split("[:/]", found[0])[0] == name
        if found and own and found[1] != os.path.abspath(data_dir):
            return f" in {data_dir}, which is its own folder; give {found[1]} as the data_dir"
        there = os.path.join(data_dir, dataset)
        if looks_like_images(there) or os.path.isdir(there) and holds_images(there):
            return f": {there} is a folder of images; give that path as the data set"
    if found := find_prepared(dataset):
        return (
            f": that is the folder of a prepared data set; give {found[0]} as the data set and "
            f"{found[1]} as the data_dir"
        )
    if os.path.isdir(dataset):
        return f", only a folder here; give ./{dataset} for that"
    return ""


def _known(dataset: str, data_dir: str | None) -> list[str]:
    """Returns the names of known data sets, for suggestions."""
    from resnet_jax.data.prepare import RECIPES

    there = os.listdir(data_dir) if data_dir and os.path.isdir(data_dir) else ()
    recipes = () if dataset in RECIPES else RECIPES
    names = (*BUNDLED, *DATASETS, *recipes, *there)
    return [name for name in names if name != dataset and not is_system_name(name)]


def _remedy(dataset: str, data_dir: str | None) -> str:
    from tensorflow_datasets.core.utils import file_utils

    from resnet_jax.data.prepare import RECIPES

    directory = str(file_utils.list_data_dirs(given_data_dir=data_dir)[0])
    name = dataset.partition(":")[0]
    if name not in RECIPES:
        return (
            f"prepare it with TFDS, as file_format 'array_record', in {directory}; one of your own "
            "needs --import FILE"
        )
    directory = shlex.quote(directory)
    return f"prepare it by: python -m resnet_jax prepare {name} --data_dir {directory}"


def _files_of(builder: Any, split: str) -> tuple[str, ...]:
    """Returns the names of the files that hold a split in TFDS's syntax."""
    instructions = builder.info.splits[split].file_instructions
    return tuple(os.path.basename(instruction.filename) for instruction in instructions)


def _features(builder: Any, dataset: str) -> tuple[Any, Any]:
    """Returns the checked features `image` and `label` of a data set."""
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
        # Many records per call, because a call costs more than a small record.
        return map(source.parse, source.records.__getitems__(indices))

    return read_into_memory(source, shape, read)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
