"""The GPU's forms: the stem against lax.conv_general_dilated, and where the others are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from resnet_jax.models import BottleneckBlock, ResNet
from resnet_jax.ops import gpu


def reference(x, kernel, stride):
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=numbers)


def value_and_gradients(conv, x, kernel, stride):
    y, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride), x, kernel)
    return y, *vjp(jnp.cos(y))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("size", [(12, 11), (11, 14), (9, 7), (2, 1)])
def test_the_stem_is_the_convolution(size, channels):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        args = rng.normal(size=(2, *size, channels)), rng.normal(size=(7, 7, channels, 8)), 2
        for one, other in zip(
            value_and_gradients(gpu.conv, *args), value_and_gradients(reference, *args), strict=True
        ):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, 0, 1e-12 * np.abs(other).max())


@pytest.mark.parametrize("size, stride", [(7, 1), (3, 2), (1, 1)])
def test_other_convolutions(size, stride):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.normal(size=(2, 9, 8, 3)))
        kernel = jnp.asarray(rng.normal(size=(size, size, 3, 4)))
        expected = reference(x, kernel, stride)
        np.testing.assert_allclose(gpu.conv(x, kernel, stride), expected, 1e-12, 1e-12)


def test_the_stem_in_bfloat16():
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, 33, 32, 3)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(7, 7, 3, 8)) / 12, jnp.bfloat16)
    y = gpu.conv(x, kernel, 2)
    assert y.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        exact = reference(np.float64(x), np.float64(kernel), 2)
    np.testing.assert_allclose(np.float64(y), exact, 0, 2e-2 * np.abs(exact).max())


def test_every_bottleneck_is_normalised_from_its_input(monkeypatch):
    calls = []
    moments = gpu._input_moments
    monkeypatch.setattr(gpu, "_input_moments", lambda *args: calls.append(1) or moments(*args))
    model = ResNet((1, 2), BottleneckBlock, 10, (8, 16), kernels="gpu")
    images = jnp.ones((2, 16, 16, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    calls.clear()
    jax.eval_shape(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"]), variables)
    assert len(calls) == 3 + 2  # The projections widen as well.
