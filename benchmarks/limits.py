"""How far a training step is from what the device can do.

    python benchmarks/limits.py [--rounds N]

A step, a large matrix product and a copy take turns, and the best of each counts. From the
product's rate and the copy's follow two floors: the time of the network's own multiplications
(three times those of the forward pass), and that of moving all that the operations of the compiled
program read and write, as XLA counts it, once through memory. Batch normalisation makes these
networks move much: on a GPU the second floor is the higher one.
"""

from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
from train_step import CASES, compile_training, random_batch, repeated

from resnet_jax import create_model
from resnet_jax.models import count_multiply_adds
from resnet_jax.parallel import compiler_options, keep_freed_memory


def matrix_product(dtype: jnp.dtype, size: int) -> Callable[[], object]:
    """Returns a product of two square matrices, of 2 * size ** 3 operations."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready()


def copy(num_bytes: int) -> Callable[[], object]:
    """Returns a program that reads and writes as many bytes."""
    a = jnp.ones(num_bytes // 4, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return lambda: add(a).block_until_ready()


def main() -> None:
    """Prints a table of the cases that this machine is for."""
    rounds = common.arguments(__doc__, rounds=7).rounds
    here = jax.default_backend()
    dtype = jnp.dtype(jnp.bfloat16 if here == "gpu" else jnp.float32)
    size, num_bytes = (8192, 2**31) if here == "gpu" else (2048, 2**28)
    limits = {"product": matrix_product(dtype, size), "copy": copy(num_bytes)}
    print("| | images/s | utilisation | step | multiplications | memory | moved an image |")
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
