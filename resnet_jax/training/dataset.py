"""What a run was trained on: `dataset.json` in its work directory."""

import json
from pathlib import Path
from typing import Any

import jax

from .. import data
from ..parallel import from_first_host
from .config import ConfigError
from .experiment import Experiment
from .workdir import write_atomically

_FILE = "dataset.json"


def keep_dataset(workdir: Path, experiment: Experiment) -> None:
    """Writes down the fingerprints of a run's splits, or checks that they are still the same.

    Before the first checkpoint they may change, as where a broken image is removed. With several
    hosts the first one looks, and they go on or end together.

    Args:
      workdir: the run's; it exists.
      experiment: what the run is about to use.

    Raises:
      ConfigError: the data set has changed since the last checkpoint; the message says in what.
    """
    refusal = ""
    if jax.process_index() == 0:
        try:
            _keep(workdir, experiment)
        except ConfigError as error:
            refusal = str(error)
    if refusal := from_first_host(refusal):
        raise ConfigError(refusal)


def _keep(workdir: Path, experiment: Experiment) -> None:
    sources = {"train": experiment.train_source, "eval": experiment.eval_source}
    now = {use: data.fingerprint(source) for use, source in sources.items()}
    before = read_dataset(workdir) if any((workdir / "checkpoints").glob("[0-9]*")) else {}
    for use, source in sources.items():
        known = before.get(use, {})
        changed = [key for key, value in now[use].items() if known.get(key, value) != value]
        if changed:
            raise ConfigError(
                f"split {source.split!r} of {source.name!r} is not what {workdir} was trained on: "
                f"other {', '.join(changed)}; restore it, or choose another --workdir"
            )
    write_atomically(workdir / _FILE, json.dumps(now, indent=2) + "\n")


def read_dataset(workdir: Path) -> dict[str, dict[str, Any]]:
    """Returns the fingerprints of a run's splits, `train` and `eval`; none of an older run.

    Raises:
      ConfigError: the file is damaged.
    """
    path = workdir / _FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {split: dict(known[split]) for split in ("train", "eval")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is damaged; remove it, and nothing is compared") from error
