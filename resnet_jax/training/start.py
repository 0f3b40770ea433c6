"""The start of a run: what it needs is opened, checked and compared between hosts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from resnet_jax import data
from resnet_jax.runtime.agreement import on_all_hosts
from resnet_jax.runtime.devices import enable_compilation_cache
from resnet_jax.training.checkpoint import find_steps
from resnet_jax.training.config import TrainConfig
from resnet_jax.training.config_file import to_json
from resnet_jax.training.experiment import Experiment, check, open_experiment
from resnet_jax.training.identity import is_path
from resnet_jax.training.initial import like_the_weights, load_initial, open_initial

_OWN = ("data_dir", "loader_threads", "loader_workers", "compilation_cache")
"""Keys that each host may set for itself."""


class Prepared(NamedTuple):
    """What a run needs before it writes anything.

    Attributes:
      experiment: the run's parts.
      initial: variables to start from; None if `init_from` is, or if the run has a checkpoint.
      fingerprints: those of the splits, by use: `train` and `eval`.
      preprocessing: that of the initial weights, if the run has the same.
    """

    experiment: Experiment
    initial: dict[str, Any] | None
    fingerprints: dict[str, dict[str, Any]]
    preprocessing: data.Preprocessing | None


def prepare(
    experiment: Experiment | TrainConfig | ConfigDict, workdir: Path, mesh: Mesh
) -> Prepared:
    """Opens and checks what a run needs; all hosts succeed with the same, or all fail.

    Args:
      experiment: the run's parts, or a recipe from which to make them.
      workdir: the run's work directory, which need not exist.
      mesh: the devices.

    Raises:
      ConfigError: hosts differ, or it failed on another host.
      ConfigError, DataError, ModelError, WeightsError: something is invalid.
    """

    def alone() -> Prepared:
        opened = experiment if isinstance(experiment, Experiment) else open_experiment(experiment)
        config = opened.config
        weights = None
        if config.init_from is not None and not find_steps(workdir / "checkpoints"):
            weights = open_initial(config.init_from, config.seed)
        opened, preprocessing = like_the_weights(opened, workdir, weights)
        enable_compilation_cache(config.compilation_cache)
        check(opened, mesh)
        initial = None
        if weights is not None:
            initial = load_initial(
                weights,
                opened.model,
                opened.image_shape[2],
                skip_head=config.skip_head,
                class_names=opened.train_source.class_names,
            )
        sources = opened.sources.items()
        fingerprints = {use: data.fingerprint(source) for use, source in sources}
        return Prepared(opened, initial, fingerprints, preprocessing)

    return on_all_hosts(alone, lambda prepared: _facts(prepared.experiment, prepared.fingerprints))


def _facts(experiment: Experiment, fingerprints: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns what must be the same on all hosts: code, configuration, parts and data.

    A data set's path may differ, because its fingerprint may not.
    """
    config = experiment.config
    values = {key: value for key, value in to_json(config).items() if key not in _OWN}
    if is_path(config.dataset):
        values["dataset"] = "a path"
    return (
        {"the jax version": jax.__version__, "the code of resnet_jax": _code()}
        | {f"config.{key}": json.dumps(value) for key, value in values.items()}
        | {f"the {name} handed in": part for name, part in experiment.recorded.items()}
        | {"the number of steps": str(experiment.num_steps)}
        | {
            f"{entry} of the {use} split": json.dumps(value)
            for use, fingerprint in fingerprints.items()
            for entry, value in fingerprint.items()
        }
    )


def _code() -> str:
    """Returns a digest of this package's code."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
