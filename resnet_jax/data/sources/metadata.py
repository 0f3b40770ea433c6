"""Checks that a data set's files do not make TFDS import code or read files of other folders."""

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from resnet_jax.errors import DataError

_FEATURES = "tensorflow_datasets.core.features."


def check_features(dataset: str, data_dir: str | None) -> None:
    """Checks the feature classes that a data set names, before TFDS imports their modules.

    Args:
      dataset: TFDS's name, `name[/config][:version]`; all its configs and versions are checked.
      data_dir: the folder of data sets; None for TFDS's own.

    Raises:
      DataError: a class is not one of TFDS's own.
    """
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import file_utils

    try:
        name = naming.parse_builder_name_kwargs(dataset)[0].name  # As TFDS will look for it.
    except ValueError:
        return  # TFDS will refuse the name.
    for directory in file_utils.list_data_dirs(given_data_dir=data_dir):
        # name/version or name/config/version, each of which may be a link.
        paths = [Path(directory, name).glob("*/" * depth + "features.json") for depth in range(4)]
        for path in itertools.chain.from_iterable(paths):
            try:
                kinds = _class_names(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # TFDS reports it if this file is needed.
            except RecursionError:
                raise DataError(
                    f"{path} is nested too deeply; prepare the data set again"
                ) from None
            for kind in kinds:
                if not kind.startswith(_FEATURES):
                    raise DataError(
                        f"{path} names the class {kind!r}, which is not TFDS's and not imported; "
                        "prepare the data set again with TFDS's own features"
                    )


def check_files(builder: Any, dataset: str) -> None:
    """Raises a `DataError` if a split of a TFDS builder has files outside the data set's folder."""
    folder = os.path.abspath(builder.data_dir)
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if os.path.dirname(os.path.abspath(path)) != folder:
                raise DataError(
                    f"split {split.name!r} of {dataset!r} has a file outside {folder}: {path}; "
                    "prepare the data set again"
                )


def check_class_names(folder: str) -> None:
    """Raises a `DataError` if TFDS would cut off part of a class name in `label.labels.txt`."""
    try:
        text = Path(folder, "label.labels.txt").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return  # TFDS numbers the classes, or reports it.
    for name in text.split("\n"):
        refuse_blanks(name, f"{folder}/label.labels.txt")


def refuse_blanks(name: str, place: str) -> None:
    """Raises a `DataError` if TFDS cannot store a class name, one per line without blanks."""
    if name != name.strip() or "\n" in name:
        raise DataError(
            f"class {name!r} of {place} has blanks at an end or a line break, which TFDS cuts off; "
            "rename it"
        )


def find_prepared(folder: str) -> tuple[str, str] | None:
    """Finds the data set that TFDS prepared in a folder, the data set's own or that of a version.

    Returns:
      `name[/config]:version` and the folder of data sets, or None.
    """
    # It may be a version, a data set, or the folder of data sets.
    for depth in range(3):
        for path in sorted(Path(folder).glob("*/" * depth + "dataset_info.json")):
            try:
                name = json.loads(path.read_text(encoding="utf-8"))["name"]
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                continue
            version = Path(os.path.abspath(path)).parent
            for own in version.parents:
                if own.name == name:
                    config = version.parent.relative_to(own.parent).as_posix()
                    return f"{config}:{version.name}", str(own.parent)
    return None


def _class_names(text: str) -> list[str]:
    """Returns all class names in a JSON text, including those in nested JSON strings."""
    names, left = [], [json.loads(text)]
    while left:
        described = left.pop()
        if isinstance(described, list):
            left += described
        elif isinstance(described, str) and described.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError):  # A plain string.
                left.append(json.loads(described))
        elif isinstance(described, dict):
            left += described.values()
            # Older versions of TFDS wrote "type", which may also be the name of a feature.
            kinds = [described.get(key) for key in ("pythonClassName", "python_class_name", "type")]
            names += [kind for kind in kinds if isinstance(kind, str)]
    return names
