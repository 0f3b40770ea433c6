"""JAX's own operations: correct in every transformation, on every platform."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
AxisName = str | tuple[str, ...] | None
Images = Float[Array | np.ndarray, "n h w c"]
Activations = Float[Array, "n h w c"]
Kernel = Float[Array, "k k c_in o"]
Convolved = Float[Array, "n h2 w2 o"]
Pooled = Float[Array, "n h2 w2 c"]
Map = Float[Array, "*batch c"]
Vector = Float[Array | np.ndarray, " c"]
PerChannel = Float[Array, "*ones c"]
Source = tuple[Float[Array | np.ndarray, "n h w b"], Float[Array | np.ndarray, "1 1 b c"]]


def conv(
    x: Activations, kernel: Kernel, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Convolved:
    """Convolves with a padding of `dilation * (k // 2)` on all sides."""
    pads = [(dilation * (kernel.shape[0] // 2),) * 2] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, None, (dilation, dilation), DIMENSIONS, groups
    )


def max_pool(x: Images) -> Pooled:
    """Returns the maxima of 3x3 windows with stride 2, as `torch.nn.MaxPool2d(3, 2, padding=1)`.

    The padding never wins, even for negative inputs. If several elements of a window are maximal,
    the first one receives the gradient.
    """
    # Exporters only support the pool without padding, and XLA fuses the two operations.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


@jax.custom_jvp
def rectified(x: Array) -> Array:
    """Returns max(x, 0). Its derivative follows from the result, so `x` need not be kept."""
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)  # Exporters widen a plain 0.


rectified.defjvps(lambda x_dot, y, _: jnp.where(y <= 0, 0, x_dot))


def means(x: Map, shift: PerChannel) -> tuple[PerChannel, PerChannel]:
    """Returns the means of x - shift and of its square, per channel."""
    shifted, axes = x - shift, range(x.ndim - 1)
    return jnp.mean(shifted, axes, keepdims=True), jnp.mean(shifted**2, axes, keepdims=True)


def moments(
    x: Map, shift: PerChannel, axis_name: AxisName, means: Callable[..., Any] = means
) -> tuple[PerChannel, PerChannel]:
    """Returns the mean and the biased variance of x - shift."""
    mean, square = averaged(means(x, shift), axis_name)
    return mean, jnp.maximum(square - mean**2, 0)


def averaged(values: Any, axis_name: AxisName) -> Any:
    """Returns the average over shards of equal size, if there are any."""
    return values if axis_name is None else lax.pmean(values, axis_name)


def affine(dtype: DTypeLike, relu: bool, x: Map, *vectors: PerChannel) -> Map:
    """Returns (x - shift - mean) * slope + bias in a dtype; with `relu`, negatives become zero."""
    shift, mean, slope, bias = vectors
    y = ((x - shift) * slope + (bias - mean * slope)).astype(dtype)
    return rectified(y) if relu else y


def alike(*arrays: Array) -> tuple[Array, ...]:
    """Marks arrays inside a `jax.shard_map` as device-varying if any of them is.

    In reverse mode, this sums the gradients of an array that the devices share. (The tangent of the
    sum serves: it is marked like all terms and has the value of one.)
    """
    total = sum(map(jnp.sum, arrays), start=jnp.zeros(()))
    return tuple(jax.jvp(lambda a: a + total.astype(a.dtype), (a,), (a,))[1] for a in arrays)


def batch_norm(
    x: Float[Array | np.ndarray, "*batch c"],
    scale: Vector,
    bias: Vector,
    *,
    epsilon: float,
    dtype: DTypeLike,
    axis_name: AxisName = None,
    relu: bool = False,
    source: Source | None = None,
    images: slice = slice(None),
    moments: Callable[..., Any] = moments,
    affine: Callable[..., Any] = affine,
) -> tuple[Map, Float[Array, " c"], Float[Array, " c"]]:
    """Returns `x` normalised by each channel's moments over the batch, the mean and the variance.

    The variance is the biased one. Moments are in float32, or in float64 if `x` or `scale` is, and
    also over the mesh axes `axis_name`. The result has the dtype `dtype`; with `relu`, negatives
    become zero. Only other kernels use `source` (input and kernel of the 1x1 convolution that
    produced `x`) and replace `images`, `moments` and `affine`.
    """
    del source
    wide = jnp.promote_types(jnp.result_type(x.dtype, scale.dtype), jnp.float32)
    # The variance is a difference of two moments. It would cancel if the mean is large relative to
    # the deviation, so moments are about the middle pixels of `images`. These are sliced before
    # they are cast; otherwise, XLA would keep a float32 copy of all of `x`.
    pixels = x[(images, *(slice(size // 2, size // 2 + 1) for size in x.shape[1:-1]))]
    pixels = lax.stop_gradient(pixels.astype(wide))
    shift = averaged(jnp.mean(pixels, range(x.ndim - 1), keepdims=True), axis_name)
    x = jnp.asarray(x, wide)  # Once, so that its gradient is summed before it is cast back.
    mean, var = moments(x, shift, axis_name)
    slope = lax.rsqrt(var + epsilon) * per_channel(scale, x)
    y = affine(jnp.dtype(dtype), relu, x, shift, mean, slope, per_channel(bias, x))
    return y, (shift + mean).ravel(), var.ravel()


def per_channel(vector: Vector, x: Map) -> PerChannel:
    """Returns a vector in a shape that broadcasts against `x` without rank promotion."""
    return jnp.expand_dims(vector, range(x.ndim - 1))
