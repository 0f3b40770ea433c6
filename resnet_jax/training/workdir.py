"""The work directory: what belongs to one run, and to no other."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ..parallel import from_first_host
from .checkpoint import set_damaged_aside
from .config import UNTIED, ConfigError, TrainConfig
from .lock import locked


@contextlib.contextmanager
def open_workdir(workdir: Path, config: TrainConfig) -> Iterator[list[str]]:
    """Makes the work directory this run's alone for as long as the context lasts.

    Writes `config.json`, or checks that the one there is the same run's; keys that alter no update
    (`UNTIED`) may differ and are brought up to date. Damaged checkpoints are set aside. With
    several hosts the first one does all this, and they go on or end together.

    Args:
      workdir: where the run's records and checkpoints go.
      config: the run.

    Returns:
      What is to be said of damaged checkpoints, a line each.

    Raises:
      ConfigError: the directory cannot be written, is another running process's, belongs to a
        different configuration (the message names the keys that differ), or holds no checkpoint
        that is not damaged.
    """
    with contextlib.ExitStack() as held:
        lines, refusal = [], ""
        if jax.process_index() == 0:
            try:
                lines = _open_alone(workdir, config, held)
            except ConfigError as error:
                refusal = str(error)
        if refusal := from_first_host(refusal):
            raise ConfigError(refusal)
        yield lines


def _open_alone(workdir: Path, config: TrainConfig, held: contextlib.ExitStack) -> list[str]:
    path = workdir / "config.json"
    try:
        if path.exists():
            _check_same_run(path, config)
        workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(workdir))
        lines = set_damaged_aside(workdir / "checkpoints")
        write_atomically(path, json.dumps(to_json(config), indent=2) + "\n")
        return lines
    except OSError as error:
        raise ConfigError(
            f"cannot write to the work directory {workdir}: {error.strerror}; "
            "choose another --workdir, make room or change its permissions"
        ) from error


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON reads it back: tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all, whenever the process ends."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_same_run(path: Path, config: TrainConfig) -> None:
    try:
        # A key that the run's version did not know yet had what is now the default's effect.
        before = to_json(TrainConfig()) | json.loads(path.read_text())
        differing = sorted(
            key for key, value in to_json(config).items() if before.get(key) != value
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a run's configuration; choose another --workdir or remove it"
        ) from error
    lengths = ("num_steps", "num_epochs") if config.scale_schedule else ()
    tied = [key for key in differing if key not in UNTIED or key in lengths]
    if tied:
        changes = ", ".join(
            f"{key} ({before.get(key)!r}, now {getattr(config, key)!r})" for key in tied
        )
        if len(changes) > 150:
            changes = ", ".join(tied)
        raise ConfigError(
            f"the work directory {path.parent} belongs to another configuration, differing in "
            f"{changes}; choose another --workdir or set them back"
        )
