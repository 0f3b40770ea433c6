"""ResNet-20's training loop on CIFAR-10's sizes, data and all, against a PyTorch loop.

    python benchmarks/cifar_loop.py [--rounds N] [--json FILE]

Ours is the trainer's step by the paper's recipe, with 50,000 images (random ones) on the device:
several steps are sent at a time, and the compiled program cuts and mirrors. The peer is the usual
loop over a `DataLoader` whose processes do that image by image. For GPUs; on a CPU both run a few
steps, to show that they do, and nothing is compared.
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator

import common
import jax
import numpy as np
import torch
from torch.nn import functional
from torch_peer import device, torch_step

from configs.cifar10_resnet20 import get_config
from resnet_jax import create_model, data
from resnet_jax.parallel import data_mesh, keep_freed_memory, replicate, shard_batch
from resnet_jax.training.config import resolve
from resnet_jax.training.experiment import steps_at_once
from resnet_jax.training.optimizer import make_optimizer, make_schedule
from resnet_jax.training.pace import Pace
from resnet_jax.training.state import create_state
from resnet_jax.training.step import make_train_step
from resnet_jax.training.stop import Stop

NUM_IMAGES = 50_000
CASE = "cifar_loop/resnet20/batch 128"


class OurLoop:
    """The trainer's step with the images on the device, sent as the trainer sends it."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        on_gpu = jax.default_backend() == "gpu"
        config = dataclasses.replace(
            resolve(get_config()), dtype="bfloat16" if on_gpu else "float32"
        )
        source = data.ArraySource(images, labels, tuple("0123456789"))
        transform = data.train_transform(config.augmentation, None, channels=3)
        model = create_model(config.model, 10, dtype=config.dtype, kernels="auto")
        optimizer, schedule = make_optimizer(config), make_schedule(config, NUM_IMAGES)
        normalization = data.make_normalization("cifar", 3, np.zeros((32, 32, 3), np.float32))
        self.mesh = data_mesh()
        state = create_state(config, model, optimizer, normalization, (32, 32, 3))
        self.state = replicate(state, self.mesh)
        arrays = data.resident_arrays(source, transform)
        assert arrays
        self.dataset = replicate(arrays, self.mesh)
        self.step = make_train_step(config, model, optimizer, schedule, self.mesh, transform)
        self.at_once = steps_at_once(config, self.mesh)
        draws = data.train_batches(
            source, transform, batch_size=config.batch_size, seed=0, pixels=False
        )
        self.batches = data.train_iterator(draws, num_threads=None, num_workers=0)

    def __call__(self, num_steps: int) -> common.Seconds:
        """Returns seconds a step, of `num_steps` or the next multiple of what is sent at a time."""
        pace, metrics = Pace(Stop()), None
        start, sent = time.perf_counter(), 0
        while sent < num_steps:
            batch = pace.next_batch(self.batches, self.at_once)
            batch = shard_batch(batch, self.mesh, self.at_once > 1)
            self.state, metrics = self.step(self.state, batch, self.dataset)
            pace.sent(metrics)
            sent += self.at_once
        jax.block_until_ready(metrics)
        return common.Seconds((time.perf_counter() - start) / sent)


class Augmented(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images that are padded, cropped and mirrored one by one."""

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
    """The usual loop: an image at a time in processes, a batch at a time to the device."""

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
        """Returns seconds a step."""
        start = time.perf_counter()
        for _ in range(num_steps):
            x, y = (part.to(self.device, non_blocking=True) for part in next(self.batches))
            loss = self.step(x.to(memory_format=torch.channels_last), y)
        loss.item()
        return common.Seconds((time.perf_counter() - start) / num_steps)


def main() -> None:
    """Measures both in turn."""
    arguments = common.arguments(__doc__, rounds=5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, NUM_IMAGES, np.int32)
    loops = [OurLoop(images, labels), TorchLoop(images, labels)]
    on_gpu = jax.default_backend() == "gpu"
    num_steps = 1000 if on_gpu else 2
    for loop in loops:
        loop(2)
    rounds = [[loop(num_steps) for loop in loops] for _ in range(arguments.rounds if on_gpu else 1)]
    ours, theirs = zip(*rounds, strict=True)
    if on_gpu:
        common.report([common.compare(f"{CASE}/torch", ours, theirs)], [], arguments.json)
    else:
        print("no GPU: both loops ran two steps, and nothing was compared")
        common.report([], [f"{CASE}, gpu"], arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
