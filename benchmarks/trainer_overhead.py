"""The full trainer against the bare step: what loading, logging and keeping time cost.

    python benchmarks/trainer_overhead.py [--rounds N] [--json FILE]

"Ours" is the time that a trainer takes for an image, from its log; the "peer" is the same compiled
step on a batch that is on the device already, sent as far ahead. A ratio of 0.95 or more is the
aim. The trainers are the demo's and ResNet-50's on JPEGs of photographs' size (made here): 16 a
step on the CPU, 256 in bfloat16 on a GPU.
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
import input_pipeline
import jax
import numpy as np

from configs import fashion_mnist_demo, resnet50_imagenet
from resnet_jax.parallel import data_mesh, keep_freed_memory, replicate, shard_batch
from resnet_jax.training.config import TrainConfig, resolve
from resnet_jax.training.experiment import open_experiment
from resnet_jax.training.loop import train
from resnet_jax.training.optimizer import make_optimizer, make_schedule
from resnet_jax.training.pace import Pace
from resnet_jax.training.state import create_state
from resnet_jax.training.step import make_train_step
from resnet_jax.training.stop import Stop


def demo() -> TrainConfig:
    """Returns 100 steps of the demo, one evaluation and one checkpoint after them."""
    config = resolve(fashion_mnist_demo.get_config())
    return dataclasses.replace(
        config,
        num_steps=100,
        eval_every=100,
        checkpoint_every=100,
        log_every=10,
        device_resident="no",  # A step at a time on a GPU, too.
    )


def resnet50(data_dir: Path) -> TrainConfig:
    """Returns a few steps of ResNet-50 on JPEGs, which it writes into `data_dir`."""
    input_pipeline.write_images(data_dir)
    on_gpu = jax.default_backend() == "gpu"
    num_steps = 200 if on_gpu else 12
    return dataclasses.replace(
        resolve(resnet50_imagenet.get_config()),
        dataset="photographs",
        data_dir=str(data_dir),
        eval_split="train[:16]",
        batch_size=256 if on_gpu else 16,
        dtype="bfloat16" if on_gpu else "float32",
        num_steps=num_steps,
        num_epochs=None,
        log_every=num_steps // 4,
        eval_every=num_steps,
        checkpoint_every=num_steps,
    )


def trainer(config: TrainConfig) -> common.Seconds:
    """Returns seconds an image, the mean of the log's lines but the first, where it starts."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            train(config, folder)
        lines = [json.loads(x) for x in Path(folder, "metrics.jsonl").read_text().splitlines()]
    speeds = [line["images_per_second"] for line in lines if line["split"] == "train"]
    return common.Seconds(statistics.fmean(1 / speed for speed in speeds[1:]))


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
        pace, metrics = Pace(Stop()), None
        start = time.perf_counter()
        for _ in range(num_steps):
            self.state, metrics = self.step(self.state, self.batch)
            pace.sent(metrics)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - start
        return common.Seconds(seconds / num_steps / len(self.batch["label"]))


def compare(name: str, config: TrainConfig, rounds: int) -> common.Ratio:
    """Returns the ratio of a trainer's time to its bare step's, both in turn."""
    bare_step = BareStep(config)
    bare_step(3)
    assert config.num_steps
    ours, bare = [], []
    for _ in range(rounds):
        ours.append(trainer(config))
        bare.append(bare_step(config.num_steps))
    return common.compare(f"trainer_overhead/{name}/bare step", ours, bare)


def main() -> None:
    """Measures both trainers."""
    arguments = common.arguments(__doc__, rounds=5)
    with tempfile.TemporaryDirectory() as folder:
        ratios = [
            compare("demo", demo(), arguments.rounds),
            compare("resnet50 on JPEGs", resnet50(Path(folder)), arguments.rounds),
        ]
    common.report(ratios, [], arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
