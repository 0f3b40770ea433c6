"""The `config.json` of a work directory: a run's configuration, parts handed in, and paths."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.errors import ConfigError, did_you_mean
from resnet_jax.training.config import KEYS, TrainConfig

PATH_KEYS = ("dataset", "data_dir", "init_from")
"""Keys whose values may be paths."""


class SavedConfig(NamedTuple):
    """The contents of a `config.json`.

    Attributes:
      values: the configuration by key, as it was typed.
      parts: the parts that were handed in, as `Experiment.recorded`.
      paths: key → absolute path, for each value that is a path.
    """

    values: dict[str, Any]
    parts: dict[str, str]
    paths: dict[str, str]

    def located(self) -> dict[str, Any]:
        """Returns the values with absolute paths, which hold in any current folder.

        Where only the typed path exists, because the project has moved, it stays. So does a value
        that was edited and is no longer that of the absolute path.
        """
        values = dict(self.values)
        for key, path in self.paths.items():
            typed = os.path.expanduser(str(values.get(key)))
            below = re.sub(r"^((\.{1,2})?/|\.{1,2}$)+", "", os.path.normpath(typed))
            if f"{path}/".endswith(f"/{below}/") or not below:
                if os.path.exists(path) or not os.path.exists(typed):
                    values[key] = path
        return values


def read_config_file(path: Path, remedy: str = "give another directory") -> SavedConfig:
    """Reads a `config.json`.

    Args:
      path: the file.
      remedy: what to do if it is not a run's configuration, for the message.

    Raises:
      ConfigError: the file cannot be read, is none, or is that of a newer version's run.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        parts, paths = {**values.pop("parts", {})}, {**values.pop("paths", {})}
        unknown = sorted(values.keys() - set(KEYS))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; give a work directory of train.py"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} is not a run's configuration; {remedy}") from error
    if unknown:
        hint = did_you_mean(unknown[0], KEYS)
        raise ConfigError(
            f"{path} has the unknown key {unknown[0]}{hint}; it needs a newer resnet_jax"
        )
    return SavedConfig(values, parts, paths)


def config_file(config: TrainConfig, parts: Mapping[str, str], paths: Mapping[str, str]) -> str:
    """Returns the text of a `config.json`; `parts` and `paths` are left out if empty."""
    values = to_json(config)
    values |= {"parts": dict(parts)} if parts else {}
    values |= {"paths": dict(paths)} if paths else {}
    return json.dumps(values, indent=2) + "\n"


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON values: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))
