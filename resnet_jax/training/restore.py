"""Restores a run's trained network, on any number of devices.

Unlike resuming the run, this needs neither its data nor its optimiser.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from resnet_jax import data
from resnet_jax.errors import ConfigError, InputError
from resnet_jax.evaluation import Network
from resnet_jax.models import input_channels
from resnet_jax.runtime.files import local_path
from resnet_jax.training.checkpoint import best_step, find_damage, find_steps, no_good_one
from resnet_jax.training.config import TrainConfig, checked
from resnet_jax.training.config_file import read_config_file
from resnet_jax.training.experiment import look_up_names, make_model
from resnet_jax.training.records import read_metrics
from resnet_jax.training.workdir import read_dataset, read_kept_preprocessing


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run and the network of one of its checkpoints.

    Attributes:
      workdir: the run's work directory.
      config: the run's configuration.
      step: number of updates before the checkpoint.
      network: the model, its variables (the averages, if the run keeps them) and its normalisation.
      channels: channels of the network's input.
      parts: the parts that were handed in, as `Experiment.recorded`.
      kept_preprocessing: that of the initial weights, with `config.preprocess="weights"`.
    """

    workdir: Path
    config: TrainConfig
    step: int
    network: Network
    channels: int
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kept_preprocessing: data.Preprocessing | None = None

    @property
    def path(self) -> Path:
        """The checkpoint's folder."""
        return self.workdir / "checkpoints" / str(self.step)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the network was trained on; empty for a run of an old version."""
        return tuple(read_dataset(self.workdir).get("train", {}).get("classes", ()))

    @property
    def preprocessing(self) -> data.Preprocessing | None:
        """How the run prepares an image for evaluation; None if that was handed in.

        Images that training keeps whole are scaled to the size of the run's images, if they have
        one.
        """
        if "eval_transform" in self.parts:
            return None
        own = data.Preprocessing(
            image_size=self._image_size,
            crop_share=1.0,
            mean=(0.0,) * self.channels,
            std=(1.0,) * self.channels,
        )
        transform = data.eval_transform(self.config.augmentation, self.config.image_size)
        if isinstance(transform, data.ResizeCenterCrop):
            size = transform.output_shape((None, None, self.channels))[:2]
            share = size[0] / float(np.max(transform.resize))
            own = self.kept_preprocessing or dataclasses.replace(
                own, image_size=size, crop_share=share
            )
        names, source = self.class_names, f"the run in {self.workdir}"
        own = dataclasses.replace(own, class_names=names, source=source)
        return own.with_normalization(self.network.normalization)

    @property
    def _image_size(self) -> tuple[int, int] | None:
        """Height and width of the run's images; an old run knows them only by its mean image."""
        known = read_dataset(self.workdir).get("eval", {}).get("image_shape", ())
        shape = known or self.network.normalization.mean.shape
        height, width = (*shape[:2], None, None)[:2]
        if len(shape) != 3 or height is None or width is None:
            return None
        return int(height), int(width)


def open_run(
    workdir: str | os.PathLike[str],
    checkpoint: str = "latest",
    *,
    model: nn.Module | None = None,
    normalization: data.Normalization | None = None,
) -> TrainedRun:
    """Opens a work directory of `train.py`; the run may still be in progress.

    A checkpoint with wrong digests is never read. If the latest one is damaged, this prints a line
    on standard error and opens the latest intact one.

    Args:
      workdir: the work directory.
      checkpoint: `"latest"`; `"best"`, the one with the lowest error in the run's own evaluations;
        or a number of steps.
      model: the network, if the run's was handed in.
      normalization: the normalisation, if the run's was handed in.

    Raises:
      ConfigError: there is no such run, there is no such checkpoint (the message names the existing
        ones), the checkpoint is damaged, or a part that was handed in is missing.
      ModelError, DataError: a name in the run's configuration is not registered.
    """
    workdir = local_path(workdir)
    config, parts = read_config(workdir)
    try:
        look_up_names(config, ("augmentation", "preprocess", *(() if model else ("model",))))
    except InputError as error:
        raise type(error)(f"{workdir / 'config.json'}: {error}") from error
    for name, part in (("model", model), ("normalization", normalization)):
        if name in parts and part is None:
            raise ConfigError(
                f"the run in {workdir} was trained with {name} {parts[name]} handed in; register "
                f"it by name and use --import FILE, or pass it to open_run({name}=...)"
            )
    step = _find_step(workdir, config, checkpoint)
    state = _read_state(workdir / "checkpoints" / str(step))
    variables = state["average"] or {name: state[name] for name in ("params", "batch_stats")}
    known = read_dataset(workdir)
    if model is None:
        # These options matter only in training.
        plain = dataclasses.replace(config, batch_norm="local", remat=False, num_classes=None)
        model = make_model(plain, _num_classes(config, known, variables))
    channels = _channels(config, known, parts, model, variables)
    kept = None
    if config.preprocess == "weights":
        kept = read_kept_preprocessing(workdir, (1, 1, channels))
    if normalization is None and kept is not None:
        normalization = kept.normalization()
    elif normalization is None:
        unknown_mean = np.zeros((1, 1, channels))
        normalization = data.make_normalization(config.preprocess, channels, unknown_mean)
    normalization = normalization.replace(**state["normalization"])
    network = Network(model, variables, normalization)
    return TrainedRun(workdir, config, step, network, channels, parts, kept)


def _channels(
    config: TrainConfig,
    known: Mapping[str, Any],
    parts: Mapping[str, str],
    model: nn.Module,
    variables: Mapping[str, Any],
) -> int:
    """Returns the channels of a run's network input; older runs have no `dataset.json`."""
    if "eval_transform" in parts or not known:
        return input_channels(model, variables)
    return config.channels or int(known["eval"]["image_shape"][2])


def _num_classes(
    config: TrainConfig, known: Mapping[str, Any], variables: Mapping[str, Any]
) -> int:
    bias = variables["params"].get("head", {}).get("bias")
    if bias is not None:
        return int(bias.shape[0])
    return config.num_classes or len(known["train"]["classes"])


def read_config(workdir: Path) -> tuple[TrainConfig, dict[str, str]]:
    """Returns the configuration of a run and the parts that were handed in.

    Keys that the run's version did not have get their defaults, and paths are absolute.

    Raises:
      ConfigError: the directory holds no run, or the run of a newer version.
    """
    path = workdir / "config.json"
    saved = read_config_file(path)
    try:
        return checked(saved.located()), saved.parts
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _find_step(workdir: Path, config: TrainConfig, checkpoint: str) -> int:
    steps = find_steps(workdir / "checkpoints")
    if not steps:
        raise ConfigError(f"{workdir} has no checkpoint yet; wait for the first one")
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
                    f"reading the latest intact one, {step}",
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
            f"{workdir} has no checkpoint {checkpoint!r}; choose from best, latest, "
            f"{', '.join(map(str, steps))}"
        )
    return int(checkpoint)


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Reads the parts of a checkpoint that evaluation needs, as NumPy arrays."""
    path = checkpoint.absolute() / "state"
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        # Of the handler: the checkpointer warns that the run has kept no metadata of its own.
        saved = ocp.PyTreeCheckpointHandler().metadata(path).tree
        wanted = {
            name: saved.get(name)
            for name in ("params", "batch_stats", "average", "normalization")
            if saved.get(name)
        }
        # Not with the run's shardings: it may have had more devices.
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
