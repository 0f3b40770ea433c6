"""Inference with folded batch normalisation, alternating with the plain Flax twin and PyTorch.

PyTorch's model runs both unchanged and with folded batch normalisation.

    python benchmarks/inference.py [--rounds N] [--json FILE]

On the CPU in float32, batch 16; on a GPU in bfloat16, batches of 1, 32 and 256, PyTorch compiled.
"""

from collections.abc import Callable

import common
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax_peer import flax_peer
from train_step import random_batch

from resnet_jax import create_model, fold_batch_norm
from resnet_jax.runtime.devices import compiler_options, keep_freed_memory

# Name, batch size, platform.
CASES = [
    ("resnet18", 16, "cpu"),
    ("resnet50", 16, "cpu"),
    ("resnet50", 1, "gpu"),
    ("resnet50", 32, "gpu"),
    ("resnet50", 256, "gpu"),
]


def jax_inference(
    model: nn.Module, images: np.ndarray, fold: bool, options: dict[str, str] | None = None
) -> Callable[[], object]:
    """Returns a function that runs one forward pass and waits for it.

    Args:
      model: the network.
      images: the batch.
      fold: whether to fold batch normalisation into the convolutions.
      options: XLA's options; by default XLA's own.
    """
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=False))()
    if fold:
        model, variables = fold_batch_norm(model, variables)
    forward = jax.jit(
        lambda variables, x: model.apply(variables, x, train=False), compiler_options=options
    )
    variables, x = jax.device_put(variables), jnp.asarray(images)
    return lambda: forward(variables, x).block_until_ready()


def main() -> None:
    """Measures each case for this machine's platform."""
    arguments = common.arguments(__doc__, rounds=15)
    here = jax.default_backend()
    ratios, missing = [], []
    for name, batch_size, platform in CASES:
        case = f"inference/{name}/batch {batch_size}"
        if here != platform:
            missing.append(f"{case}, {platform}")
            continue
        images, _, num_classes = random_batch(name, batch_size)
        dtype = jnp.bfloat16 if here == "gpu" else None
        contestants: dict[str, Callable[[], object]] = {
            "ours": jax_inference(
                create_model(name, num_classes, dtype=dtype, kernels="auto"),
                images,
                fold=True,
                options=compiler_options(),
            ),
            "flax": jax_inference(
                flax_peer(name, num_classes, dtype or jnp.float32), images, fold=False
            ),
        }
        try:
            from torch_peer import torch_inference

            for peer, fold in (("torch", False), ("torch folded", True)):
                contestants[peer] = torch_inference(name, images, num_classes, fold)
        except ImportError:
            missing.append(f"{case}/torch (not installed)")
        ratios += common.compare_in_turn(case, contestants, arguments.rounds)
    common.report(ratios, missing, arguments.json)


if __name__ == "__main__":
    keep_freed_memory()
    main()
