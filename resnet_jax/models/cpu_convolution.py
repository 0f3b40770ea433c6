"""The convolution and its gradients in forms that XLA's CPU back end runs fast.

That back end has two kernels. One comes near a core's peak for many channels, but shares its work
among cores only where there are more than about 64 to compute; the other one always does, and
comes near the peak for a stride of one. The forms below are such convolutions, or matrix products.
Their results are those of XLA's own convolution up to rounding.

What decides between forms was measured at float32 on an AVX-512 processor; a wrong guess costs
time, never correctness. A precision that is asked for is that of accelerators, and has no effect.
"""

from functools import partial, reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.fusion import apart

_conv = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c o"], stride: int, **_: object
) -> Float[Array, "n h2 w2 o"] | None:
    """Returns the convolution, or None where XLA's own is the fastest form."""
    if kernel.shape[0] == 1:
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)
    if kernel.shape[0] == 3 and stride == 1:
        if kernel.shape[2] <= 4 and kernel.shape[3] <= 16:
            return _by_pixel_groups(x, kernel)
        if max(kernel.shape[2:]) > 16 and kernel.shape[3] <= 64:
            return _with_one_more_row(x, kernel)
    return None


def input_gradient(
    g: Float[Array, "n h2 w2 o"],
    kernel: Float[Array, "k k c o"],
    stride: int,
    size: tuple[int, int],
    **_: object,
) -> Float[Array, "n h w c"] | None:
    """Returns the gradient of an input of the given height and width, or None as above."""
    if kernel.shape[0] == 1:
        rows = g.reshape(-1, g.shape[-1]) @ _transposed(kernel[0, 0])
        gradient = rows.reshape(*g.shape[:3], -1)
        between = [
            (0, pixels - (count - 1) * stride - 1, stride - 1)
            for pixels, count in zip(size, g.shape[1:3], strict=True)
        ]
        return lax.pad(gradient, jnp.zeros((), g.dtype), [(0, 0, 0), *between, (0, 0, 0)])
    if kernel.shape[0] == 3 and stride == 1:
        kernel = apart(lambda kernel: kernel.swapaxes(2, 3), kernel)[::-1, ::-1]
        by_groups = convolve(g, kernel, 1)
        return _conv(g, kernel, (1, 1), [(1, 1)] * 2) if by_groups is None else by_groups
    return None


def kernel_gradient(
    g: Float[Array, "n h2 w2 o"],
    x: Float[Array, "n h w c"],
    stride: int,
    size: int,
    **_: object,
) -> Float[Array, "size size c o"] | None:
    """Returns the gradient of a kernel of the given size, or None as above."""
    if size == 1:
        return _kernel_gradient_of_pixels(g, x[:, ::stride, ::stride])
    if size != 3 or x.shape[-1] < 16:
        return None
    if stride == 1 and x.shape[0] >= 64:
        # Convolutions of 32 images each, which cores do at the same time.
        parts = (jnp.array_split(array, x.shape[0] // 32) for array in (g, x))
        return reduce(jnp.add, map(_kernel_gradient_over_batch, *parts))
    if stride == 2 or x.shape[-1] >= 128:
        return _kernel_gradient_by_taps(g, x, stride)
    return None


def _by_pixel_groups(x: Array, kernel: Array) -> Array | None:
    """3x3 convolution that computes four neighbouring pixels of the output as one.

    It has four times the output channels, for kernels with so few that XLA's fast path leaves them
    alone, at the price of multiplications by zero.
    """
    n, h, w, _ = x.shape
    if w % 4:
        return None
    # Pixel i of a group sees the columns i, i + 1 and i + 2 of the group's window.
    columns = [((0, 0), (i, 3 - i), (0, 0), (0, 0)) for i in range(4)]
    kernels = jnp.concatenate([jnp.pad(kernel, column) for column in columns], axis=-1)
    return _conv(x, kernels, (1, 4), [(1, 1), (1, 1)]).reshape(n, h, w, -1)


def _with_one_more_row(x: Array, kernel: Array) -> Array:
    """3x3 convolution that computes a row more than it returns.

    XLA hands a convolution over to a kernel that does those of few output channels on one core,
    whatever there is, but not if the result is larger than the input. Its own uses all of them.
    """
    return _conv(x, kernel, (1, 1), [(1, 2), (1, 1)])[:, :-1]


def _kernel_gradient_of_pixels(g: Array, x: Array) -> Array:
    """Gradient of a 1x1 kernel, as a matrix product; the smaller of two arrays is transposed."""
    x_rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if x.shape[-1] <= g.shape[-1]:
        return (_transposed(x_rows) @ g_rows)[None, None]
    return _transposed(apart(lambda rows: rows.T, g_rows) @ x_rows)[None, None]


def _transposed(matrix: Array) -> Array:
    """Transposes in memory: XLA's fast matrix product takes no other order of its operands."""
    return lax.optimization_barrier(lax.optimization_barrier(matrix).T)


def _kernel_gradient_over_batch(g: Array, x: Array) -> Array:
    """Gradient of a 3x3 kernel of stride one, as a convolution whose channels are the batch.

    Its rows are the columns of the image with their channels, w * c long, and its window takes
    every c-th entry of a row: the 3c places where it fits are the kernel's columns and channels.
    """
    n, h, w, channels = x.shape
    # As g is an argument, x is not transposed, and kept twice, before the backward pass.
    rows = apart(lambda x, g: x.transpose(1, 2, 3, 0).reshape(1, h, w * channels, n), x, g)
    padding = [(1, 1), (channels, channels)]
    y = _conv(rows, g.transpose(1, 2, 0, 3), (1, 1), padding, rhs_dilation=(1, channels))
    return y.reshape(3, 3, channels, -1)


def _kernel_gradient_by_taps(g: Array, x: Array, stride: int) -> Array:
    """Gradient of a 3x3 kernel, as a matrix product for each of its nine taps."""
    h, w, features = g.shape[1:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    g_transposed = apart(lambda g: g.reshape(-1, features).T, g)
    taps = [
        padded[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i in range(3)
        for j in range(3)
    ]
    products = jnp.stack([g_transposed @ tap.reshape(-1, x.shape[-1]) for tap in taps])
    return products.reshape(3, 3, features, x.shape[-1]).swapaxes(2, 3)
