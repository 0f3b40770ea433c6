"""A network of any depth against its PyTorch twin: all that training and evaluation compute.

A large network is a few shapes of blocks many times over. Here every shape is compiled once, for
all networks that have it, which takes a tenth of the time that whole networks take to compile.
tests/models/test_resnet.py compiles whole ones.
"""

import functools

import jax
import numpy as np
import torch
from flax import linen as nn
from flax import traverse_util

from resnet_jax.models import BasicBlock, BottleneckBlock, create_model
from tests import torch_twins

NUM_CLASSES = 10

# Relative to the largest entry of each array.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}

TORCHVISION_NAMES = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
]

_compiled = {}


def block_by_block(batch_stats):
    """Runs every block as a compiled function of its own; adds its new statistics to a mapping."""

    def run(call, args, kwargs, context):
        block = context.module
        if not isinstance(block, BasicBlock | BottleneckBlock) or not block.path:
            return call(*args, **kwargs)
        free = block.clone(parent=None, name=None)
        apply = jax.jit(functools.partial(free.apply, mutable=["batch_stats"]))
        # Blocks that are described in the same words are the same function.
        output, updates = _compiled.setdefault(repr(free), apply)(block.variables, *args, **kwargs)
        for path, value in traverse_util.flatten_dict(updates["batch_stats"]).items():
            batch_stats[(*block.path, *path)] = value
        return output

    return nn.intercept_methods(run)


def run_ours(model, variables, images, cotangent):
    def train(params):
        of_blocks = {}
        with block_by_block(of_blocks):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
        batch_stats = traverse_util.flatten_dict(updates["batch_stats"]) | of_blocks
        return logits, traverse_util.unflatten_dict(batch_stats)

    logits, vjp, batch_stats = jax.vjp(train, variables["params"], has_aux=True)
    with block_by_block({}):
        return {
            "logits": model.apply(variables, images, train=False),
            "features": dict(model.apply(variables, images, train=False, method="features")),
            "train_logits": logits,
            "batch_stats": batch_stats,
            "grads": vjp(cotangent)[0],
        }


def run_theirs(twin, images, cotangent):
    images = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        twin.eval()
        eval_logits, maps = twin(images), twin.features(images)
    logits = twin.train()(images)
    logits.backward(torch.tensor(cotangent))
    return {
        "logits": eval_logits.numpy(),
        "features": {name: map.permute(0, 2, 3, 1).numpy() for name, map in maps.items()},
        "train_logits": logits.detach().numpy(),
        "batch_stats": torch_twins.to_tree(twin.named_buffers()),
        "grads": torch_twins.to_tree((name, p.grad) for name, p in twin.named_parameters()),
    }


def assert_equal_to_twin(name, dtype, image_size=(33, 32), **options):
    """Compares logits, features, gradients and statistics, from random weights and statistics."""
    # XLA is slow at float64, and float32 needs more values for its means.
    batch_size = {"float32": 4, "float64": 2}[dtype]
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *image_size, 3)).astype(dtype)
    cotangent = rng.normal(size=(batch_size, NUM_CLASSES)).astype(dtype)
    with torch.device("meta"):
        twin = torch_twins.make_twin(name, NUM_CLASSES, **options)
    twin = twin.to_empty(device="cpu")
    torch_twins.randomise(twin, seed=1, residual_scale=0.1).to(getattr(torch, dtype))
    torch_twins.keep_off_kinks(twin, torch.tensor(images).permute(0, 3, 1, 2))
    variables = torch_twins.to_variables(twin)
    with jax.enable_x64(dtype == "float64"):
        model = create_model(name, NUM_CLASSES, **options)
        ours = jax.device_get(run_ours(model, variables, images, cotangent))
    theirs = run_theirs(twin, images, cotangent)
    assert ours["logits"].dtype == dtype
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    leaves = zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True)
    for (path, one), other in leaves:
        error = np.abs(one - other).max() / np.abs(other).max()
        assert error < TOLERANCE[dtype], f"{jax.tree_util.keystr(path)}: {error:.1e}"
