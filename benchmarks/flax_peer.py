"""The Flax peer: the same networks from plain `nn.Conv`, `nn.BatchNorm` and `nn.max_pool`."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

_SIZES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class _Block(nn.Module):
    """A residual block of 3x3 convolutions, or a bottleneck if `expansion` is 4."""

    conv: Any
    norm: Any
    width: int
    stride: int
    expansion: int
    projects: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.expansion == 1:
            y = nn.relu(self.norm()(self.conv(self.width, (3, 3), self.stride, padding=1)(x)))
            y = self.norm()(self.conv(self.width, (3, 3), padding=1)(y))
        else:
            y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
            y = nn.relu(self.norm()(self.conv(self.width, (3, 3), self.stride, padding=1)(y)))
            y = self.norm()(self.conv(self.width * self.expansion, (1, 1))(y))
        if x.shape != y.shape and self.projects:
            x = self.norm()(self.conv(y.shape[-1], (1, 1), self.stride)(x))
        elif x.shape != y.shape:
            half = (y.shape[-1] - x.shape[-1]) // 2
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0),) * 3 + ((half, half),))
        return nn.relu(x + y)


class FlaxResNet(nn.Module):
    """A residual network; CIFAR networks have shortcuts of option A, others of option B."""

    sizes: tuple[int, ...]
    expansion: int
    num_classes: int
    cifar: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns the logits."""
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        if self.cifar:
            x = nn.relu(norm()(conv(16, (3, 3), padding=1)(x)))
        else:
            x = nn.relu(norm()(conv(64, (7, 7), 2, padding=3)(x)))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, size in enumerate(self.sizes):
            width = (16 if self.cifar else 64) * 2**stage
            for index in range(size):
                stride = 2 if stage and not index else 1
                block = _Block(conv, norm, width, stride, self.expansion, not self.cifar)
                x = block(x)
        return nn.Dense(self.num_classes)(jnp.mean(x, (1, 2)).astype(jnp.float32))


def flax_peer(name: str, num_classes: int, dtype: DTypeLike = jnp.float32) -> FlaxResNet:
    """Returns the peer of `create_model(name, num_classes)`: resnet18, 34, 50 or resnetN_cifar."""
    if name.endswith("_cifar"):
        blocks = (int(name.removeprefix("resnet").removesuffix("_cifar")) - 2) // 6
        return FlaxResNet((blocks,) * 3, 1, num_classes, True, dtype)
    return FlaxResNet(_SIZES[name], 4 if name == "resnet50" else 1, num_classes, False, dtype)
