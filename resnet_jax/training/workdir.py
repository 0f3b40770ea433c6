"""The work directory of a run: its configuration, its lock and its data set's fingerprints."""

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from resnet_jax import data
from resnet_jax.errors import ConfigError, shown
from resnet_jax.runtime.agreement import check_shared, leave_token
from resnet_jax.runtime.devices import from_first_host
from resnet_jax.runtime.files import expanded, write_atomically
from resnet_jax.training.checkpoint import find_steps, set_damaged_aside
from resnet_jax.training.config import TrainConfig, checked
from resnet_jax.training.config_file import (
    PATH_KEYS,
    SavedConfig,
    config_file,
    read_config_file,
    to_json,
)
from resnet_jax.training.identity import Facts, changed_keys, is_path


@contextlib.contextmanager
def open_workdir(
    workdir: Path,
    config: TrainConfig,
    parts: Mapping[str, str] = MappingProxyType({}),
    facts: Facts | None = None,
) -> Iterator[list[str]]:
    """Reserves the work directory for this run while the context lasts.

    Writes `config.json`, or checks that the existing one belongs to the same run; keys that alter
    no update may differ and are updated (see `changed_keys`). Renames damaged checkpoints. With
    several hosts the first one does all this, and all continue or end together.

    Args:
      workdir: the folder of the run's records and checkpoints.
      config: the run's configuration.
      parts: parts handed in, as `Experiment.recorded`; kept as `parts` in `config.json`.
      facts: what the data and the parts settle about the configuration, if known.

    Yields:
      A line per damaged checkpoint.

    Raises:
      ConfigError: the directory cannot be written, is in use by another process, is not shared by
        all hosts, belongs to a different configuration (the message names the keys that differ) or
        to a run with other parts, or all its checkpoints are damaged.
    """
    with contextlib.ExitStack() as held:
        lines: list[str] = []
        token = refusal = ""
        if jax.process_index() == 0:
            try:
                lines, token = _open_alone(workdir, config, parts, facts or Facts(), held)
            except ConfigError as error:
                refusal = str(error)
        if refusal := from_first_host(refusal):
            raise ConfigError(refusal)
        check_shared(workdir, token)
        yield lines


def _open_alone(
    workdir: Path,
    config: TrainConfig,
    parts: Mapping[str, str],
    facts: Facts,
    held: contextlib.ExitStack,
) -> tuple[list[str], str]:
    path = workdir / "config.json"
    try:
        paths = _paths(config)
        if path.exists():
            saved = _check_same_run(path, config, parts, facts)
            # Of weights that are gone by now, too.
            same = (key for key in saved.paths if saved.values.get(key) == getattr(config, key))
            paths = {key: saved.paths[key] for key in same} | paths
        workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(workdir))
        lines = set_damaged_aside(workdir / "checkpoints")
        write_atomically(path, config_file(config, parts, paths))
        return lines, leave_token(workdir)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the work directory {workdir}: {error.strerror}; "
            "choose another --workdir, make room or change its permissions"
        ) from error


def _paths(config: TrainConfig) -> dict[str, str]:
    """Returns the absolute form of each value that is an existing local path, by key."""
    typed = {key: getattr(config, key) for key in PATH_KEYS}
    if not is_path(config.dataset):
        del typed["dataset"]
    return {
        key: os.path.abspath(expanded(value))
        for key, value in typed.items()
        if value is not None and os.path.exists(expanded(value))
    }


def _check_same_run(
    path: Path, config: TrainConfig, parts: Mapping[str, str], facts: Facts
) -> SavedConfig:
    """Returns the run's saved configuration; refuses another run's."""
    saved = read_config_file(path, "choose another --workdir or remove it")
    try:
        before = checked(saved.located())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_parts(path.parent, saved.parts, parts)
    facts = facts._replace(guarded=bool(read_dataset(path.parent)))
    typed = to_json(before) | saved.values
    if tied := changed_keys(before, config, facts):
        values = {key: (shown(typed[key]), shown(getattr(config, key))) for key in tied}
        changes = ", ".join(f"{key} ({was}, now {now})" for key, (was, now) in values.items())
        if len(changes) > 150:
            changes = ", ".join(tied)
        raise ConfigError(
            f"the work directory {path.parent} belongs to another configuration, differing in "
            f"{changes}; choose another --workdir or set them back"
        )
    return saved


LOCK = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without locks; there, concurrent runs cannot be refused."""


def _check_parts(workdir: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises a `ConfigError` unless the parts handed in have the same names as before."""
    for name in sorted(before.keys() | now.keys()):
        was, is_now = before.get(name), now.get(name)
        if was == is_now:
            continue
        if is_now is None:
            what = f"was trained with {name} {was} handed in; hand it in again"
        elif was is None:
            what = f"was trained without a {name} handed in, now {is_now}; omit it"
        else:
            what = f"was trained with {name} {was}, not {is_now}; hand in the same one"
        raise ConfigError(f"the run in {workdir} {what}, or choose another work directory")


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a work directory.

    The lock is the kernel's `flock` on `.lock`, a file that names the holder. The kernel releases
    it whenever the process ends; the remaining file has no effect. Between hosts it works on shared
    file systems that support it (NFS, GPFS, Lustre mounted with `flock`).

    Raises:
      ConfigError: another process holds the lock.
      OSError: the directory cannot be written.
    """
    with open(workdir / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"the work directory {workdir} is in use by {_holder(workdir)}; wait for it or "
                "stop it, or choose another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
        file.flush()
        yield


def _holder(workdir: Path) -> str:
    try:
        holder = json.loads((workdir / LOCK).read_text(encoding="utf-8"))
        return f"process {int(holder['process'])} on {str(holder['host'])[:64]}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


_DATASET = "dataset.json"


def keep_dataset(
    workdir: Path,
    sources: Mapping[str, data.Source],
    fingerprints: Mapping[str, dict[str, Any]] | None = None,
    on_changed_data: str = "error",
) -> list[str]:
    """Writes the fingerprints of a run's splits, or checks that they are unchanged.

    Before the first checkpoint they may change, such as when a broken image is removed; later only
    with `on_changed_data="accept"`, but never the classes. With several hosts the first one checks,
    and all continue or end together.

    Args:
      workdir: the run's existing work directory.
      sources: the run's sources, `train` and `eval`.
      fingerprints: their fingerprints, if known.
      on_changed_data: "error" or "accept".

    Returns:
      A line per split that has changed and is accepted; empty on all hosts but the first.

    Raises:
      ConfigError: the data set has changed since the last checkpoint; the message names the change.
    """
    refusal, lines = "", []
    if jax.process_index() == 0:
        now = fingerprints or {use: data.fingerprint(source) for use, source in sources.items()}
        try:
            lines = _changes(workdir, sources, now, accept=on_changed_data == "accept")
            write_atomically(workdir / _DATASET, json.dumps(now, indent=2) + "\n")
        except ConfigError as error:
            refusal = str(error)
    if refusal := from_first_host(refusal):
        raise ConfigError(refusal)
    return lines


def _changes(
    workdir: Path,
    sources: Mapping[str, data.Source],
    now: Mapping[str, dict[str, Any]],
    *,
    accept: bool,
) -> list[str]:
    """Returns a line per split that has changed since the latest checkpoint, or refuses it."""
    steps = find_steps(workdir / "checkpoints")
    before = read_dataset(workdir) if steps else {}
    lines = []
    for use, source in sources.items():
        known = before.get(use, {})
        changed = [key for key, value in now[use].items() if known.get(key, value) != value]
        if not changed:
            continue
        split = f"split {source.split!r} of {source.name!r}"
        if "classes" in changed or not accept:
            remedy = "restore it, or choose another --workdir"
            if "classes" not in changed:
                remedy = f"restore it, set --config.on_changed_data=accept, {remedy[12:]}"
            raise ConfigError(
                f"{split} is not what {workdir} was trained on: {', '.join(changed)} differ; "
                f"{remedy}"
            )
        was, images = known.get("images"), now[use]["images"]
        what = f"it had {was} images, now {images}" if was != images else "other files"
        order = "; from there, the epochs have another order"
        lines.append(
            f"{split} has changed since step {steps[-1]}: {what} ({', '.join(changed)} differ)"
            f"{order if use == 'train' and was != images else ''}"
        )
    return lines


def read_dataset(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns the fingerprints of a run's splits, `train` and `eval`; empty for an older run.

    Raises:
      ConfigError: the file is damaged.
    """
    path = workdir / _DATASET
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {split: dict(known[split]) for split in ("train", "eval")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged; delete it to skip the data-set check") from error


_PREPROCESSING = "preprocessing.json"


def keep_preprocessing(workdir: Path, preprocessing: data.Preprocessing) -> None:
    """Writes the preprocessing that came with a run's initial weights, on the first host."""
    if jax.process_index() == 0:
        write_atomically(workdir / _PREPROCESSING, preprocessing.to_json() + "\n")


def read_kept_preprocessing(
    workdir: Path, image_shape: tuple[int, int, int]
) -> data.Preprocessing | None:
    """Returns what `keep_preprocessing` wrote, or None; a mean image is zero, of `image_shape`.

    Raises:
      ConfigError: the file is damaged.
    """
    path = workdir / _PREPROCESSING
    try:
        text = path.read_text(encoding="utf-8")
        mean = np.zeros(image_shape) if json.loads(text)["mean"] is None else None
        return data.Preprocessing.from_json(text, mean, source=f"the run in {workdir}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged; restore it, or choose another --workdir") from error
