"""The work directory of a run: its configuration, its lock and its data set's fingerprints."""

import contextlib
import dataclasses
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

from resnet_jax import data
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import from_first_host
from resnet_jax.runtime.files import write_atomically
from resnet_jax.training.checkpoint import set_damaged_aside
from resnet_jax.training.config import CHANGEABLE_KEYS, TrainConfig


@contextlib.contextmanager
def open_workdir(
    workdir: Path, config: TrainConfig, parts: Mapping[str, str] = MappingProxyType({})
) -> Iterator[list[str]]:
    """Reserves the work directory for this run while the context lasts.

    Writes `config.json`, or checks that the existing one belongs to the same run; keys that alter
    no update (`CHANGEABLE_KEYS`) may differ and are updated. Renames damaged checkpoints. With
    several hosts the first one does all this, and all continue or end together.

    Args:
      workdir: the folder of the run's records and checkpoints.
      config: the run's configuration.
      parts: parts handed in, as `Experiment.recorded`; kept as `parts` in `config.json`.

    Yields:
      A line per damaged checkpoint.

    Raises:
      ConfigError: the directory cannot be written, is in use by another process, belongs to a
        different configuration (the message names the keys that differ) or to a run with other
        parts, or all its checkpoints are damaged.
    """
    with contextlib.ExitStack() as held:
        lines, refusal = [], ""
        if jax.process_index() == 0:
            try:
                lines = _open_alone(workdir, config, parts, held)
            except ConfigError as error:
                refusal = str(error)
        if refusal := from_first_host(refusal):
            raise ConfigError(refusal)
        yield lines


def _open_alone(
    workdir: Path, config: TrainConfig, parts: Mapping[str, str], held: contextlib.ExitStack
) -> list[str]:
    path = workdir / "config.json"
    try:
        if path.exists():
            _check_same_run(path, config, parts)
        workdir.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(workdir))
        lines = set_damaged_aside(workdir / "checkpoints")
        values = to_json(config) | ({"parts": dict(parts)} if parts else {})
        write_atomically(path, json.dumps(values, indent=2) + "\n")
        return lines
    except OSError as error:
        raise ConfigError(
            f"cannot write to the work directory {workdir}: {error.strerror}; "
            "choose another --workdir, make room or change its permissions"
        ) from error


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON values: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _check_same_run(path: Path, config: TrainConfig, parts: Mapping[str, str]) -> None:
    try:
        # A key that the run's version did not know behaved as today's default.
        before = to_json(TrainConfig()) | json.loads(path.read_text())
        parts_before = dict(before.pop("parts", {}))
        differing = sorted(
            key for key, value in to_json(config).items() if before.get(key) != value
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a run's configuration; choose another --workdir or remove it"
        ) from error
    _check_parts(path.parent, parts_before, parts)
    # Keys that alter updates together with others.
    fixed = ["num_steps", "num_epochs"] if config.scale_schedule else []
    fixed += ["eval_every"] if config.schedule == "plateau" else []
    tied = [key for key in differing if key not in CHANGEABLE_KEYS or key in fixed]
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


def keep_dataset(workdir: Path, sources: Mapping[str, data.Source]) -> None:
    """Writes the fingerprints of a run's splits, or checks that they are unchanged.

    Before the first checkpoint they may change, such as when a broken image is removed. With
    several hosts the first one checks, and all continue or end together.

    Args:
      workdir: the run's existing work directory.
      sources: the run's sources, `train` and `eval`.

    Raises:
      ConfigError: the data set has changed since the last checkpoint; the message names the change.
    """
    refusal = ""
    if jax.process_index() == 0:
        try:
            _keep(workdir, sources)
        except ConfigError as error:
            refusal = str(error)
    if refusal := from_first_host(refusal):
        raise ConfigError(refusal)


def _keep(workdir: Path, sources: Mapping[str, data.Source]) -> None:
    now = {use: data.fingerprint(source) for use, source in sources.items()}
    before = read_dataset(workdir) if any((workdir / "checkpoints").glob("[0-9]*")) else {}
    for use, source in sources.items():
        known = before.get(use, {})
        changed = [key for key, value in now[use].items() if known.get(key, value) != value]
        if changed:
            raise ConfigError(
                f"split {source.split!r} of {source.name!r} is not what {workdir} was trained on: "
                f"{', '.join(changed)} differ; restore it, or choose another --workdir"
            )
    write_atomically(workdir / _DATASET, json.dumps(now, indent=2) + "\n")


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
