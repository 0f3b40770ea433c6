"""Every form of the convolution against lax.conv_general_dilated, values and gradients."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from resnet_jax.models.convolution import conv2d


def reference(x, kernel, stride, dilation=1, groups=1):
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


def value_and_gradients(conv, x, kernel, cotangent):
    y, vjp = jax.vjp(conv, x, kernel)
    return y, *vjp(cotangent)


def assert_equal_to_reference(dtype, tolerance, x_shape, size, features, stride):
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(rng.normal(size=x_shape), dtype)
        kernel = jnp.asarray(rng.normal(size=(size, size, x_shape[-1], features)), dtype)
        shape = jax.eval_shape(lambda x, k: reference(x, k, stride), x, kernel).shape
        cotangent = jnp.asarray(rng.normal(size=shape), dtype)

        @jax.jit
        def both(*args):
            return [
                value_and_gradients(lambda x, k, conv=conv: conv(x, k, stride), *args)
                for conv in (conv2d, reference)
            ]

        for ours, plain in zip(*both(x, kernel, cotangent), strict=True):
            assert ours.dtype == plain.dtype == dtype
            ours, plain = np.float64(ours), np.float64(plain)
            np.testing.assert_allclose(ours, plain, 0, tolerance * np.abs(plain).max())


# A shape for each form and for the edges between them.
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
}


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape):
    assert_equal_to_reference("float32", 1e-5, *SHAPES[shape])


@pytest.mark.parametrize(
    "shape", ["stem", "64 channels", "large batch", "strided, odd", "pointwise, strided"]
)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("bfloat16", 2e-2)])
def test_other_types(shape, dtype, tolerance):
    assert_equal_to_reference(dtype, tolerance, *SHAPES[shape])


@pytest.mark.parametrize("dilation, groups", [(2, 1), (1, 4)])
def test_dilation_and_groups(dilation, groups):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 7, 6, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 16 // groups, 8)).astype(np.float32)
    for ours, plain in zip(
        *(
            jax.value_and_grad(
                lambda x, k, c=conv: jnp.sum(jnp.sin(c(x, k, 1, dilation, groups))), (0, 1)
            )(x, kernel)
            for conv in (conv2d, reference)
        ),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), ours, plain)


@pytest.mark.parametrize("check_vma", [False, True])
def test_gradient_of_a_shared_kernel_is_the_sum_over_the_shards(check_vma):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(2)
    x = rng.normal(size=(256, 4, 4, 16)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)

    def gradients(x, kernel):
        def loss(x, kernel):
            loss = jnp.sum(jnp.sin(conv2d(x, kernel)))
            return lax.psum(loss, "data") if check_vma else loss

        x_gradient, gradient = jax.grad(loss, (0, 1))(x, kernel)
        return x_gradient, gradient if check_vma else lax.psum(gradient, "data")

    ours = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(P("data"), P()),
        out_specs=(P("data"), P()),
        check_vma=check_vma,
    )
    expected = jax.grad(lambda x, k: jnp.sum(jnp.sin(reference(x, k, 1))), (0, 1))(x, kernel)
    for one, other in zip(jax.jit(ours)(x, kernel), expected, strict=True):
        np.testing.assert_allclose(one, other, 0, 1e-5 * np.abs(other).max())


@pytest.mark.parametrize("shape", ["64 channels", "strided, odd", "pointwise, strided"])
def test_forward_mode_and_second_derivatives(shape):
    x_shape, size, features, stride = SHAPES[shape]
    rng = np.random.default_rng(3)
    x, x_dot = rng.normal(size=(2, *x_shape)).astype(np.float32)
    kernel, kernel_dot = rng.normal(size=(2, size, size, x_shape[-1], features)).astype(np.float32)

    def derivatives(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(0.1 * conv(x, kernel, stride)))

        def product(x, kernel):
            return jax.jvp(jax.grad(loss, (0, 1)), (x, kernel), (x_dot, kernel_dot))[1]

        tangent = jax.jvp(partial(conv, stride=stride), (x, kernel), (x_dot, kernel_dot))[1]
        third = jax.grad(lambda *args: jnp.sum(jnp.sin(product(*args)[1])), (0, 1))(x, kernel)
        return tangent, product(x, kernel), third

    ours, plain = jax.jit(lambda: [derivatives(conv) for conv in (conv2d, reference)])()
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, 0, 2e-5 * np.abs(other).max())


@pytest.mark.parametrize("channels, features", [(16, 32), (32, 32), (64, 64)])
def test_few_features_are_computed_by_the_kernel_that_uses_all_cores(channels, features):
    x, kernel = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, channels, features))
    program = jax.jit(conv2d).lower(x, kernel).compile().as_text()
    assert "convolution(" in program and "ynn" not in program


@pytest.mark.parametrize("shape", ["64 channels", "strided, odd", "pointwise", "seven"])
def test_accelerators_run_the_plain_convolution(shape):
    x_shape, size, features, stride = SHAPES[shape]
    x, kernel = jnp.ones(x_shape), jnp.ones((size, size, x_shape[-1], features))

    def program(conv):
        def gradients(x, kernel):
            with jax.default_matmul_precision("highest"):
                return jax.grad(lambda *args: jnp.sum(conv(*args, stride)), (0, 1))(x, kernel)

        exported = jax.export.export(jax.jit(gradients), platforms=["cuda"])(x, kernel)
        return re.findall(r"stablehlo\.\w+.*", exported.mlir_module())

    ours, plain = program(conv2d), program(reference)
    assert sum("HIGHEST" in line for line in ours) == 2
    assert [line.split("loc(")[0] for line in ours] == [line.split("loc(")[0] for line in plain]
