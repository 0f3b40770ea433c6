"""The building blocks of Figure 5 and the shortcuts of Section 3.3 (arXiv 1512.03385)."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from resnet_jax.models.batch_norm import normalized
from resnet_jax.ops import stock
from resnet_jax.ops.stock import Images

ModuleDef = Callable[..., Any]


class Shortcut(nn.Module):
    """A block's shortcut: the identity, or a replacement where the shape changes.

    Parameters: {"conv", "bn"} if it is a projection, otherwise none.

    Attributes:
      option: "A", the identity, strided and padded with zero channels, half of them before and
        half after the input's; "B", a 1x1 projection where the shape changes; "C", a 1x1
        projection everywhere.
      conv: builds a convolution from (features, kernel_size, stride).
      norm: builds a normalisation.
      features: number of output channels.
      stride: step in height and width.
    """

    option: str
    conv: ModuleDef
    norm: ModuleDef
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 {self.features}"]:
        """Returns the input in the shape of the block's output."""
        changes_shape = self.stride != 1 or x.shape[-1] != self.features
        if self.option == "C" or (self.option == "B" and changes_shape):
            conv = self.conv(self.features, 1, self.stride, name="conv")
            return normalized(self.norm(name="bn"), conv(x), source=(x, conv))
        missing = self.features - x.shape[-1]
        before = missing // 2
        for axis in (1, 2):  # Slices, unlike indexing, also work with symbolic sizes.
            x = lax.slice_in_dim(x, 0, x.shape[axis], self.stride, axis)
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut past them (Figure 5, left).

    Attributes:
      conv: builds a convolution from (features, kernel_size, stride).
      norm: builds a normalisation.
      last_norm: builds the normalisation before the addition.
      shortcut: builds a shortcut from (features, stride); None makes the block plain.
      width: number of channels.
      stride: step of the first convolution in height and width.
    """

    expansion: ClassVar[int] = 1

    conv: ModuleDef
    norm: ModuleDef
    last_norm: ModuleDef
    shortcut: ModuleDef | None
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 {self.width}"]:
        """Returns the block's output, after the last activation."""
        y = self.conv(self.width, 3, self.stride, name="conv1")(x)
        y = normalized(self.norm(name="bn1"), y, relu=True)
        y = self.conv(self.width, 3, name="conv2")(y)
        y = self.last_norm(name="bn2")(y)
        if self.shortcut is not None:
            y = y + self.shortcut(features=self.width, stride=self.stride, name="shortcut")(x)
        return stock.rectified(y)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut past them (Figure 5, right).

    Attributes:
      conv: builds a convolution from (features, kernel_size, stride, groups=...).
      norm: builds a normalisation.
      last_norm: builds the normalisation before the addition.
      shortcut: builds a shortcut from (features, stride); None makes the block plain.
      width: number of bottleneck channels in the paper's nets; the output has four times as many.
      stride: step of the 3x3 convolution in height and width.
      groups: number of groups of the 3x3 convolution (ResNeXt's cardinality).
      width_per_group: the bottleneck has width * width_per_group / 64 channels per group.
      stride_on_first: whether the stride is on the first 1x1 convolution, as in the paper.
    """

    expansion: ClassVar[int] = 4

    conv: ModuleDef
    norm: ModuleDef
    last_norm: ModuleDef
    shortcut: ModuleDef | None
    width: int
    stride: int
    groups: int = 1
    width_per_group: int = 64
    stride_on_first: bool = False

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 4*{self.width}"]:
        """Returns the block's output, after the last activation."""
        inner = self.width * self.width_per_group // 64 * self.groups
        features = self.width * self.expansion
        stride1, stride2 = (self.stride, 1) if self.stride_on_first else (1, self.stride)
        y = self.conv(inner, 1, stride1, name="conv1")(x)
        y = normalized(self.norm(name="bn1"), y, relu=True)
        y = self.conv(inner, 3, stride2, groups=self.groups, name="conv2")(y)
        y = normalized(self.norm(name="bn2"), y, relu=True)
        conv3 = self.conv(features, 1, name="conv3")
        y = normalized(self.last_norm(name="bn3"), conv3(y), source=(y, conv3))
        if self.shortcut is not None:
            y = y + self.shortcut(features=features, stride=self.stride, name="shortcut")(x)
        return stock.rectified(y)
