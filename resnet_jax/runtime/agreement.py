"""Hosts that start a run together: all with the same configuration, data and code, or none."""

import collections
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from resnet_jax.errors import ConfigError, InputError, one_line
from resnet_jax.runtime.devices import from_first_host
from resnet_jax.runtime.files import write_atomically
from resnet_jax.runtime.hosts import FOLDER, HostDied

Prepared = TypeVar("Prepared")

_PATIENCE = 10.0
"""Seconds to wait until a file written by the first host shows on the others."""


def on_all_hosts(
    prepare: Callable[[], Prepared], facts: Callable[[Prepared], Mapping[str, str]]
) -> Prepared:
    """Calls a function on each host; if it fails on one, or results differ, all hosts end.

    Args:
      prepare: makes what a run needs; without communication.
      facts: returns what must be the same on all hosts, by a name for messages.

    Raises:
      ConfigError: another host failed because of bad input, or differs from the first.
      HostDied: another host failed for another reason.
      Exception: the error of this host.
    """
    if jax.process_count() == 1:
        return prepare()
    _check_devices()
    own: dict[str, Any] = {"host": socket.gethostname()[:64], "error": "", "facts": {}}
    try:
        made = prepare()
        own["facts"] = dict(facts(made))
    except Exception as error:
        own |= {"error": one_line(str(error) or type(error).__name__, 200)}
        own |= {"bad_input": isinstance(error, InputError)}
        gather(own)  # The other hosts wait for it.
        raise
    every = gather(own)
    for index, other in enumerate(every):
        if other["error"]:
            kind = ConfigError if other["bad_input"] else HostDied
            raise kind(f"process {index} on {other['host']}: {other['error']}")
    if difference := _difference(every):
        raise ConfigError(difference)
    return made


def _check_devices() -> None:
    """Raises a `ConfigError` on all hosts if they have different numbers of devices."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    for index in range(jax.process_count()):
        if counts[index] != counts[0]:
            raise ConfigError(
                f"process {index} has {counts[index]} devices, process 0 has {counts[0]}; give "
                "each the same number"
            )


def gather(own: Any) -> list[Any]:
    """Returns the JSON values of all hosts, in the order of their processes."""
    text = np.frombuffer(json.dumps(own).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(text.size))).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def _difference(every: list[dict[str, Any]]) -> str:
    """Returns a line that names the first process that differs from process 0, and in what."""
    first = every[0]["facts"]
    for index, other in enumerate(every):
        facts = other["facts"]
        names = [name for name in first | facts if first.get(name) != facts.get(name)]
        if names:
            told = [
                f"{name} is {facts.get(name, 'missing')}, not {first.get(name, 'missing')}"
                if len(facts.get(name, "") + first.get(name, "")) <= 60
                else f"different {name}"
                for name in names[:3]
            ]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return (
                f"process {index} on {other['host']} differs from process 0: {', '.join(told)}"
                f"{more}; start all with the same command, code and data"
            )
    return ""


_TOKEN = "token"


def leave_token(workdir: Path) -> str:
    """Writes a file that other hosts must see in a shared work directory; returns its content."""
    if jax.process_count() == 1:
        return ""
    (workdir / FOLDER).mkdir(exist_ok=True)
    token = secrets.token_hex(8)
    write_atomically(workdir / FOLDER / _TOKEN, token)
    return token


def check_shared(workdir: Path, token: str) -> None:
    """Checks that all hosts see one work directory.

    Args:
      workdir: the work directory.
      token: the result of `leave_token` on the first host; ignored on the others.

    Raises:
      ConfigError: a host does not see the first host's file; the message names its process.
    """
    if jax.process_count() == 1:
        return
    token = from_first_host(token)
    own = {"sees": _sees(workdir / FOLDER / _TOKEN, token), "workdir": str(workdir)}
    every = gather(own | {"host": socket.gethostname()[:64]})
    for index, other in enumerate(every):
        if not other["sees"]:
            raise ConfigError(
                f"process {index} on {other['host']} does not see the work directory "
                f"{every[0]['workdir']} of process 0; give all hosts one shared folder as --workdir"
            )


def _sees(path: Path, token: str) -> bool:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
