"""The feature pyramid (arXiv 1612.03144) of torchvision and Detectron2."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.models import Conv

Maps = Sequence[Float[Array, "n _h _w _c"]]

# He initialisation for layers without activation; as in both houses uniform, by fan-in.
linear_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Layer(nn.Module):
    """A convolution, with a bias or normalised, and perhaps activated.

    Parameters: {"conv": {"kernel", "bias"}} or {"conv": {"kernel"}, "bn"}.

    Attributes:
      features: number of output channels.
      kernel_size: height and width of the kernel.
      norm: builds a normalisation from `use_running_average`; without one there is a bias.
      relu: whether to apply ReLU.
      dtype: dtype of the computation.
      kernel_init: initialiser of the kernel.
    """

    features: int
    kernel_size: int
    norm: Callable[..., Any] | None = None
    relu: bool = False
    dtype: DTypeLike | None = None
    kernel_init: Callable[..., Array] = linear_init

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n h w {self.features}"]:
        """Returns the map; in training normalised by the batch's statistics."""
        x = Conv(
            self.features,
            self.kernel_size,
            use_bias=self.norm is None,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="conv",
        )(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, name="bn")(x)
        return nn.relu(x) if self.relu else x


class FeaturePyramid(nn.Module):
    """Maps of equal width from a trunk's stages, each with what the coarser ones know.

    Parameters: {"lateral1": `Layer`, ..., "output1": `Layer`, ...}, the first of the finest map.

    Attributes:
      channels: number of channels of all maps.
      norm: builds a normalisation from `use_running_average`; without one there are biases.
      dtype: dtype of the computation.
    """

    channels: int = 256
    norm: Callable[..., Any] | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, maps: Maps, train: bool = False
    ) -> list[Float[Array, "n _h _w {self.channels}"]]:
        """Returns a map for each of the trunk's and a last one of every other place of the last.

        Args:
          maps: the trunk's maps, from fine to coarse; each is half of the one before, rounded up.
          train: whether to normalise by the batch's statistics.
        """
        layer = partial(Layer, self.channels, norm=self.norm, dtype=self.dtype)
        outputs = []
        above = None
        for index in range(len(maps), 0, -1):
            lateral = layer(1, name=f"lateral{index}")(maps[index - 1], train)
            above = lateral if above is None else lateral + doubled(above, *lateral.shape[1:3])
            outputs.append(layer(3, name=f"output{index}")(above, train))
        outputs.reverse()
        return [*outputs, outputs[-1][:, ::2, ::2]]


def doubled(x: Float[Array, "n h w c"], rows: int, columns: int) -> Float[Array, "n h2 w2 c"]:
    """Returns a map of twice the size, cut to `rows` and `columns`, by the nearest place.

    For a map of half the size, rounded up, this is PyTorch's interpolation to any size.
    """
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, :rows, :columns]
