"""The activation whose derivative is read off its result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops.stock import rectified

X = jnp.array([-2.0, -0.0, 0.0, 3.0, -jnp.inf, jnp.inf])
SLOPE = [0, 0, 0, 1, 0, 1]


def test_values():
    np.testing.assert_array_equal(rectified(X), [0, 0, 0, 3, 0, jnp.inf])
    assert jnp.isnan(rectified(jnp.array(jnp.nan)))
    assert rectified(jnp.bfloat16(2)).dtype == jnp.bfloat16


@pytest.mark.parametrize("order", ["reverse", "forward", "second"])
def test_derivatives(order):
    gradient = jax.grad(lambda x: jnp.sum(rectified(x)))
    if order == "reverse":
        np.testing.assert_array_equal(gradient(X), SLOPE)
    elif order == "forward":
        np.testing.assert_array_equal(jax.jvp(rectified, (X,), (jnp.ones(6),))[1], SLOPE)
    else:
        np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(gradient(x)))(X), np.zeros(6))
