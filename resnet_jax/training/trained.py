"""A run's network as training left it, on any number of devices: for evaluation and what follows.

Unlike the trainer's own restoring, this needs neither the data nor the optimiser of the run.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from .. import data
from ..evaluation import Network
from ..models import create_model
from .checkpoint import best_step, no_good_one
from .config import KEYS, ConfigError, TrainConfig, checked
from .digest import find_damage, find_steps
from .records import read_metrics


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run and the network of one of its checkpoints.

    Attributes:
      workdir: the run's work directory.
      config: what it was told.
      step: number of updates after which the checkpoint was written.
      network: the model, its variables (the averages, if the run keeps them) and its normalisation.
      channels: of the images that it sees.
    """

    workdir: Path
    config: TrainConfig
    step: int
    network: Network
    channels: int

    @property
    def path(self) -> Path:
        """The checkpoint's."""
        return self.workdir / "checkpoints" / str(self.step)


def open_run(workdir: str | os.PathLike[str], checkpoint: str = "latest") -> TrainedRun:
    """Opens a work directory of `train.py`; it may belong to a run that is still going on.

    Nothing is read of a checkpoint whose digests do not hold. Where that is the newest, a line on
    standard error says so, and the newest good one is opened.

    Args:
      workdir: its path.
      checkpoint: `"latest"`; `"best"`, the one with the lowest error in the run's own evaluations;
        or a number of steps.

    Raises:
      ConfigError: there is no such run or checkpoint, the message names those there are; or it is
        damaged.
    """
    workdir = Path(workdir).expanduser()
    config = read_config(workdir)
    step = _find_step(workdir, config, checkpoint)
    state = _read_state(workdir / "checkpoints" / str(step))
    variables = state["average"] or {name: state[name] for name in ("params", "batch_stats")}
    channels = variables["params"]["stem"]["conv"]["kernel"].shape[2]
    model = create_model(
        config.model,
        num_classes=variables["params"]["head"]["bias"].shape[0],
        dtype=config.dtype,
        **{"kernels": "auto", **config.model_options},
    )
    unknown_mean = np.zeros(channels)
    normalization = data.make_normalization(config.preprocess, channels, unknown_mean)
    normalization = normalization.replace(**state["normalization"])
    return TrainedRun(workdir, config, step, Network(model, variables, normalization), channels)


def read_config(workdir: Path) -> TrainConfig:
    """Returns the configuration of a run; keys that it was written before have their defaults.

    Raises:
      ConfigError: the directory is none of a run, or of a newer version's.
    """
    path = workdir / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        unknown = sorted(values.keys() - set(KEYS))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; give a work directory of train.py"
        ) from error
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is no run's configuration; give another directory") from error
    if unknown:
        raise ConfigError(f"{path} has the unknown key {unknown[0]}; it needs a newer resnet_jax")
    try:
        return checked(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _find_step(workdir: Path, config: TrainConfig, checkpoint: str) -> int:
    steps = find_steps(workdir / "checkpoints")
    if not steps:
        raise ConfigError(f"{workdir} holds no checkpoint yet; wait for the first one")
    if checkpoint == "latest":
        return _newest_good(workdir / "checkpoints", steps)
    step = _named_step(workdir, config, checkpoint, steps)
    if damage := find_damage(workdir / "checkpoints" / str(step)):
        raise ConfigError(f"checkpoint {step} of {workdir} is damaged ({damage}); choose another")
    return step


def _newest_good(directory: Path, steps: list[int]) -> int:
    damage: dict[int, str] = {}
    for step in reversed(steps):
        found = find_damage(directory / str(step))
        if not found:
            for other, text in damage.items():
                print(
                    f"resnet_jax: checkpoint {other} of {directory.parent} is damaged ({text}); "
                    f"the newest good one, {step}, is read",
                    file=sys.stderr,
                )
            return step
        damage[step] = found
    raise no_good_one(directory, damage)


def _named_step(workdir: Path, config: TrainConfig, checkpoint: str, steps: list[int]) -> int:
    if checkpoint == "best":
        errors = {
            record["step"]: record["top1_error"]
            for record in read_metrics(workdir)
            if record["split"] == config.eval_split
        }
        best = best_step(steps, errors)
        if best is None:
            raise ConfigError(f"no checkpoint of {workdir} was evaluated; choose latest or a step")
        return best
    if not checkpoint.isdecimal() or int(checkpoint) not in steps:
        raise ConfigError(
            f"{workdir} holds no checkpoint {checkpoint!r}; there are best, latest and "
            f"{', '.join(map(str, steps))}"
        )
    return int(checkpoint)


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """The parts of a checkpoint that evaluation needs, as NumPy arrays."""
    path = checkpoint.absolute() / "state"
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        saved = checkpointer.metadata(path).item_metadata.tree
        wanted = {
            name: saved.get(name)
            for name in ("params", "batch_stats", "average", "normalization")
            if saved.get(name)
        }
        # Not as they lay on the devices of the run, of which there may have been more.
        as_numpy = {
            name: _map(tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
            for name, tree in wanted.items()
        }
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        restored = checkpointer.restore(path, args=arguments)
    finally:
        checkpointer.close()
    return {"average": None, "batch_stats": {}} | restored


def _map(tree: Any, function: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(branch, function) for name, branch in tree.items()}
    return function(tree)
