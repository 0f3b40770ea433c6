"""Two-dimensional convolution: `lax.conv_general_dilated`, and on the CPU what is faster there.

A convolution is linear in the image and in the kernel, so its inner product with an array `g`,
`sum(g * conv(x, kernel))`, is linear in `x`, in `kernel` and in `g`. Its derivatives by the three
are the input's gradient, the kernel's gradient, and the convolution itself. Each of these takes two
of the three arrays, and is linear in both; the transpose of each is one of the others. So they are
three primitives, and differentiation, forward, reverse and repeated, leads to no fourth one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad
from jaxtyping import Array, Float

from resnet_jax.models import cpu_convolution
from resnet_jax.models.primitives import has_sharding_in_type, primitive


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k c_in o"],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "n h2 w2 o"]:
    """Convolves, with a padding of `dilation * (k // 2)` on all sides."""
    if dilation != 1 or groups != 1 or has_sharding_in_type(x, kernel):
        return _plain(x, kernel, stride, None, dilation, groups)
    x, kernel = _varying_as(x, kernel), _varying_as(kernel, x)
    # What is lowered outside of a `jax.default_matmul_precision` keeps the precision of inside.
    precision = jax.default_matmul_precision.value
    return _convolution.bind(x, kernel, stride=stride, precision=precision)


def _plain(
    x: Array,
    kernel: Array,
    stride: int,
    precision: str | None,
    dilation: int = 1,
    groups: int = 1,
) -> Array:
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def _plain_input_gradient(g: Array, kernel: Array, size: tuple[int, int], **params: Any) -> Array:
    x = jax.ShapeDtypeStruct((g.shape[0], *size, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: _plain(x, kernel, **params), x)(g)[0]


def _plain_kernel_gradient(g: Array, x: Array, size: int, **params: Any) -> Array:
    kernel = jax.ShapeDtypeStruct((size, size, x.shape[-1], g.shape[-1]), g.dtype)
    return jax.linear_transpose(lambda kernel: _plain(x, kernel, **params), kernel)(g)[0]


_convolution = primitive("convolution", _plain, cpu_convolution.convolve)
_input_gradient = primitive(
    "convolution_input_gradient", _plain_input_gradient, cpu_convolution.input_gradient
)
_kernel_gradient = primitive(
    "convolution_kernel_gradient", _plain_kernel_gradient, cpu_convolution.kernel_gradient
)


def _to_g(x: Array, kernel: Array, size: Any = None, **params: Any) -> Array:
    return _convolution.bind(x, kernel, **params)


def _to_x(g: Array, x: Any, kernel: Array, size: Any = None, **params: Any) -> Array:
    return _input_gradient.bind(g, kernel, size=x.aval.shape[1:3], **params)


def _to_kernel(g: Array, x: Array, kernel: Any, size: Any = None, **params: Any) -> Array:
    return _kernel_gradient.bind(g, x, size=kernel.aval.shape[0], **params)


# A rule gets the cotangent, then both arguments, of which the one that is sought has a shape alone.
ad.defbilinear(_convolution, _to_x, _to_kernel)
ad.defbilinear(
    _input_gradient,
    lambda x, g, kernel, **params: _to_g(x, kernel, **params),
    lambda x, g, kernel, **params: _to_kernel(g, x, kernel, **params),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, g, x, **params: _to_g(x, kernel, **params),
    lambda kernel, g, x, **params: _to_x(g, x, kernel, **params),
)


def _varying_as(x: Array, other: Array) -> Array:
    """Marks x, inside a `shard_map`, as differing between devices wherever `other` does.

    In reverse this sums the gradient of what the devices share. Where that is only JAX knows: a sum
    of the two would be marked, and the derivative of a sum is the mark alone.
    """
    return jax.jvp(lambda x: x + jnp.sum(other), (x,), (x,))[1]
