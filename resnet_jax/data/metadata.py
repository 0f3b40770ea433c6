"""What a data set's own files may not ask TFDS to do: import code, or read other folders' files."""

import contextlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from .errors import DataError

_FEATURES = "tensorflow_datasets.core.features."


def check_features(dataset: str, data_dir: str | None) -> None:
    """Looks at what the features of a data set are said to be, before TFDS imports their modules.

    Args:
      dataset: TFDS's name, `name[/config][:version]`; all its configs and versions are looked at.
      data_dir: the directory that holds data sets; TFDS's own if None.

    Raises:
      DataError: one of them is none of TFDS's own classes.
    """
    from tensorflow_datasets.core import naming
    from tensorflow_datasets.core.utils import file_utils

    try:
        name = naming.parse_builder_name_kwargs(dataset)[0].name  # As TFDS will look for it.
    except ValueError:
        return  # It will not, and says so.
    for directory in file_utils.list_data_dirs(given_data_dir=data_dir):
        # name/version or name/config/version, each of which may be a link.
        paths = [Path(directory, name).glob("*/" * depth + "features.json") for depth in range(4)]
        for path in itertools.chain.from_iterable(paths):
            try:
                kinds = _class_names(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # TFDS reports it, if it is this one that is wanted.
            except RecursionError:
                raise DataError(
                    f"{path} is nested too deeply; prepare the data set again"
                ) from None
            for kind in kinds:
                if not kind.startswith(_FEATURES):
                    raise DataError(
                        f"{path} asks for the class {kind!r}, which is none of TFDS's and is not "
                        "imported; prepare the data set again with TFDS's own features"
                    )


def check_files(builder: Any, dataset: str) -> None:
    """Raises a `DataError` if a split of a TFDS builder has files outside the data set's folder."""
    folder = os.path.abspath(builder.data_dir)
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if os.path.dirname(os.path.abspath(path)) != folder:
                raise DataError(
                    f"split {split.name!r} of {dataset!r} has a file outside of {folder}: {path}; "
                    "prepare the data set again"
                )


def _class_names(text: str) -> list[str]:
    """Every name of a class in a text of JSON, also in strings that are JSON themselves."""
    names, left = [], [json.loads(text)]
    while left:
        described = left.pop()
        if isinstance(described, list):
            left += described
        elif isinstance(described, str) and described.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(ValueError):  # It is only a string.
                left.append(json.loads(described))
        elif isinstance(described, dict):
            left += described.values()
            # "type" is what earlier versions of TFDS wrote; a feature may have that name as well.
            kinds = [described.get(key) for key in ("pythonClassName", "python_class_name", "type")]
            names += [kind for kind in kinds if isinstance(kind, str)]
    return names
