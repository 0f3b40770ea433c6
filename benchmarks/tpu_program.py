"""The stem and two blocks of ResNet-50 compiled for a TPU, without one: the bytes of a step.

    pip install 'jax[tpu]==0.10.2'    # JAX's own version
    python benchmarks/tpu_program.py

Nothing runs and nothing is timed. Each line is a forward and backward pass in bfloat16 over 128
images of 224 pixels: ours with the kernels for TPUs, ours with JAX's own operations, and the plain
Flax twin. The bytes are XLA's own count. All of ResNet-50 would take ten minutes to compile, the
three programs here take about two. Exit status 1 if ours moves more bytes than the twin.
"""

import os
import sys
from typing import Any

# libtpu looks for a machine's description otherwise.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax_peer import FlaxResNet
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.models import BottleneckBlock, ResNet

BATCH, SIZE = 128, 224


def megabytes_per_image(model: nn.Module, sharding: NamedSharding) -> float:
    """Returns the bytes that a step's program moves, in MB per image."""

    def step(variables: Any, pixels: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, updates = model.apply(
                {**variables, "params": params},
                (pixels.astype(jnp.float32) / 255 - 0.45) / 0.22,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses), updates

        return jax.grad(loss, has_aux=True)(variables["params"])

    images = jnp.zeros((1, SIZE, SIZE, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    pixels = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        (variables, pixels, labels),
    )
    cost = jax.jit(step).lower(*arguments).compile().cost_analysis()
    return float(cost["bytes accessed"]) / BATCH / 1e6


def main() -> int:
    """Prints a line per form; returns the exit status."""
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    mesh = Mesh(np.array(chips[:1]), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec())

    def ours(kernels: str) -> ResNet:
        return ResNet((2,), BottleneckBlock, 1000, (64,), dtype=jnp.bfloat16, kernels=kernels)

    forms = {
        "ours, kernels for TPUs": ours("tpu"),
        "ours, JAX's own operations": ours("stock"),
        "the Flax twin": FlaxResNet((2,), 4, 1000, False, jnp.bfloat16),
    }
    found = {}
    for name, model in forms.items():
        found[name] = megabytes_per_image(model, sharding)
        print(f"{name:28} {found[name]:6.1f} MB per image", flush=True)
    best, _, twin = found.values()
    return int(best > twin)


if __name__ == "__main__":
    sys.exit(main())
