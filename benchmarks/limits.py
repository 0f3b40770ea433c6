"""Compares a training step with the limits of the device.

    python benchmarks/limits.py [--rounds N]

A step, a large matrix product and a copy alternate, and the best time of each counts. The rates of
product and copy give two lower bounds: the time of the network's multiplications (three times those
of the forward pass), and the time to move all bytes that the compiled program's operations read and
write, as counted by XLA. Batch normalisation makes these networks move many bytes: on a GPU, the
second bound is higher.
"""

from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
from train_step import CASES, compile_training, random_batch, repeated

from resnet_jax import create_model
from resnet_jax.models import count_multiply_adds
from resnet_jax.runtime.devices import compiler_options, keep_freed_memory


def matrix_product(dtype: jnp.dtype, size: int) -> Callable[[], object]:
    """Returns a function for a product of two square matrices, 2 * size ** 3 operations."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready()


def copy(num_bytes: int) -> Callable[[], object]:
    """Returns a function that reads and writes `num_bytes` bytes."""
    a = jnp.ones(num_bytes // 4, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return lambda: add(a).block_until_ready()


def main() -> None:
    """Prints a table of the cases for this machine's platform."""
    rounds = common.arguments(__doc__, rounds=7).rounds
    here = jax.default_backend()
    dtype = jnp.dtype(jnp.bfloat16 if here == "gpu" else jnp.float32)
    size, num_bytes = (8192, 2**31) if here == "gpu" else (2048, 2**28)
    limits = {"product": matrix_product(dtype, size), "copy": copy(num_bytes)}
    print("| | images/s | utilisation | step | multiplications | memory | moved per image |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, batch_size, platforms in CASES:
        if here not in platforms:
            continue
        images, labels, num_classes = random_batch(name, batch_size)
        model = create_model(
            name, num_classes, dtype=None if here == "cpu" else dtype, kernels="auto"
        )
        compiled, arguments = compile_training(model, images, labels, compiler_options())
        contestants = {"step": repeated(compiled, arguments)} | limits
        taken = common.in_turn(contestants, rounds)
        seconds = {contestant: min(run.clock for run in runs) for contestant, runs in taken.items()}
        operations = 3 * 2 * count_multiply_adds(model, images.shape[1]) * batch_size
        computing = operations * seconds["product"] / (2 * size**3)
        moved = compiled.cost_analysis()["bytes accessed"]
        moving = moved * seconds["copy"] / (2 * num_bytes)
        print(
            f"| {name}, {batch_size}, {dtype.name} | {batch_size / seconds['step']:.0f} | "
            f"{computing / seconds['step']:.0%} | {seconds['step'] * 1000:.1f} ms | "
            f"{computing * 1000:.1f} ms | {moving * 1000:.1f} ms | "
            f"{moved / batch_size / 1e6:.1f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    keep_freed_memory()
    main()
