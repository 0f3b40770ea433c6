"""Convolution with PyTorch's padding, and the max pool."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.ops import STOCK, Kernels
from resnet_jax.ops.stock import Images

# He initialisation by fan-out: it preserves the scale of the gradients across layers.
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Convolution, padded as `torch.nn.Conv2d(padding=dilation * (k // 2))`.

    The padding is equal on all sides. XLA's "SAME" is not: with a stride of two and an even size it
    pads less before than after, so PyTorch's weights would give other logits.

    Parameters: `kernel` of shape [k, k, in // groups, features], He-initialised by fan-out unless
    `kernel_init` is given, and with `use_bias` a `bias` of shape [features], initially zero.

    Attributes:
      features: number of output channels.
      kernel_size: height and width k of the kernel, odd.
      stride: step of the window in height and width.
      dilation: distance between the kernel's taps.
      groups: number of channel groups.
      use_bias: whether to add a bias to each channel; batch normalisation makes it redundant.
      dtype: dtype of the computation; by default the promoted dtype of input and kernel.
      kernels: the implementation.
      kernel_init: initialiser of `kernel`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: DTypeLike | None = None
    kernels: Kernels = STOCK
    kernel_init: Callable[..., Array] = kernel_init

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 {self.features}"]:
        """Returns the convolved input."""
        size = self.kernel_size
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = self.kernels.conv(x, kernel, self.stride, self.dilation, self.groups)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(y.dtype)


class MaxPool(nn.Module):
    """The 3x3 max pool of stride two after the ImageNet stem; it has no parameters.

    Attributes:
      kernels: the implementation.
    """

    kernels: Kernels = STOCK

    def __call__(self, x: Images) -> Float[Array, "n h2 w2 c"]:
        """Returns the pooled map."""
        pooled: Array = self.kernels.max_pool(x)
        return pooled
