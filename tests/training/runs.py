"""Work directories as `train` leaves them, without the training."""

import contextlib
import dataclasses
import functools
import json

import jax
import numpy as np

from resnet_jax import data
from resnet_jax.runtime.devices import data_mesh, replicate
from resnet_jax.training import TrainConfig
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.experiment import compute_normalization, open_experiment
from resnet_jax.training.records import MetricsLog
from resnet_jax.training.state import create_state
from resnet_jax.training.workdir import keep_dataset

CONFIG = TrainConfig(
    model="resnet20_cifar",
    dataset="fashion_mnist_mini",
    train_split="train[:100]",
    eval_split="test[:77]",
    augmentation="cifar",
    preprocess="cifar",
    batch_size=8,
    num_steps=30,
    schedule_steps=30,
)


def make_run(workdir, steps_and_errors=((10, 0.4), (20, 0.3), (30, 0.35)), seed=0, **changes):
    """Writes a run whose checkpoints differ; returns its states by step, as they were saved."""
    config = dataclasses.replace(CONFIG, **changes)
    mesh, state = data_mesh(), first_state(**changes)
    rng = np.random.default_rng(seed)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    splits = {"train": config.train_split, "eval": config.eval_split}
    sources = {use: data.open_source(config.dataset, split) for use, split in splits.items()}
    keep_dataset(workdir, sources)
    states = {}
    with (
        Checkpoints(workdir / "checkpoints", 10) as checkpoints,
        contextlib.closing(MetricsLog(workdir, eval_split=config.eval_split)) as log,
    ):
        for step, error in steps_and_errors:
            states[step] = state = jax.tree_util.tree_map_with_path(
                lambda path, leaf: _drawn(path, leaf, rng), state
            )
            metrics = {"loss": 1.0, "top1_error": error, "top5_error": 0.1}
            log.on_evaluation(step, metrics)
            # As eight devices have it.
            checkpoints.save(step, replicate(state, mesh), {}, error)
    return states


@functools.cache
def first_state(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    experiment = open_experiment(config)
    return create_state(
        experiment.make_task(),
        experiment.optimizer,
        experiment.learning_rate,
        compute_normalization(experiment),
        experiment.image_shape,
        seed=config.seed,
        averaged=config.ema_decay is not None,
    )


def eval_batches(config=CONFIG):
    source = data.open_source(config.dataset, config.eval_split)
    return data.eval_batches(source, data.eval_transform("none"), batch_size=8)


def _drawn(path, leaf, rng):
    """Statistics and weights of the kind that training leaves."""
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    if not {"params", "batch_stats", "average"} & set(names):
        return leaf
    if names[-1] in ("scale", "var"):
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    if names[-1] in ("bias", "mean"):
        # Small enough for scores that are none of them all but zero.
        return rng.normal(0, 0.1, leaf.shape).astype(np.float32)
    return np.asarray(leaf)
