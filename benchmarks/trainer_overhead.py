"""The full trainer against the bare step: the cost of loading, logging and timing.

    python benchmarks/trainer_overhead.py [--rounds N] [--json FILE]

"Ours" is the trainer's time per image, from its log. The "peer" is the same compiled step on a
batch already on the device, dispatched equally far ahead. The target is a ratio of at least 0.95.
The runs are the demo and ResNet-50 on JPEGs the size of photographs (made here): 16 per step on the
CPU, 256 in bfloat16 on a GPU.
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
from bare_step import state_and_step

from configs import fashion_mnist_demo, resnet50_imagenet
from resnet_jax.runtime.devices import data_mesh, keep_freed_memory, replicate, shard_batch
from resnet_jax.runtime.interrupts import Stop
from resnet_jax.training.config import TrainConfig, resolve
from resnet_jax.training.dispatch import Dispatch
from resnet_jax.training.experiment import open_experiment
from resnet_jax.training.loop import train


def demo() -> TrainConfig:
    """Returns 100 steps of the demo, then one evaluation and one checkpoint."""
    config = resolve(fashion_mnist_demo.get_config())
    return dataclasses.replace(
        config,
        num_steps=100,
        eval_every=100,
        checkpoint_every=100,
        log_every=10,
        device_resident="no",  # One step per dispatch, also on a GPU.
    )


def resnet50(data_dir: Path) -> TrainConfig:
    """Returns a few steps of ResNet-50 on JPEGs; writes these into `data_dir`."""
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
    """Returns seconds per image, the mean over the log's lines except the first."""
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
        experiment = open_experiment(config)
        state, self.step = state_and_step(experiment, mesh)
        self.state = replicate(state, mesh)
        rng = np.random.default_rng(0)
        shape = (config.batch_size, *experiment.image_shape)
        images = rng.integers(0, 256, shape, np.uint8)
        labels = rng.integers(0, 10, config.batch_size, np.int32)
        self.batch = shard_batch({"image": images, "label": labels}, mesh)

    def __call__(self, num_steps: int) -> common.Seconds:
        """Returns seconds per image."""
        dispatch, metrics = Dispatch(Stop()), None
        start = time.perf_counter()
        for step in range(num_steps):
            self.state, metrics = self.step(self.state, self.batch)
            dispatch.sent(step + 1, metrics)
        jax.block_until_ready(metrics)
        seconds = time.perf_counter() - start
        return common.Seconds(seconds / num_steps / len(self.batch["label"]))


def compare(name: str, config: TrainConfig, rounds: int) -> common.Ratio:
    """Returns the ratio of a trainer's time to its bare step's, measured alternately."""
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
