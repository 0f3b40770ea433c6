"""What is computed on each region: features, then classes and boxes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.detection.model.fpn import Layer, linear_init
from resnet_jax.models import BasicBlock, BottleneckBlock, Conv, Shortcut
from resnet_jax.models.resnet import Stage

Regions = Float[Array, "n b b c"]
Features = Float[Array, "n f"]


class StageHead(nn.Module):
    """The trunk's last stage on every region, and its average: the paper's form.

    Parameters: {"stage4": as in `ResNet`}.

    Attributes:
      block: the trunk's block.
      size: number of blocks.
      norm: builds a normalisation from `use_running_average`.
      width: width of the blocks.
      dtype: dtype of the computation.
      options: of bottleneck blocks: `groups`, `width_per_group`, `stride_on_first`.
    """

    block: type[BasicBlock] | type[BottleneckBlock]
    size: int
    norm: Callable[..., Any]
    width: int = 512
    dtype: DTypeLike | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(self, regions: Regions, train: bool = False) -> Features:
        """Returns a vector per region, in float32; in training by the batch's statistics."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(self.norm, use_running_average=not train)
        shortcut = partial(Shortcut, option="B", conv=conv, norm=norm)
        block = partial(
            self.block,
            norm=norm,
            last_norm=norm,
            shortcut=shortcut,
            width=self.width,
            **dict(self.options),
        )
        x = Stage(block, conv, self.size, 2, 1, 1, name="stage4")(regions)
        return jnp.mean(_exact(x), axis=(1, 2))


class DenseHead(nn.Module):
    """Convolutions, if any, and dense layers: the head of feature pyramids.

    Two dense layers are that of `fasterrcnn_resnet50_fpn` and of Detectron2, four normalised
    convolutions and one dense layer that of `fasterrcnn_resnet50_fpn_v2`.

    Parameters: {"conv1": `Layer`, ..., "dense1": {"kernel", "bias"}, ...}. The first dense kernel's
    input is by row, column and channel.

    Attributes:
      num_convs: number of 3x3 convolutions.
      num_dense: number of dense layers.
      features: number of features of a dense layer.
      norm: builds the convolutions' normalisation.
      dtype: dtype of the computation.
    """

    num_convs: int = 0
    num_dense: int = 2
    features: int = 1024
    norm: Callable[..., Any] | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, regions: Regions, train: bool = False) -> Features:
        """Returns a vector per region, in float32; in training by the batch's statistics."""
        x = regions
        for index in range(1, self.num_convs + 1):
            layer = Layer(x.shape[-1], 3, self.norm, True, self.dtype, name=f"conv{index}")
            x = layer(x, train)
        x = x.reshape(len(x), -1)
        for index in range(1, self.num_dense + 1):
            dense = nn.Dense(
                self.features, dtype=self.dtype, kernel_init=linear_init, name=f"dense{index}"
            )
            x = nn.relu(dense(x))
        return _exact(x)


class Predictor(nn.Module):
    """The two sibling layers: classes and boxes.

    Parameters: {"classes": {"kernel", "bias"}, "boxes": {"kernel", "bias"}}.

    Attributes:
      num_classes: number of classes without the background, which comes last.
      background_box: whether the background, too, has rows of the regressor, as in torchvision.
    """

    num_classes: int
    background_box: bool = False

    @nn.compact
    def __call__(self, x: Features) -> tuple[Float[Array, "n k"], Float[Array, "n b 4"]]:
        """Returns logits [n, classes + 1] and deltas [n, classes (+ 1), 4]."""
        boxes = self.num_classes + self.background_box
        normal = nn.initializers.normal
        logits = nn.Dense(self.num_classes + 1, kernel_init=normal(0.01), name="classes")(x)
        deltas = nn.Dense(4 * boxes, kernel_init=normal(0.001), name="boxes")(x)
        return logits, deltas.reshape(len(x), boxes, 4)


def with_context(features: Features, context: Float[Array, " f"]) -> Float[Array, "n f2"]:
    """Returns each region's features and, after them, those of the whole image (Appendix B).

    Args:
      features: of the regions.
      context: of the box of the whole image, from the same layers.
    """
    context = jnp.broadcast_to(context, (len(features), len(context)))
    return jnp.concatenate([features, context], axis=1)


def _exact(x: Array) -> Array:
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
