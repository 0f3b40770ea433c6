"""Convolution with PyTorch's padding."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.ops import STOCK, Kernels

# He's, by fan-out: it keeps the scale of the gradients from layer to layer.
kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Convolution, padded as `torch.nn.Conv2d(padding=dilation * (k // 2))`.

    The padding is the same on all sides. XLA's "SAME" is not: with a stride of two and an even
    size it pads less before than after, and weights from PyTorch give other logits.

    Parameters: `kernel` of shape [k, k, in // groups, features], He-initialised by its fan-out, and
    with `use_bias` a `bias` of shape [features], zero at first.

    Attributes:
        features: number of output channels.
        kernel_size: height and width k of the kernel, odd.
        stride: step of the window in height and width.
        dilation: distance between the kernel's taps.
        groups: number of groups that the channels are split into.
        use_bias: adds a number to each output channel; batch normalisation makes it needless.
        dtype: type to compute in; by default what the input and the kernel promote to.
        kernels: what computes it.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: DTypeLike | None = None
    kernels: Kernels = STOCK

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        """Returns the convolved input."""
        size = self.kernel_size
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = self.kernels.conv(x, kernel, self.stride, self.dilation, self.groups)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return y + bias.astype(y.dtype)
