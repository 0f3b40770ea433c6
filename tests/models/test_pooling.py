"""The max pool and its gradient against PyTorch."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from jax import lax
from torch.nn import functional as F

from resnet_jax.models import max_pool


def torch_value_and_gradient(x, cotangent):
    x = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = F.max_pool2d(x, 3, 2, 1)
    y.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    return [np.moveaxis(a.detach().numpy(), 1, -1) for a in (y, x.grad)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(8, 9), (7, 6), (1, 2)])
def test_value_and_gradient_equal_torch(size, dtype):
    rng = np.random.default_rng(0)
    # Whole numbers: many windows have several greatest elements, and the first one counts. All are
    # below zero, so that a padding with zeros would win.
    x = rng.integers(-4, -1, size=(2, *size, 3)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        y, vjp = jax.vjp(max_pool, jnp.asarray(x))
        cotangent = rng.normal(size=y.shape).astype(dtype)
        gradient = jax.jit(vjp)(jnp.asarray(cotangent))[0]
        assert y.dtype == gradient.dtype == dtype
    expected_y, expected_gradient = torch_value_and_gradient(x, cotangent)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(gradient, expected_gradient, 1e-6)


def test_forward_mode_and_second_derivatives():
    def expected(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )

    x, x_dot = np.random.default_rng(1).normal(size=(2, 2, 5, 6, 3)).astype(np.float32)

    def derivatives(pool):
        def gradient(x):
            return jax.grad(lambda x: jnp.sum(jnp.sin(pool(x))))(x)

        return [jax.jvp(f, (x,), (x_dot,)) for f in (pool, gradient)], jax.vmap(gradient)(x[None])

    ours, plain = (
        jax.tree.leaves(jax.jit(derivatives, static_argnums=0)(f)) for f in (max_pool, expected)
    )
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, 1e-6, 1e-6)


def test_accelerators_run_the_plain_pool():
    def program(pool):
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(pool(x) ** 2)))
        exported = jax.export.export(gradient, platforms=["cuda"])(jnp.ones((2, 5, 6, 3)))
        return re.findall(r"stablehlo\.\w+", exported.mlir_module())

    def plain(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    assert "stablehlo.select_and_scatter" in program(max_pool)
    assert program(max_pool) == program(plain)
