"""The errors for bad input, and helpers for their messages.

Each message is one line that names the problem and the remedy. A command prints it and ends with
exit status 2.
"""

import difflib
import reprlib
from collections.abc import Iterable
from typing import ClassVar


class InputError(ValueError):
    """The base class of this package's errors that bad input causes."""

    max_length: ClassVar[int] = 300
    """Maximum number of characters of a message; a longer one loses its middle."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, self.max_length))


class ModelError(InputError):
    """An unknown model, an unknown option, a wrong value, or images that do not fit."""


class DataError(InputError):
    """A data set, a split, an augmentation or a batch size that cannot be used."""


class UnknownSplitError(DataError):
    """A data set that has no split of a name."""


class EvaluationError(InputError):
    """An evaluation that cannot be carried out."""


class ConfigError(InputError):
    """A configuration or a work directory that cannot be used; the message names the key."""


class UsageError(InputError):
    """A command line that cannot be carried out."""


class WeightsError(InputError):
    """Weights that cannot be read, written or fitted to a model.

    If weights do not fit, the message abbreviates a long list of entries. The attributes and the
    traceback have the whole list.

    Attributes:
      missing: names of entries that the model needs but the weights lack.
      unexpected: names of entries that the weights have but the model lacks.
      misshaped: entries of another shape, as "NAME [SHAPE], not [SHAPE]".
    """

    max_length = 10_000  # Up to a dozen entries are named in full.
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()


def one_line(message: str, limit: int) -> str:
    """Returns a message as one line of fewer than `limit` characters.

    A longer one loses its middle, because the problem is at its start and the remedy at its end.
    """
    line = " ".join(message.split())
    half = limit // 2 - 3
    return line if len(line) < limit else f"{line[:half]} ... {line[-half:]}"


def shown(value: object) -> str:
    """Returns a value's text for a message: short and on one line."""
    return " ".join(reprlib.repr(value).split())


def did_you_mean(value: object, choices: Iterable[object]) -> str:
    """Returns " (did you mean 'CHOICE'?)" with the choice closest to a value, or ""."""
    by_lower_case = {str(choice).lower(): str(choice) for choice in choices}
    found = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[found[0]]!r}?)" if found else ""


# The extra that installs a module, for each module outside the core install.
_EXTRAS = {
    **dict.fromkeys(("absl", "array_record", "cv2", "etils", "grain"), "train"),
    **dict.fromkeys(("importlib_resources", "matplotlib", "ml_collections", "orbax"), "train"),
    **dict.fromkeys(("PIL", "pydantic", "simplejpeg", "tensorflow_datasets"), "train"),
    **{"h5py": "keras", "huggingface_hub": "hub", "pyarrow": "parquet", "torch": "torch"},
    "pycocotools": "detection",
}

# Packages whose names differ from their modules'.
_PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "orbax": "orbax-checkpoint",
    "tensorflow_datasets": "tensorflow-datasets",
}


def missing_package(error: Exception) -> str | None:
    """Returns how to install the package that an error reports missing; None for other errors."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    extra = _EXTRAS.get(module)
    if extra is None:
        return None
    package = _PACKAGES.get(module, module)
    return f"this needs the package {package}: python -m pip install 'resnet-jax[{extra}]'"
