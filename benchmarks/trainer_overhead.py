"""The full trainer against the bare step: what loading, logging and keeping time cost.

    python benchmarks/trainer_overhead.py [--rounds N] [--json FILE]

"Ours" is the time that the demo's trainer takes for an image, from its log; the "peer" is the same
compiled step on a batch that is on the device already. A ratio of 0.95 or more is the aim.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import common
import jax
import numpy as np

from configs.fashion_mnist_demo import get_config
from resnet_jax.parallel import data_mesh, keep_freed_memory, replicate, shard_batch
from resnet_jax.training.config import TrainConfig, resolve
from resnet_jax.training.experiment import open_experiment
from resnet_jax.training.loop import train
from resnet_jax.training.optimizer import make_optimizer, make_schedule
from resnet_jax.training.state import create_state
from resnet_jax.training.step import make_train_step

STEPS = 100


def trainer(config: TrainConfig) -> common.Seconds:
    """Returns seconds an image, the median of the log's lines."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            train(config, folder)
        lines = [json.loads(x) for x in Path(folder, "metrics.jsonl").read_text().splitlines()]
    speeds = [line["images_per_second"] for line in lines if line["split"] == "train"]
    return common.Seconds(1 / statistics.median(speeds[1:]))


class BareStep:
    """The trainer's step on one batch, without the trainer."""

    def __init__(self, config: TrainConfig) -> None:
        mesh = data_mesh()
        experiment = open_experiment(config, mesh)
        optimizer = make_optimizer(config)
        schedule = make_schedule(config, len(experiment.train_source))
        self.step = make_train_step(config, experiment.model, optimizer, schedule, mesh)
        self.state = replicate(
            create_state(
                config,
                experiment.model,
                optimizer,
                experiment.normalization,
                experiment.image_shape,
                None,
            ),
            mesh,
        )
        rng = np.random.default_rng(0)
        shape = (config.batch_size, *experiment.image_shape)
        images = rng.integers(0, 256, shape, np.uint8)
        labels = rng.integers(0, 10, config.batch_size, np.int32)
        self.batch = shard_batch({"image": images, "label": labels}, mesh)

    def __call__(self, num_steps: int) -> common.Seconds:
        """Returns seconds an image."""
        start = time.perf_counter()
        for _ in range(num_steps):
            self.state, metrics = self.step(self.state, self.batch)
            jax.block_until_ready(metrics)
        seconds = time.perf_counter() - start
        return common.Seconds(seconds / num_steps / len(self.batch["label"]))


def main() -> None:
    """Measures both in turn."""
    arguments = common.arguments(__doc__, rounds=3)
    config = resolve(get_config())
    config = dataclasses.replace(
        config, num_steps=STEPS, eval_every=STEPS, checkpoint_every=STEPS, log_every=10
    )
    bare_step = BareStep(config)
    bare_step(5)
    ours, bare = [], []
    for _ in range(arguments.rounds):
        ours.append(trainer(config))
        bare.append(bare_step(STEPS))
    missing = ["trainer_overhead/resnet50 on JPEGs, gpu"]
    common.report(
        [common.compare("trainer_overhead/demo/bare step", ours, bare)], missing, arguments.json
    )


if __name__ == "__main__":
    keep_freed_memory()
    main()
