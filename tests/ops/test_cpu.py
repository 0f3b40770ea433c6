"""The CPU's convolutions against lax.conv_general_dilated, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from resnet_jax.ops import cpu

TOLERANCE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2e-2}


def reference(x, kernel, stride=1, dilation=1, groups=1):
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def assert_equal_to_reference(dtype, x_shape, kernel_shape, *options):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(rng.normal(size=x_shape), dtype)
        kernel = jnp.asarray(rng.normal(size=kernel_shape), dtype)
        shape = jax.eval_shape(lambda x, k: reference(x, k, *options), x, kernel).shape
        cotangent = jnp.asarray(rng.normal(size=shape), dtype)

        def value_and_gradients(conv):
            y, vjp = jax.vjp(lambda x, k: conv(x, k, *options), x, kernel)
            return y, *vjp(cotangent)

        ours, plain = jax.jit(lambda: [value_and_gradients(f) for f in (cpu.conv, reference)])()
    for one, other in zip(ours, plain, strict=True):
        assert one.dtype == other.dtype == dtype
        one, other = np.float64(one), np.float64(other)
        limit = TOLERANCE[dtype] * np.abs(other).max(initial=0)
        np.testing.assert_allclose(one, other, 0, limit)


# Images, size of the kernel, features, stride: one for each form and for the edges between them.
SHAPES = {
    "stem": ((4, 8, 8, 3), 3, 16, 1),
    "stem, width not divisible": ((4, 7, 9, 3), 3, 16, 1),
    "64 channels": ((2, 3, 28, 64), 3, 64, 1),
    "64 channels, odd width": ((2, 3, 29, 64), 3, 64, 1),
    "large batch": ((100, 5, 7, 32), 3, 24, 1),
    "large batch, odd": ((65, 3, 4, 32), 3, 24, 1),
    "large batch, few channels": ((64, 4, 6, 16), 3, 16, 1),
    "many channels": ((2, 5, 4, 128), 3, 32, 1),
    "strided": ((3, 8, 6, 16), 3, 32, 2),
    "strided, odd": ((3, 7, 9, 32), 3, 16, 2),
    "one pixel": ((2, 1, 1, 16), 3, 16, 1),
    "one pixel, strided": ((2, 1, 1, 128), 3, 16, 2),
    "pointwise": ((3, 6, 5, 32), 1, 64, 1),
    "pointwise, strided": ((3, 6, 5, 32), 1, 64, 2),
    "pointwise, fewer features": ((3, 6, 5, 32), 1, 8, 1),
    "pointwise, fewer features, strided": ((3, 5, 6, 32), 1, 8, 2),
    "seven": ((2, 12, 11, 3), 7, 16, 2),
    "no image": ((0, 6, 5, 3), 3, 4, 1),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, dtype):
    x_shape, size, features, stride = SHAPES[shape]
    assert_equal_to_reference(dtype, x_shape, (size, size, x_shape[-1], features), stride)


@pytest.mark.parametrize(
    "size, stride, dilation, groups", [(3, 1, 2, 1), (3, 2, 1, 4), (1, 1, 1, 2)]
)
def test_dilation_and_groups(size, stride, dilation, groups):
    kernel_shape = (size, size, 16 // groups, 8)
    assert_equal_to_reference("float64", (2, 7, 6, 16), kernel_shape, stride, dilation, groups)


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("size, stride", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_gradient_of_a_shared_kernel_is_the_sum_over_the_shards(size, stride, check_vma):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(2)

    def gradients(x, kernel):
        def loss(x, kernel):
            loss = jnp.sum(jnp.sin(cpu.conv(x, kernel, stride)))
            return lax.psum(loss, "data") if check_vma else loss

        by_x, by_kernel = jax.grad(loss, (0, 1))(x, kernel)
        return by_x, by_kernel if check_vma else lax.psum(by_kernel, "data")

    ours = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=(P("data"), P()),
        check_vma=check_vma,
    )
    with jax.enable_x64(True):
        x, kernel = rng.normal(size=(8, 4, 5, 16)), rng.normal(size=(size, size, 16, 8))
        plain = jax.grad(lambda x, k: jnp.sum(jnp.sin(reference(x, k, stride))), (0, 1))(x, kernel)
        for one, other in zip(jax.jit(ours)(x, kernel), plain, strict=True):
            np.testing.assert_allclose(one, other, 0, 1e-12 * np.abs(other).max())
