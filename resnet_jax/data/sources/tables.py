"""Tables of image files and their labels: `photos.csv`, `photos.parquet`."""

import csv
import io
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from resnet_jax.data.sources.listing import (
    Listed,
    Listing,
    class_name,
    is_remote,
    training_split,
    visible,
)
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean
from resnet_jax.runtime.files import expanded

COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split",),
}
"""Names of a table's columns, in any case; the first one that the table has counts."""

_ENDINGS = (".csv", ".parquet")


class _Row(NamedTuple):
    place: str  # "line 3", for messages.
    file: str
    label: str
    split: str


def is_table(dataset: str) -> bool:
    """Whether a data set's name denotes a table of image files, by its ending."""
    return dataset.lower().endswith(_ENDINGS) and not os.path.isdir(dataset)


def list_table(table: str, wanted: Sequence[str] | None = None) -> Listing:
    """Lists splits of a table of image files and labels.

    The columns are those of `COLUMNS`. Paths are relative to the table's folder. Labels are text or
    numbers; classes are the labels in the split `train` (in all if there is none), in the order of
    the alphabet or of numbers. Without a column `split`, all images are the split `train`.

    Args:
      table: the path of a CSV file (with commas, semicolons or tabs) or a Parquet file.
      wanted: the splits to list; None for all.

    Raises:
      UnknownSplitError: there is no such split.
      DataError: the table is missing or damaged, or lacks a column, or a row has no label, repeats
        a file or names one that is missing.
    """
    rows, notices = _read(table)
    if not rows:
        raise DataError(f"table {table!r} has no rows; add a row per image")
    of_splits: dict[str, list[_Row]] = {}
    first: dict[str, _Row] = {}
    for row in rows:
        for what in ("file", "label", "split"):
            if not getattr(row, what):
                raise DataError(
                    f"{row.place} of {table!r} has no {what}; add it, or remove the row"
                )
        other = first.setdefault(row.file, row)
        if other is not row:
            raise DataError(
                f"{other.place} and {row.place} of {table!r} have the same file {row.file!r}; "
                "remove one"
            )
        of_splits.setdefault(row.split, []).append(row)
    wanted = tuple(of_splits) if wanted is None else wanted
    for name in wanted:
        if name not in of_splits:
            raise UnknownSplitError(
                f"no split {name!r} in table {table!r}{did_you_mean(name, of_splits)}; choose from "
                f"{', '.join(of_splits)}, slices such as 'train[:80%]' and 'train[80%:]', or add a "
                "column 'split'"
            )
    training = training_split(tuple(of_splits))
    class_names = _in_order({row.label for row in (of_splits[training] if training else rows)})
    labels = {name: label for label, name in enumerate(class_names)}
    root = posixpath.dirname(expanded(table)) or "."
    for name in wanted:
        _check_rows(of_splits[name], table, root, labels, training or "")
    splits = {
        name: [Listed(row.file, labels[row.label], row.file) for row in of_splits[name]]
        for name in wanted
    }
    return Listing(root, splits, class_names, notices)


def _check_rows(
    rows: Sequence[_Row], table: str, root: str, labels: Mapping[str, int], training: str
) -> None:
    """Raises a `DataError` if a row's file is missing or its class is not one of the training."""
    there: dict[str, set[str]] = {}
    for row in rows:
        if row.label not in labels:
            raise DataError(
                f"{row.place} of {table!r} has class {row.label!r}, which is not in {training!r}"
                f"{did_you_mean(row.label, labels)}; every class needs training images"
            )
        folder, name = posixpath.split(posixpath.join(root, row.file))
        if folder not in there:
            # One request per folder, not one per file.
            there[folder] = _names_in(folder)
        if name not in there[folder] and not os.path.lexists(posixpath.join(folder, name)):
            raise DataError(
                f"{row.place} of {table!r} has file {row.file!r}, which is not in the table's "
                f"folder {root}{did_you_mean(name, sorted(there[folder])[:10_000])}; correct the "
                "path, or remove the row"
            )


def _names_in(folder: str) -> set[str]:
    try:
        if is_remote(folder):
            return {child.name for child in epath.Path(folder).iterdir()}
        return set(os.listdir(folder))
    except OSError:
        return set()


def _in_order(labels: set[str]) -> tuple[str, ...]:
    """Returns labels in the order of text, or of numbers if all are numbers."""
    if all(re.fullmatch(r"[-+]?\d+(\.\d+)?", label, re.ASCII) for label in labels):
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    return tuple(sorted(labels))


def _read(table: str) -> tuple[list[_Row], tuple[str, ...]]:
    """Returns the rows of a table, and a notice if another column might have been meant."""
    try:
        content = bytes(epath.Path(expanded(table)).read_bytes())
    except OSError as error:
        raise DataError(
            f"cannot read table {table!r} ({error.strerror or error}); give a .csv or .parquet file"
        ) from error
    read = _read_parquet if table.lower().endswith(".parquet") else _read_csv
    try:
        places, columns, notices = read(content, table)
        splits = columns.get("split") or ["train"] * len(places)
        cells = zip(places, columns["file"], columns["label"], splits, strict=True)
        rows = [
            _Row(place, _file(file), class_name(_text(label)), _text(split))
            for place, file, label, split in cells
        ]
    except DataError:
        raise
    except (csv.Error, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"table {table!r} cannot be used ({reason}); write it again") from error
    return rows, notices


def _read_csv(
    content: bytes, table: str
) -> tuple[list[str], dict[str, list[Any]], tuple[str, ...]]:
    text = content.decode("utf-8-sig", errors="surrogateescape")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    names = next(reader, [])
    chosen, notices = _choose(names, table)
    places: list[str] = []
    columns: dict[str, list[Any]] = {what: [] for what in chosen}
    for row in reader:
        if not any(row):
            continue
        places.append(f"line {reader.line_num}")
        for what, name in chosen.items():
            place = names.index(name)
            columns[what].append(row[place] if place < len(row) else "")
    return places, columns, notices


def _read_parquet(
    content: bytes, table: str
) -> tuple[list[str], dict[str, list[Any]], tuple[str, ...]]:
    import pyarrow
    from pyarrow import parquet

    file = parquet.ParquetFile(pyarrow.BufferReader(content))
    chosen, notices = _choose(file.schema_arrow.names, table)
    read = file.read(columns=list(chosen.values()))
    columns = {what: read.column(name).to_pylist() for what, name in chosen.items()}
    return [f"row {number}" for number in range(1, len(read) + 1)], columns, notices


def _choose(names: Sequence[str], table: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns what a column is → its name, and notices where several might be meant."""
    chosen, notices = {}, []
    by_name = {name.strip().lower(): name for name in reversed(names)}
    for what, choices in COLUMNS.items():
        found = [by_name[choice] for choice in choices if choice in by_name]
        if found:
            chosen[what] = found[0]
        elif what != "split":
            listed = ", ".join(map(repr, names[:8]))
            raise DataError(
                f"table {table!r} has no column for an image's {what}, only {listed}; name one "
                f"{' or '.join(choices[:3])}"
            )
        if len(found) > 1:
            notices.append(
                f"{visible(table)}: an image's {what} is taken from column {found[0]!r}, not "
                f"{found[1]!r}"
            )
    return chosen, tuple(notices)


def _file(value: Any) -> str:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"a file is {type(value).__name__}, not text")
    return posixpath.normpath(value) if value else ""


def _text(value: Any) -> str:
    """Returns the text of a label; whole numbers lose a decimal point that a table added."""
    if isinstance(value, bytes):
        return os.fsdecode(value).strip()
    if isinstance(value, float):
        return "" if value != value else str(int(value) if value.is_integer() else value)
    if value is None or isinstance(value, str | int):
        return "" if value is None else str(value).strip()
    raise ValueError(f"a label is {type(value).__name__}, not text or a number")
