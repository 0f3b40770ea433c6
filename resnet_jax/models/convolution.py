"""Two-dimensional convolution: XLA's own, and forms of it that XLA runs faster on the CPU.

On accelerators there is `lax.conv_general_dilated` and nothing else. XLA's CPU back end has one
kernel that comes near the processor's peak: a stride of one, many output channels, and long rows
of channels to sum over. The functions below write gradients, and convolutions of few channels,
as such convolutions. Values and gradients are those of the plain form up to rounding.

What decides between forms was measured at float32 on an AVX-512 processor; a wrong guess costs
time, never correctness.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.fusion import apart

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "k k c_in o"],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "n h2 w2 o"]:
    """Convolves, with a padding of `dilation * (k // 2)` on all sides.

    On the CPU its derivative is taken in reverse mode alone (`jax.grad`, `jax.vjp`), since that is
    what is fast there; `jax.jvp` of it is an error.
    """
    if jax.default_backend() == "cpu" and dilation == groups == 1:
        if kernel.shape[0] == 1:
            return _conv1x1(x, kernel, stride)
        if kernel.shape[0] == 3:
            return _conv3x3(x, kernel, stride)
    return _plain(x, kernel, stride, dilation, groups)


def _plain(x: Array, kernel: Array, stride: int, dilation: int = 1, groups: int = 1) -> Array:
    padding = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv1x1(x: Array, kernel: Array, stride: int) -> Array:
    x = x[:, ::stride, ::stride]
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def _conv1x1_fwd(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv1x1(x, kernel, stride), (x, kernel)


def _conv1x1_bwd(stride: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    n, h, w, channels = x.shape
    features = g.shape[-1]
    rows = g.reshape(-1, features)
    x_gradient = (rows @ _transposed(kernel[0, 0])).reshape(*g.shape[:3], channels)
    between = [
        (0, size - (pixels - 1) * stride - 1, stride - 1)
        for size, pixels in zip((h, w), g.shape[1:3], strict=True)
    ]
    x_gradient = lax.pad(x_gradient, jnp.zeros((), g.dtype), [(0, 0, 0), *between, (0, 0, 0)])
    x_rows = x[:, ::stride, ::stride].reshape(-1, channels)
    if channels <= features:
        kernel_gradient = _transposed(x_rows) @ rows
    else:
        kernel_gradient = _transposed(apart(lambda rows: rows.T, rows) @ x_rows)
    return _summed_like(x, x_gradient), _summed_like(kernel, kernel_gradient[None, None])


_conv1x1.defvjp(_conv1x1_fwd, _conv1x1_bwd)


def _transposed(matrix: Array) -> Array:
    """Transposes in memory: XLA's fast matrix product takes no other order of its operands."""
    return lax.optimization_barrier(lax.optimization_barrier(matrix).T)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3x3(x: Array, kernel: Array, stride: int) -> Array:
    if stride == 1 and max(kernel.shape[2:]) <= 16:
        return _conv_of_pixel_groups(x, kernel, 4 if kernel.shape[2] <= 4 else 2)
    return _plain(x, kernel, stride)


def _conv3x3_fwd(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _conv3x3(x, kernel, stride), (x, kernel)


def _conv3x3_bwd(stride: int, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    x_gradient = _input_gradient(g, x, kernel, stride)
    kernel_gradient = _kernel_gradient(g, x, kernel, stride)
    return _summed_like(x, x_gradient), _summed_like(kernel, kernel_gradient)


_conv3x3.defvjp(_conv3x3_fwd, _conv3x3_bwd)


def _summed_like(primal: Array, gradient: Array) -> Array:
    """Sums a gradient over the devices of a `shard_map` that hold the same primal value.

    Which these are only JAX knows: it sums where an addition made the value differ.
    """
    return jax.vjp(lambda primal: primal + gradient, primal)[1](gradient)[0]


def _input_gradient(g: Array, x: Array, kernel: Array, stride: int) -> Array:
    if stride == 1:
        return _conv3x3(g, apart(lambda kernel: kernel.swapaxes(2, 3), kernel)[::-1, ::-1], 1)
    return jax.vjp(lambda x: _plain(x, kernel, stride), x)[1](g)[0]


def _kernel_gradient(g: Array, x: Array, kernel: Array, stride: int) -> Array:
    few_channels = x.shape[-1] < 16
    if stride == 1 and x.shape[0] >= 64 and not few_channels:
        return _kernel_gradient_over_batch(g, x)
    if (stride == 2 or x.shape[-1] >= 128) and not few_channels:
        return _kernel_gradient_by_taps(g, x, stride)
    return jax.vjp(lambda kernel: _plain(x, kernel, stride), kernel)[1](g)[0]


def _conv_of_pixel_groups(x: Array, kernel: Array, size: int) -> Array:
    """3x3 convolution that computes `size` neighbouring pixels of the output as one.

    It has `size` times the output channels, for kernels so few of which XLA's fast path leaves
    alone or wastes its registers, at the price of multiplications by zero.
    """
    n, h, w, _ = x.shape
    features = kernel.shape[-1]
    if w % size:
        return _plain(x, kernel, 1)
    # Pixel i of a group sees the columns i, i + 1 and i + 2 of the group's window.
    columns = [((0, 0), (i, size - 1 - i), (0, 0), (0, 0)) for i in range(size)]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate([jnp.pad(kernel, column) for column in columns], axis=-1),
        window_strides=(1, size),
        padding=[(1, 1), (1, 1)],
        dimension_numbers=_DIMENSIONS,
    )
    return y.reshape(n, h, w, features)


def _kernel_gradient_over_batch(g: Array, x: Array) -> Array:
    """Gradient by a 3x3 kernel of stride one, as a convolution whose channels are the batch.

    Its rows are the columns of the image with their channels, w * c long, and its window takes
    every c-th entry of a row: the 3c places where it fits are the kernel's columns and channels.
    """
    n, h, w, channels = x.shape
    # As g is an argument, x is not transposed, and kept twice, before the backward pass.
    rows = apart(lambda x, g: x.transpose(1, 2, 3, 0).reshape(1, h, w * channels, n), x, g)
    y = lax.conv_general_dilated(
        rows,
        g.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=[(1, 1), (channels, channels)],
        rhs_dilation=(1, channels),
        dimension_numbers=_DIMENSIONS,
    )
    return y.reshape(3, 3, channels, g.shape[-1])


def _kernel_gradient_by_taps(g: Array, x: Array, stride: int) -> Array:
    """Gradient by a 3x3 kernel, as a matrix product for each of its nine taps."""
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
