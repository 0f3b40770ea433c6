"""Sets of kernels by name, and networks made of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.models import BasicBlock, BottleneckBlock, ModelError, ResNet, create_model
from resnet_jax.ops import NAMES, STOCK, get_kernels

FASTER = pytest.mark.parametrize("name", ["cpu", "gpu", "tpu"])


def test_names(monkeypatch):
    assert NAMES == ("stock", "cpu", "gpu", "tpu", "auto")
    assert get_kernels("stock") is STOCK
    assert len({get_kernels(name) for name in ("stock", "cpu", "gpu", "tpu")}) == 4
    assert get_kernels("auto") is get_kernels("cpu")
    for platform, kind in {"gpu": "gpu", "tpu": "tpu", "METAL": "stock"}.items():
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert get_kernels("auto") is get_kernels(kind)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", ["cuda", "CPU", None])
def test_an_unknown_name_is_an_error_that_lists_the_names(value):
    with pytest.raises(ModelError, match="unknown kernels .* from stock, cpu, gpu, tpu, auto"):
        create_model("resnet18", kernels=value)


def make(block=BottleneckBlock, **options):
    return ResNet((1, 1), block, 5, (4, 8), **options)


def draw(*shape):
    """Images and variables in float64."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(make().init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    return rng.normal(size=shape), jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape) + (leaf.ndim == 1), shapes
    )


def loss(model, images, variables):
    """A number on which all that training computes depends: logits, and running statistics."""
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    statistics = sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(updates))
    return jnp.sum(jnp.sin(logits + jnp.arange(5))), statistics


def assert_near(ours, theirs, tolerance=1e-9):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        error = np.abs(one - other).max() / np.abs(other).max()
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"


def gradients(model, images, variables):
    return jax.grad(lambda *args: sum(loss(model, *args)), (0, 1))(images, variables)


@FASTER
@pytest.mark.parametrize("options", [{"remat": True}, {"freeze_batch_norm": True}], ids=str)
def test_gradients_of_a_network_are_stocks(name, options):
    with jax.enable_x64(True):
        images, variables = draw(4, 17, 14, 3)
        ours, theirs = (
            jax.jit(partial(gradients, make(kernels=kind, **options)))(images, variables)
            for kind in (name, "stock")
        )
        assert_near(ours, theirs)


@FASTER
@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
def test_logits_in_bfloat16_are_near_float32s(name, block):
    images = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)
    variables = jax.jit(make(block).init)(jax.random.key(0), images)
    exact, ours = (
        jax.jit(partial(make(block, **options).apply, train=True, mutable=["batch_stats"]))(
            variables, images
        )[0]
        for options in ({}, {"kernels": name, "dtype": "bfloat16"})
    )
    assert np.linalg.norm(ours - exact) < 2e-2 * np.linalg.norm(exact)
