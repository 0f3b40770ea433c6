"""A small residual network of stock Flax layers, with the names of ours."""

import functools

import jax.numpy as jnp
from flax import linen as nn


class TwinNorm(nn.Module):
    """nn.BatchNorm, with PyTorch's running statistics beside it."""

    train: bool

    @nn.compact
    def __call__(self, x):
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        stats = {"mean": mean.value, "var": var.value}
        norm = nn.BatchNorm(not self.train, use_fast_variance=False, dtype=x.dtype, parent=None)
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
        y, _ = norm.apply(variables, x, mutable=["batch_stats"])
        if self.train:
            axes = (0, 1, 2)
            mean.value = 0.9 * mean.value + 0.1 * jnp.mean(x, axes)
            var.value = 0.9 * var.value + 0.1 * jnp.var(x, axes, ddof=1)
        return y


class TwinLayer(nn.Module):
    """A convolution, normalised."""

    features: int
    size: int
    stride: int
    train: bool

    @nn.compact
    def __call__(self, x):
        kernel, padding = (self.size, self.size), self.size // 2
        conv = nn.Conv(self.features, kernel, self.stride, padding, use_bias=False, name="conv")
        return TwinNorm(self.train, name="bn")(conv(x))


class TwinBlock(nn.Module):
    width: int
    stride: int
    train: bool
    shortcut: str

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(TwinNorm, self.train)
        y = nn.relu(norm(name="bn1")(conv(self.width, (1, 1), name="conv1")(x)))
        y = conv(self.width, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = norm(name="bn3")(conv(4 * self.width, (1, 1), name="conv3")(y))
        if self.shortcut == "B":
            x = TwinLayer(4 * self.width, 1, self.stride, self.train, name="shortcut")(x)
        else:
            missing = 4 * self.width - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class TwinStage(nn.Module):
    width: int
    stride: int
    train: bool
    shortcut: str

    @nn.compact
    def __call__(self, x):
        return TwinBlock(self.width, self.stride, self.train, self.shortcut, name="block1")(x)


class Twin(nn.Module):
    """Two stages of one bottleneck, 4 and 8 wide, with the parameters' names of `ResNet`."""

    num_classes: int
    shortcut: str = "B"

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(TwinLayer(4, 7, 2, train, name="stem")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = TwinStage(4, 1, train, self.shortcut, name="stage1")(x)
        x = TwinStage(8, 2, train, self.shortcut, name="stage2")(x)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, (1, 2)))
