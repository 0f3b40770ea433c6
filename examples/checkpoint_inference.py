"""Inference from a run's checkpoint, on any number of devices, whatever it was trained on.

    python train.py --config configs/fashion_mnist_demo.py --workdir runs/demo
    python examples/checkpoint_inference.py runs/demo
    XLA_FLAGS=--xla_force_host_platform_device_count=4 \
        python examples/checkpoint_inference.py runs/demo

Expect the test error that the run ended with, about 11 %, both times.
"""

import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax import data, training


def main(workdir: str, checkpoint: str = "latest") -> np.ndarray:
    """Prints the test error of a run's network, and returns its logits."""
    run = training.open_run(workdir, checkpoint)
    test = data.open_source(run.config.dataset, run.config.eval_split, run.config.data_dir)
    mesh = Mesh(jax.devices(), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    logits = []
    for start in range(0, len(test), 256):
        images = test.images[start : start + 256]
        # As many on each device; what is added is cut off.
        missing = -len(images) % mesh.size
        padded = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        logits.append(np.asarray(run.network.logits(jax.device_put(padded, split)))[: len(images)])
    scores = np.concatenate(logits)
    error = np.mean(scores.argmax(axis=-1) != test.labels)
    print(f"step {run.step}: test error {error:.2%} by {mesh.size} device(s)")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
