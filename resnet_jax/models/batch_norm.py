"""Batch normalisation with PyTorch's semantics."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

AxisName = str | tuple[str, ...] | None


class BatchNorm(nn.Module):
    r"""Normalises every channel by its batch or running moments, as `torch.nn.BatchNorm2d` does.

    $$y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot scale + bias$$

    While training, $\mu$ and the *biased* variance $\sigma^2$ are those of the batch, and the
    running statistics move to $(1 - momentum) \cdot old + momentum \cdot batch$, where the batch's
    variance is the *unbiased* one. With a single element a channel, where PyTorch raises, the
    unbiased variance is undefined and the biased one, zero, is taken.

    Moments are computed in float32, or in float64 where the input or the parameters have it, in
    one pass over the data about a shift that is taken from the data itself. A mean that is large
    against the deviation therefore costs no accuracy, on the first step as on any other.

    Variables: `params` {"scale", "bias"} and `batch_stats` {"mean", "var"}, each of shape [c].

    Attributes:
        use_running_average: normalise by the running moments and leave them as they are.
        momentum: weight of the new batch in the running statistics (PyTorch's convention).
        epsilon: added to the variance.
        dtype: type of the result; by default what the input and the parameters promote to.
        axis_name: mesh axis, or axes, over which the moments are shared. The result is that of
            one batch made of all the shards, and so are the running statistics.
        scale_init: initialiser of `scale`.
    """

    use_running_average: bool
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    axis_name: AxisName = None
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        """Returns the normalised input, of the same shape and of type `dtype`."""
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        promoted = jnp.result_type(x.dtype, scale.dtype)
        x = x.astype(jnp.promote_types(promoted, jnp.float32))
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
            y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            y, mean, var = _normalize_by_batch(x, scale, bias, self.epsilon, axis_name)
            if not self.is_initializing():
                count = _count(x, axis_name)
                unbiased_var = var * (count / max(count - 1, 1))
                running_mean.value = self._updated(running_mean.value, mean)
                running_var.value = self._updated(running_var.value, unbiased_var)
        return y.astype(promoted if self.dtype is None else self.dtype)

    def _updated(self, old: Float[Array, " c"], new: Float[Array, " c"]) -> Float[Array, " c"]:
        return ((1 - self.momentum) * old + self.momentum * new).astype(old.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalize_by_batch(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    axis_name: AxisName,
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"]]:
    """Returns the normalised x, and each channel's mean and biased variance.

    As far as the derivative goes, mean and variance are constants: they are for the statistics.
    """
    shifted, shift, mean_of_shifted, var = _moments(x, axis_name)
    y = (shifted - mean_of_shifted) * (lax.rsqrt(var + epsilon) * scale) + bias
    return y, shift + mean_of_shifted, var


@_normalize_by_batch.defjvp
def _normalize_by_batch_jvp(
    epsilon: float, axis_name: AxisName, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    x, scale, bias = primals
    x_dot, scale_dot, bias_dot = tangents
    shifted, shift, mean_of_shifted, var = _moments(x, axis_name)
    inverse_deviation = lax.rsqrt(var + epsilon)
    slope = inverse_deviation * scale
    y = (shifted - mean_of_shifted) * slope + bias
    # In this order the transposed program, the backward pass, needs two sums over the data: of the
    # gradient, and of its product with `shifted`. They give those of `bias` and `scale` as well.
    mean_dot = _mean(x_dot, axis_name)
    covariance = _mean(shifted * x_dot, axis_name) - mean_of_shifted * mean_dot
    slope_dot = inverse_deviation * scale_dot - jnp.square(inverse_deviation) * slope * covariance
    offset_dot = bias_dot - mean_dot * slope - mean_of_shifted * slope_dot
    y_dot = x_dot * slope + shifted * slope_dot + offset_dot
    mean = shift + mean_of_shifted
    return (y, mean, var), (y_dot, jnp.zeros_like(mean), jnp.zeros_like(var))


def _moments(x: Float[Array, "*batch c"], axis_name: AxisName) -> tuple[Array, ...]:
    """Returns x less a number for each channel, that number, and the difference's moments.

    The difference of moments cancels when the mean is large against the deviation. So both are
    taken about a value near the mean, that of the centre pixels.
    """
    centre = x[(slice(None), *(size // 2 for size in x.shape[1:-1]))]
    shift = _mean(centre, axis_name)
    # The selection changes nothing, not even for NaN. But XLA's CPU back end would repeat a plain
    # subtraction in everything that uses it, and keep x for that; a selection it stores.
    shifted = jnp.where(x == x, x - shift, x)
    mean = _mean(shifted, axis_name)
    mean_of_squares = _mean(jnp.square(shifted), axis_name)
    return shifted, shift, mean, jnp.maximum(mean_of_squares - jnp.square(mean), 0)


def _mean(x: Float[Array, "*batch c"], axis_name: AxisName) -> Float[Array, " c"]:
    """Returns each channel's mean over all shards, which hold equally many elements."""
    mean = jnp.mean(x, range(x.ndim - 1))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _count(x: Float[Array, "*batch c"], axis_name: AxisName) -> int:
    """Returns the number of elements of a channel on all shards."""
    shards = 1 if axis_name is None else lax.axis_size(axis_name)
    return x.size // x.shape[-1] * shards
