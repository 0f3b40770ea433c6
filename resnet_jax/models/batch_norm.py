"""Batch normalisation with PyTorch's semantics."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


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
    axis_name: str | tuple[str, ...] | None = None
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
            centred = x - mean
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            centred, mean, var, count = _batch_moments(x, axis_name)
            if not self.is_initializing():
                unbiased_var = var * (count / max(count - 1, 1))
                running_mean.value = self._updated(running_mean.value, mean)
                running_var.value = self._updated(running_var.value, unbiased_var)
        y = centred * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(promoted if self.dtype is None else self.dtype)

    def _updated(self, old: Float[Array, " c"], new: Float[Array, " c"]) -> Float[Array, " c"]:
        return ((1 - self.momentum) * old + self.momentum * new).astype(old.dtype)


def _batch_moments(
    x: Float[Array, "*batch c"], axis_name: str | tuple[str, ...] | None
) -> tuple[Float[Array, "*batch c"], Float[Array, " c"], Float[Array, " c"], int]:
    """Returns x less its mean, each channel's mean and biased variance, and their count."""
    # The difference of moments cancels when the mean is large against the deviation. So both are
    # taken about a value near the mean, that of the centre pixels. As far as the derivative goes,
    # it is a constant.
    centre = x[(slice(None), *(size // 2 for size in x.shape[1:-1]))]
    shift = jnp.mean(lax.stop_gradient(centre), axis=0)
    count = x.size // x.shape[-1]
    if axis_name is not None:
        shift = lax.pmean(shift, axis_name)
        count *= lax.axis_size(axis_name)
    shifted = x - shift
    axes = tuple(range(x.ndim - 1))
    moments = jnp.mean(shifted, axes), jnp.mean(jnp.square(shifted), axes)
    if axis_name is not None:
        # Every shard holds equally many elements, and moments about one shift average.
        moments = lax.pmean(moments, axis_name)
    mean_of_shifted, mean_of_squares = moments
    var = jnp.maximum(mean_of_squares - jnp.square(mean_of_shifted), 0)
    return shifted - mean_of_shifted, shift + mean_of_shifted, var, count
