"""Implementations for GPUs: fewer passes over memory, and the stem on tensor cores.

Only reverse mode. Values and gradients equal those of `resnet_jax.ops.stock` up to rounding.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.ops import stock
from resnet_jax.ops.stock import (
    DIMENSIONS,
    Activations,
    AxisName,
    Convolved,
    Images,
    Kernel,
    Map,
    PerChannel,
    Vector,
)

Inputs = Float[Array, "n h w b"]


def conv(
    x: Activations, kernel: Kernel, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Convolved:
    """Convolves as `stock.conv` does; a 7x7 kernel of few channels as 4x4 over blocks of pixels.

    Three channels use a fraction of a tensor core's width. A block of 2x2 pixels has four times as
    many, and a 7x7 window with stride 2 over pixels becomes a 4x4 window with stride 1 over blocks.
    """
    if kernel.shape[0] == 1:  # The following batch normalisation uses the same slice.
        return stock.conv(x[:, ::stride, ::stride], kernel, groups=groups)
    if (kernel.shape[0], stride, dilation, groups) != (7, 2, 1, 1) or kernel.shape[2] > 4:
        return stock.conv(x, kernel, stride, dilation, groups)
    pads = [(3, 3 + size % 2) for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(n, height // 2, width // 2, 4 * channels)
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(4, 4, 4 * channels, -1)
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS)


def batch_norm(
    x: Images, *vectors: Vector, relu: bool = False, source: Any = None, **options: Any
) -> tuple[Array, ...]:
    """Normalises as `stock.batch_norm` does, with hand-written gradients of passes over maps.

    The input of a widening convolution is smaller than its result. The result's moments follow from
    the input's: with C the covariance of the input, the variance is the diagonal of k^T C k. So do
    the sums of the backward pass, so the result need not be kept.
    """
    inputs: tuple[Array, ...] = ()
    moments, affine = partial(stock.moments, means=_means), _affine
    if source is not None and not relu and source[1].shape[2] < source[1].shape[3]:
        inputs = jnp.asarray(source[0], x.dtype), jnp.asarray(source[1][0, 0], x.dtype)
        moments, affine = partial(_moments_of_product, *inputs), _affine_of_product
    options["affine"] = lambda dtype, relu, *own: affine(dtype, relu, *stock.alike(*inputs, *own))
    options["images"] = slice(1)  # A mean over one image needs no separate kernel.
    return stock.batch_norm(x, *vectors, relu=relu, moments=moments, **options)


def _sums(a: Map, b: Map) -> tuple[PerChannel, PerChannel]:
    """Returns the sums of two maps over all axes but the last, in one reduction."""
    zeros, axes = (jnp.zeros((), a.dtype),) * 2, range(a.ndim - 1)
    sums = lax.reduce((a, b), zeros, lambda x, y: (x[0] + y[0], x[1] + y[1]), axes)
    return stock.per_channel(sums[0], a), stock.per_channel(sums[1], a)


@jax.custom_vjp
def _means(x: Map, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Computes `stock.means`; the shift is a constant for differentiation."""
    shifted, count = x - shift, x.size // x.shape[-1]
    sum_x, sum_square = _sums(shifted, shifted**2)
    return sum_x / count, sum_square / count


def _means_gradient(kept: tuple[Map, PerChannel], by: Any) -> tuple[Map, None]:
    x, shift = kept
    mean, square = (cotangent / (x.size // x.shape[-1]) for cotangent in by)
    return mean + (x - shift) * (2 * square), None


_means.defvjp(lambda *args: (_means(*args), args), _means_gradient)
_affine = jax.custom_vjp(stock.affine, nondiff_argnums=(0, 1))


def _affine_gradient(
    dtype: DTypeLike, relu: bool, kept: tuple[Array, ...], g: Map
) -> tuple[Array | None, ...]:
    x, shift, mean, slope, bias = kept
    shifted, offset, g = x - shift, bias - mean * slope, g.astype(x.dtype)
    by_sums = by_x = g
    if relu:
        # Two different expressions of one condition, neither of them that of the result: XLA would
        # compute a common one once and write it to memory between the passes.
        by_sums = jnp.where((shift - x) * slope < offset, g, 0)
        by_x = jnp.where(shifted * slope > -offset, g, 0)
    sum_g, sum_gx = _sums(by_sums, by_sums * (shifted - mean))
    return by_x * slope, None, -slope * sum_g, sum_gx, sum_g


_affine.defvjp(lambda *args: (stock.affine(*args), args[2:]), _affine_gradient)


def _moments_of_product(
    u: Inputs, kernel: Float[Array, "b c"], x: Activations, shift: PerChannel, axis_name: AxisName
) -> tuple[PerChannel, PerChannel]:
    """Computes `stock.moments` of x, the product of u and the kernel."""
    kernel = kernel.astype(x.dtype)
    mean, gram = stock.averaged(_input_moments(x.dtype, u), axis_name)
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    var = jnp.sum(kernel * product(gram - mean[:, None] * mean[None], kernel), 0)
    mean, var = (stock.per_channel(a, x) for a in (product(mean, kernel), jnp.maximum(var, 0)))
    return mean - shift, var


def _sum_of_products(a: Inputs, b: Activations, dtype: DTypeLike) -> Float[Array, "b c"]:
    """Returns the sum over pixels of the outer products of two maps."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_moments(dtype: DTypeLike, u: Inputs) -> tuple[Array, Array]:
    """Returns the mean over pixels of u, and of its outer product with itself."""
    count = u.size // u.shape[-1]
    return jnp.mean(u.astype(dtype), (0, 1, 2)), _sum_of_products(u, u, dtype) / count


def _input_moments_gradient(dtype: DTypeLike, u: Inputs, by: tuple[Array, Array]) -> tuple[Array]:
    mean, gram = ((cotangent / (u.size // u.shape[-1])).astype(u.dtype) for cotangent in by)
    return (stock.conv(u, (gram + gram.T)[None, None]) + stock.per_channel(mean, u),)


_input_moments.defvjp(lambda dtype, u: (_input_moments(dtype, u), u), _input_moments_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _affine_of_product(
    dtype: DTypeLike, relu: bool, u: Inputs, kernel: Float[Array, "b c"], *arrays: Array
) -> Activations:
    """Computes `stock.affine` of x, the product of u and the kernel, which receive its gradient."""
    return stock.affine(dtype, relu, *arrays)


def _affine_of_product_gradient(
    dtype: DTypeLike, relu: bool, kept: tuple[Array, ...], g: Activations
) -> tuple[Array | None, ...]:
    u, kernel, shift, mean, slope = kept
    sum_g = jnp.sum(g.astype(shift.dtype), (0, 1, 2))
    g, wide, slopes = g.astype(u.dtype), kernel.astype(shift.dtype), slope[0, 0]
    products = _sum_of_products(u, g, shift.dtype)
    sum_gx = jnp.sum(wide * products, 0) - (shift + mean).ravel() * sum_g
    by_u = stock.conv(g, (wide * slopes).astype(g.dtype).T[None, None])
    sum_g, sum_gx = stock.per_channel(sum_g, g), stock.per_channel(sum_gx, g)
    return by_u, (products * slopes).astype(kernel.dtype), None, None, -slope * sum_g, sum_gx, sum_g


_affine_of_product.defvjp(
    lambda *args: (_affine_of_product(*args), (*args[2:4], *args[5:8])),
    _affine_of_product_gradient,
)
