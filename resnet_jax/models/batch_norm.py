"""Batch normalisation with PyTorch's semantics."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.ops import STOCK, Kernels, stock
from resnet_jax.ops.stock import AxisName, per_channel


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
        kernels: what computes it.
    """

    use_running_average: bool
    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    axis_name: AxisName = None
    scale_init: Callable[..., Array] = nn.initializers.ones
    kernels: Kernels = STOCK

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch c"],
        relu: bool = False,
        source: tuple[Float[Array, "*batch b"], nn.Module] | None = None,
    ) -> Float[Array, "*batch c"]:
        """Returns the normalised input, of the same shape and of type `dtype`.

        Args:
            x: the batch.
            relu: whether negative results become zero.
            source: input and module of the 1x1 convolution, of one group, whose result `x` is. Some
                kernels compute the batch's moments, and its gradients, from these.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        promoted = jnp.result_type(x.dtype, scale.dtype)
        dtype = promoted if self.dtype is None else self.dtype
        if self.use_running_average:
            x = x.astype(jnp.promote_types(promoted, jnp.float32))
            slope = per_channel(lax.rsqrt(running_var.value + self.epsilon) * scale, x)
            y = (x - per_channel(running_mean.value, x)) * slope + per_channel(bias, x)
            y = y.astype(dtype)
            return stock.rectified(y) if relu else y
        y, mean, var = self.kernels.batch_norm(
            x,
            scale,
            bias,
            epsilon=self.epsilon,
            dtype=dtype,
            axis_name=None if self.is_initializing() else self.axis_name,
            relu=relu,
            source=source and (source[0], source[1].get_variable("params", "kernel")),
        )
        if not self.is_initializing():
            shards = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
            count = x.size // channels * shards
            running_mean.value = self._updated(running_mean.value, mean)
            running_var.value = self._updated(running_var.value, var * (count / max(count - 1, 1)))
        return y

    def _updated(self, old: Float[Array, " c"], new: Float[Array, " c"]) -> Float[Array, " c"]:
        return ((1 - self.momentum) * old + self.momentum * new).astype(old.dtype)
