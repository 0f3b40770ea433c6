"""Convolutions in forms that XLA's CPU back end runs fast; docs/performance.md has what they gain.

Reverse mode only. Values and gradients equal those of `resnet_jax.ops.stock` up to rounding.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from resnet_jax.ops import stock
from resnet_jax.ops.stock import DIMENSIONS, Images, Kernel, alike


def conv(x: Images, kernel: Kernel, stride: int = 1, dilation: int = 1, groups: int = 1) -> Images:
    """Convolves as `stock.conv` does.

    A 1x1 convolution is a matrix product. Gradients of kernels are computed from arrays that were
    transposed in memory before.
    """
    if dilation != 1 or groups != 1 or 0 in x.shape:
        return stock.conv(x, kernel, stride, dilation, groups)
    if kernel.shape[0] > 1:
        return _convolve(*alike(x, kernel), stride)
    x = x[:, ::stride, ::stride]
    y = _product(*alike(x.reshape(-1, x.shape[-1]), kernel[0, 0]))
    return y.reshape(*x.shape[:3], -1)


@jax.custom_vjp
def _product(a: Array, b: Array) -> Array:
    return a @ b


def _product_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    a, b = kept
    by_a = g @ _transposed(b, (1, 0))
    if a.shape[1] <= g.shape[1]:  # The smaller one of the two is transposed.
        return by_a, _transposed(a, (1, 0)) @ g
    return by_a, (_transposed(g, (1, 0)) @ a).T


_product.defvjp(lambda a, b: (a @ b, (a, b)), _product_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: Images, kernel: Kernel, stride: int) -> Images:
    return stock.conv(x, kernel, stride)


def _convolve_gradient(
    stride: int, kept: tuple[Images, Kernel], g: Images
) -> tuple[Images, Kernel]:
    x, kernel = kept
    (by_x,) = jax.linear_transpose(lambda x: stock.conv(x, kernel, stride), x)(g)
    # A convolution with the channels as its batch, and the batch as its channels.
    size = kernel.shape[0]
    edges = [
        (size // 2, (count - 1) * stride + size - size // 2 - length)
        for count, length in zip(g.shape[1:3], x.shape[1:3], strict=True)
    ]
    x, g = _transposed(x, (3, 1, 2, 0)), g.transpose(1, 2, 0, 3)
    by_kernel = lax.conv_general_dilated(
        x, g, (1, 1), edges, rhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS
    )
    return by_x, by_kernel.transpose(1, 2, 0, 3)


_convolve.defvjp(lambda *args: (_convolve(*args), args[:2]), _convolve_gradient)


def _transposed(x: Array, axes: tuple[int, ...]) -> Array:
    """Transposes in memory, from an array in memory.

    XLA's CPU back end fuses without counting: a transposition, fast on its own, repeats the chain
    of operations before its input at a tenth of the speed. `lax.optimization_barrier` is gone when
    the fusion begins. A conditional stays; this one always takes the same branch, which XLA cannot
    know.
    """
    first = x[(0,) * x.ndim]

    def never(x: Array) -> Array:
        return jnp.zeros([x.shape[axis] for axis in axes], x.dtype) + x[(0,) * x.ndim]

    return lax.cond(jnp.sin(first.astype(jnp.float32)) > 2, never, lambda x: x.transpose(axes), x)
