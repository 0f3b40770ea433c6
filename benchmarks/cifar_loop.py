"""ResNet-20's training loop on CIFAR-10's sizes, including the data, against a PyTorch loop.

    python benchmarks/cifar_loop.py [--rounds N] [--json FILE]

Ours is the trainer's step with the paper's recipe and 50,000 random images on the device: each
dispatch has several steps, and the compiled program crops and mirrors. The peer is the usual loop
over a `DataLoader` whose processes do that per image. It is for GPUs; on a CPU, both run a few
steps to show that they work, and nothing is compared.
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator

import common
import jax
import numpy as np
import torch
from bare_step import random_experiment, state_and_step
from torch.nn import functional
from torch_peer import device, torch_step

from configs.cifar10_resnet20 import get_config
from resnet_jax import data
from resnet_jax.runtime.devices import data_mesh, keep_freed_memory, replicate, shard_batch
from resnet_jax.runtime.interrupts import Stop
from resnet_jax.training.config import resolve
from resnet_jax.training.dispatch import Dispatch
from resnet_jax.training.experiment import Experiment, steps_at_once, train_iterator

NUM_IMAGES = 50_000
CASE = "cifar_loop/resnet20/batch 128"


class OurLoop:
    """The trainer's step with the images on the device, dispatched as in the trainer."""

    def __init__(self, experiment: Experiment) -> None:
        self.mesh = data_mesh()
        state, self.step = state_and_step(experiment, self.mesh)
        self.state = replicate(state, self.mesh)
        arrays = data.resident_arrays(experiment.train_source, experiment.train_transform)
        assert arrays
        self.resident = replicate(arrays, self.mesh)
        self.at_once = steps_at_once(experiment.config, self.mesh)
        self.batches = train_iterator(experiment, pixels=False)

    def __call__(self, num_steps: int) -> common.Seconds:
        """Returns seconds per step, over `num_steps` rounded up to whole dispatches."""
        dispatch, metrics = Dispatch(Stop()), None
        start, sent = time.perf_counter(), 0
        while sent < num_steps:
            batch = dispatch.next_batch(self.batches, self.at_once)
            batch = shard_batch(batch, self.mesh, self.at_once > 1)
            self.state, metrics = self.step(self.state, batch, self.resident)
            sent += self.at_once
            dispatch.sent(sent, metrics)
        jax.block_until_ready(metrics)
        return common.Seconds((time.perf_counter() - start) / sent)


class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images that are padded, cropped and mirrored individually."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1) / 255
        top, left = torch.randint(0, 9, (2,)).tolist()
        image = functional.pad(image, (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
        return image.flip(2) if torch.rand(()) < 0.5 else image, int(self.labels[index])


class TorchLoop:
    """The usual loop: processes handle one image at a time, the device one batch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.device = device()
        self.batches = self._endless(
            torch.utils.data.DataLoader(
                Augmented(images, labels),
                batch_size=128,
                shuffle=True,
                drop_last=True,
                num_workers=len(os.sched_getaffinity(0)),
                multiprocessing_context="spawn",  # JAX's threads do not survive a fork.
                persistent_workers=True,
                pin_memory=self.device == "cuda",
            )
        )
        self.step = torch_step("resnet20_cifar", 10)

    def _endless(self, loader: Iterable[list[torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    def __call__(self, num_steps: int) -> common.Seconds:
        """Returns seconds per step."""
        start = time.perf_counter()
        for _ in range(num_steps):
            x, y = (part.to(self.device, non_blocking=True) for part in next(self.batches))
            loss = self.step(x.to(memory_format=torch.channels_last), y)
        loss.item()
        return common.Seconds((time.perf_counter() - start) / num_steps)


def main() -> None:
    """Measures both alternately."""
    arguments = common.arguments(__doc__, rounds=5)
    on_gpu = jax.default_backend() == "gpu"
    config = dataclasses.replace(resolve(get_config()), dtype="bfloat16" if on_gpu else "float32")
    experiment = random_experiment(config, NUM_IMAGES, 32, 10)
    source = experiment.train_source
    assert isinstance(source, data.ArraySource)
    loops = [OurLoop(experiment), TorchLoop(source.images, source.labels)]
    num_steps = 1000 if on_gpu else 2
    for loop in loops:
        loop(2)
    rounds = [[loop(num_steps) for loop in loops] for _ in range(arguments.rounds if on_gpu else 1)]
    ours, theirs = zip(*rounds, strict=True)
    if on_gpu:
        common.report([common.compare(f"{CASE}/torch", ours, theirs)], [], arguments.json)
    else:
        print("no GPU: both loops ran two steps; nothing was compared")
        common.report([], [f"{CASE}, gpu"], arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
