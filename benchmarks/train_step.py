"""A training step, ours alternating with the plain Flax twin and PyTorch in one process.

    python benchmarks/train_step.py [--rounds N] [--json FILE]

Forward, backward and SGD with momentum and weight decay, repeated on one batch: on the CPU in
float32, on a GPU in bfloat16 (images already on the device, PyTorch compiled). All use the
allocator's setting of `train.py`. On a GPU, peak memory is printed.
"""

import gc
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax_peer import flax_peer

from resnet_jax import create_model
from resnet_jax.runtime.devices import compiler_options, keep_freed_memory

# Name, batch size, platforms.
CASES = [
    ("resnet20_cifar", 128, ("cpu", "gpu")),
    ("resnet18", 16, ("cpu",)),
    ("resnet50", 16, ("cpu",)),
    ("resnet50", 256, ("gpu",)),
]


def random_batch(name: str, batch_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns images, labels and the number of classes."""
    size, num_classes = (32, 10) if name.endswith("_cifar") else (224, 1000)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch_size, size, size, 3), np.float32)
    return images, rng.integers(0, num_classes, batch_size, np.int32), num_classes


def training_step(
    model: nn.Module, options: dict[str, str] | None = None
) -> tuple[optax.GradientTransformation, Any]:
    """Returns the optimiser, and the step from variables, momenta, images and labels to a loss.

    Args:
      model: the network.
      options: XLA's options; by default XLA's own.
    """
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, 0.9))

    def train_step(variables: Any, momenta: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, updates = model.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return jnp.mean(losses), updates

        (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        changes, momenta = optimizer.update(grads, momenta, variables["params"])
        return (
            {"params": optax.apply_updates(variables["params"], changes), **updates},
            momenta,
            loss,
        )

    return optimizer, jax.jit(train_step, donate_argnums=(0, 1), compiler_options=options)


def compile_training(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    options: dict[str, str] | None = None,
) -> tuple[jax.stages.Compiled, list[Any]]:
    """Returns a compiled training step and its initial arguments: state, images, labels.

    Args:
      model: the network.
      images: the batch's images.
      labels: the images' classes.
      options: XLA's options; by default XLA's own.
    """
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
    optimizer, step = training_step(model, options)
    momenta = optimizer.init(variables["params"])
    arguments = [variables, momenta, jnp.asarray(images), jnp.asarray(labels)]
    return step.lower(*arguments).compile(), arguments


def repeated(compiled: jax.stages.Compiled, arguments: list[Any]) -> Callable[[], float]:
    """Returns a function that runs one step of `compile_training` and returns the loss."""
    *state, x, y = arguments

    def step() -> float:
        *state[:], loss = compiled(*state, x, y)
        return float(loss)

    return step


def main() -> None:
    """Measures each case for this machine's platform."""
    arguments = common.arguments(__doc__, rounds=7)
    here = jax.default_backend()
    ratios, missing = [], []
    for name, batch_size, platforms in CASES:
        case = f"train_step/{name}/batch {batch_size}"
        if here not in platforms:
            missing.append(f"{case}, {platforms[0]}")
            continue
        images, labels, num_classes = random_batch(name, batch_size)
        dtype = jnp.bfloat16 if here == "gpu" else None
        ours = create_model(name, num_classes, dtype=dtype, kernels="auto")
        flax = flax_peer(name, num_classes, dtype or jnp.float32)
        contestants: dict[str, Callable[[], object]] = {
            "ours": repeated(*compile_training(ours, images, labels, compiler_options())),
            "flax": repeated(*compile_training(flax, images, labels)),
        }
        try:
            from torch_peer import torch_training

            contestants["torch"] = torch_training(name, images, labels, num_classes)
        except ImportError:
            missing.append(f"{case}/torch (not installed)")
        ratios += common.compare_in_turn(case, contestants, arguments.rounds)
        del contestants
        gc.collect()
        if here == "gpu" and (statistics := jax.devices()[0].memory_stats()):
            print(f"{case}: peak memory so far {statistics['peak_bytes_in_use'] / 2**30:.1f} GiB")
    common.report(ratios, missing, arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
