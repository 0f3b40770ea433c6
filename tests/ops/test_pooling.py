"""The max pools and their gradients against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnet_jax.ops import pooling, stock

POOLS = pytest.mark.parametrize(
    "max_pool", [stock.max_pool, pooling.max_pool], ids=["stock", "ours"]
)


def torch_value_and_gradient(x, cotangent):
    x = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = F.max_pool2d(x, 3, 2, 1)
    y.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    return [np.moveaxis(a.detach().numpy(), 1, -1) for a in (y, x.grad)]


@POOLS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(8, 9), (7, 6), (1, 2)])
def test_value_and_gradient_equal_torch(max_pool, size, dtype):
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


@POOLS
def test_what_is_no_number_or_infinite_wins_as_in_torch(max_pool):
    x = np.random.default_rng(1).normal(size=(1, 9, 8, 2)).astype(np.float32)
    x[0, 2, 3, 0] = np.nan
    x[0, 6, 5, 0] = np.inf
    x[0, :5, :, 1] = -np.inf
    y, _ = torch_value_and_gradient(x, np.zeros((1, 5, 4, 2), np.float32))
    np.testing.assert_array_equal(jax.jit(max_pool)(x), y)


def test_forward_mode_and_second_derivatives_of_stock():
    """Against differences of values and of gradients."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, x_dot = rng.permutation(2 * 2 * 5 * 6 * 3).reshape(2, 2, 5, 6, 3) / 100

        def gradient(x):
            return jax.grad(lambda x: jnp.sum(jnp.sin(stock.max_pool(x))))(x)

        for function in (stock.max_pool, gradient):
            _, tangent = jax.jvp(function, (x,), (x_dot,))
            step = 1e-6 * x_dot  # No two elements are nearer than a hundredth.
            slope = (function(x + step) - function(x - step)) / 2e-6
            np.testing.assert_allclose(tangent, slope, 0, 1e-8)
        np.testing.assert_allclose(jax.vmap(gradient)(x[None])[0], gradient(x), 1e-12)
