"""Batch normalisation with PyTorch's semantics."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.models.layers import Conv
from resnet_jax.ops import STOCK, Kernels, stock
from resnet_jax.ops.stock import AxisName, Source, Vector, per_channel


class BatchNorm(nn.Module):
    r"""Normalises each channel by its batch or running moments, as `torch.nn.BatchNorm2d` does.

    $$y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot scale + bias$$

    In training, $\mu$ and the *biased* variance $\sigma^2$ are those of the batch, and the running
    statistics become $(1 - momentum) \cdot old + momentum \cdot batch$ with the batch's *unbiased*
    variance. With a single element per channel, for which PyTorch raises, the biased variance,
    zero, replaces the undefined unbiased one.

    Moments are computed in float32, or in float64 if the input or the parameters are, in one pass
    about a shift that is taken from the data. A mean that is large relative to the deviation
    therefore costs no accuracy, from the first step on.

    Variables: `params` {"scale", "bias"} and `batch_stats` {"mean", "var"}, each of shape [c].

    Attributes:
      use_running_average: whether to normalise by the running moments, which stay unchanged.
      momentum: weight of the new batch in the running statistics (PyTorch's convention).
      epsilon: added to the variance.
      dtype: dtype of the result; by default the promoted dtype of input and parameters.
      axis_name: mesh axis, or axes, over which the moments are shared. The result and the running
        statistics equal those of one batch of all shards.
      scale_init: initialiser of `scale`.
      kernels: the implementation.
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
        x: Float[Array | np.ndarray, "*batch c"],
        relu: bool = False,
        source: Source | None = None,
    ) -> Float[Array, "*batch c"]:
        """Returns the normalised input, with the same shape and the dtype `dtype`.

        Args:
          x: the batch.
          relu: whether to apply ReLU.
          source: input and kernel of the 1x1 convolution with stride one that produced `x`. Some
            kernels compute the batch's moments and their gradients from them.
        """
        channels = x.shape[-1]
        scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)

        promoted = jnp.result_type(x.dtype, scale.dtype)
        dtype = promoted if self.dtype is None else self.dtype
        if self.use_running_average:
            x = jnp.asarray(x, jnp.promote_types(promoted, jnp.float32))
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
            source=source,
        )
        if not self.is_initializing():
            shards = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
            count = x.size // channels * shards
            running_mean.value = self._updated(running_mean.value, mean)
            running_var.value = self._updated(running_var.value, var * (count / max(count - 1, 1)))
        return y

    def _updated(self, old: Vector, new: Float[Array, " c"]) -> Float[Array, " c"]:
        return jnp.asarray((1 - self.momentum) * old + self.momentum * new, old.dtype)


def normalized(
    norm: Callable[..., Array],
    x: Float[Array, "n h w c"],
    relu: bool = False,
    source: tuple[Float[Array | np.ndarray, "n h1 w1 b"], nn.Module] | None = None,
) -> Float[Array, "n h w c"]:
    """Returns `norm(x)`, with `relu` activated; a `BatchNorm` also uses `source` and fuses ReLU.

    Args:
      norm: any normalisation.
      x: the batch.
      relu: whether to apply ReLU.
      source: input and module of the 1x1 convolution with one group that produced `x`.
    """
    if not isinstance(norm, BatchNorm):
        y = norm(x)
        return stock.rectified(y) if relu else y
    if source is None or not isinstance(source[1], Conv):
        return norm(x, relu=relu)
    inputs, conv = source
    kernel: Array = conv.get_variable("params", "kernel")
    return norm(x, relu=relu, source=(inputs[:, :: conv.stride, :: conv.stride], kernel))
