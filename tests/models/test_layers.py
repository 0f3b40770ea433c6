"""Conv against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnet_jax.models import Conv


def nchw(x):
    return torch.tensor(np.moveaxis(x, -1, 1))


def nhwc(x):
    return np.moveaxis(x.numpy(), 1, -1)


@pytest.mark.parametrize("size", [(8, 9), (7, 6)])
@pytest.mark.parametrize(
    "kernel_size, stride, dilation, groups",
    [(1, 1, 1, 1), (1, 2, 1, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 1), (3, 2, 4, 1)]
    + [(3, 1, 1, 2), (3, 2, 1, 4), (7, 2, 1, 1)],
)
def test_conv_equals_torch(kernel_size, stride, dilation, groups, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 8)).astype(np.float32)
    kernel = rng.normal(size=(kernel_size, kernel_size, 8 // groups, 12)).astype(np.float32)
    conv = Conv(12, kernel_size, stride, dilation, groups)
    ours = conv.apply({"params": {"kernel": kernel}}, x)
    theirs = F.conv2d(
        nchw(x),
        torch.tensor(kernel.transpose(3, 2, 0, 1)),
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
    )
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, nhwc(theirs), 1e-5, 2e-5)


def test_conv_kernel_is_initialised_by_its_fan_out():
    conv = Conv(64, 3, groups=4)
    kernel = conv.init(jax.random.key(0), jnp.zeros((1, 3, 3, 128)))["params"]["kernel"]
    assert kernel.shape == (3, 3, 32, 64)
    assert kernel.dtype == jnp.float32
    # 18,432 draws: the deviation is known to half a percent.
    np.testing.assert_allclose(jnp.std(kernel), np.sqrt(2 / (9 * 64)), 0.02)
    assert abs(jnp.mean(kernel)) < 0.01 * jnp.std(kernel) * 3


def test_conv_computes_in_dtype():
    conv = Conv(4, 3, dtype=jnp.bfloat16)
    x = jnp.ones((1, 4, 4, 3))
    variables = conv.init(jax.random.key(0), x)
    assert variables["params"]["kernel"].dtype == jnp.float32
    assert conv.apply(variables, x).dtype == jnp.bfloat16
