"""Residual networks and their plain twins ("Deep Residual Learning", arXiv 1512.03385)."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.models.batch_norm import BatchNorm, normalized
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, ModuleDef, Shortcut
from resnet_jax.models.checks import check_fields
from resnet_jax.models.images import check_images, input_channels
from resnet_jax.models.layers import Conv, MaxPool
from resnet_jax.ops import get_kernels
from resnet_jax.ops.stock import Images

# torch.nn.Linear's: uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in).
_head_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Stem(nn.Module):
    """The first convolution, normalised and activated.

    Attributes:
      conv: builds a convolution from (features, kernel_size, stride).
      norm: builds a normalisation.
      features: number of output channels.
      kernel_size: height and width of the kernel.
      stride: step in height and width.
    """

    conv: ModuleDef
    norm: ModuleDef
    features: int
    kernel_size: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "n h2 w2 {self.features}"]:
        """Returns the activated map."""
        y = self.conv(self.features, self.kernel_size, self.stride, name="conv")(x)
        return normalized(self.norm(name="bn"), y, relu=True)


_STEMS = {
    "imagenet": partial(Stem, kernel_size=7, stride=2),
    "cifar": partial(Stem, kernel_size=3, stride=1),
}


class Stage(nn.Module):
    """Blocks of equal width; the first one reduces the map to the stage's size.

    Attributes:
      block: builds a block from (conv, stride).
      conv: builds a convolution.
      size: number of blocks.
      stride: step of the first block in height and width.
      first_dilation: dilation of the 3x3 convolution of the first block.
      dilation: dilation of the 3x3 convolutions of the others.
    """

    block: ModuleDef
    conv: ModuleDef
    size: int
    stride: int
    first_dilation: int
    dilation: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        """Returns the last block's output."""
        # Dilation has no effect on a 1x1 convolution.
        conv = partial(self.conv, dilation=self.first_dilation)
        x = self.block(conv=conv, stride=self.stride, name="block1")(x)
        conv = partial(self.conv, dilation=self.dilation)
        for index in range(2, self.size + 1):
            x = self.block(conv=conv, stride=1, name=f"block{index}")(x)
        return x


class ResNet(nn.Module):
    """A residual network, or its plain twin, for images of any size and number of channels.

    The defaults are the networks of the paper's Table 1; three stages of 16, 32 and 64 channels
    with the "cifar" stem are those of Section 4.2. `create_model` builds the named networks.

    Variables: `params` {"stem": {"conv", "bn"}, "stage1": {"block1": {"conv1", "bn1", ...,
    "shortcut": {"conv", "bn"}}, ...}, ..., "head": {"kernel", "bias"}} and, for each "bn",
    `batch_stats` {"mean", "var"}. All are float32.

    Attributes:
      stage_sizes: number of blocks per stage; each stage after the first halves the map.
      block: `BasicBlock` or `BottleneckBlock`.
      num_classes: number of logits.
      stage_widths: width of the blocks of each stage; the stem has that of the first.
      stem: "imagenet", 7x7 with stride 2 and a 3x3 max pool with stride 2; "cifar", 3x3; or a
        function of (conv, norm, features) that returns a custom module named "stem" with its
        pooling. If it builds its layers as `Stem` does, everything here works with it.
      residual: whether blocks have shortcuts; False for a plain network.
      shortcut: "A", "B" or "C" (see `Shortcut`); ignored by a plain network.
      groups: number of groups of the bottleneck's 3x3 convolution (ResNeXt).
      width_per_group: bottleneck channels per group and 64 of width (ResNeXt, wide).
      stride_on_first: whether the bottleneck's stride is on its first 1x1 convolution, as in the
        paper ("v1"), not on the 3x3, as in torchvision ("v1.5").
      zero_init_residual: whether each block's last scale starts at zero, so that the block starts
        as its shortcut.
      replace_stride_with_dilation: for each stage after the first, whether dilation of the 3x3
        convolutions replaces its stride, as in torchvision; bottlenecks only.
      freeze_batch_norm: whether training, too, normalises by the running statistics and leaves
        them unchanged. Scales and biases still have gradients.
      folded: whether convolutions have biases and batch normalisation and `batch_stats` are
        absent, as `resnet_jax.fold_batch_norm` returns it.
      remat: whether the backward pass keeps only the blocks' inputs and recomputes the other
        activations: the same gradients with less memory and a second forward pass.
      norm_axis_name: mesh axis, or axes, of `jax.shard_map` over which batch statistics are
        shared; by default they are per shard. Without `shard_map`, in a `jax.jit` of sharded
        arrays, the statistics are those of the whole batch.
      dtype: dtype of the computation; by default the promoted dtype of images and parameters.
      kernels: "stock", JAX's own operations, correct in every transformation; "cpu" or "gpu",
        faster implementations for that device with the same results, without forward-mode
        differentiation; "auto", those for JAX's default device.

    Raises:
      ModelError: a value is invalid, or does not fit the others.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] | type[BottleneckBlock]
    num_classes: int = 1000
    stage_widths: Sequence[int] = (64, 128, 256, 512)
    stem: str | ModuleDef = "imagenet"
    residual: bool = True
    shortcut: str = "B"
    groups: int = 1
    width_per_group: int = 64
    stride_on_first: bool = False
    zero_init_residual: bool = False
    replace_stride_with_dilation: Sequence[bool] | None = None
    freeze_batch_norm: bool = False
    remat: bool = False
    folded: bool = False
    norm_axis_name: str | tuple[str, ...] | None = None
    dtype: DTypeLike | None = None
    kernels: str = "stock"

    def __post_init__(self) -> None:
        check_fields({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        # A module with lists, as in configurations, would not be hashable.
        for name in ("stage_sizes", "stage_widths", "replace_stride_with_dilation"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "n {self.num_classes}"]:
        """Returns the logits in float32 (float64 if images or parameters are).

        Args:
          images: normalised images.
          train: whether to normalise by the batch's statistics and update the running ones, for
            which "batch_stats" must be mutable.
        """
        x = next(reversed(self.features(images, train).values()))
        x = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=(1, 2))
        head = nn.Dense(
            self.num_classes,
            kernel_init=_head_kernel_init,
            bias_init=partial(_head_bias_init, fan_in=x.shape[-1]),
            name="head",
        )
        return head(x)

    @nn.compact
    def features(
        self, images: Images, train: bool = False
    ) -> OrderedDict[str, Float[Array, "n _h _w _c"]]:
        """Returns the maps "stem", "stage1", "stage2", ... in this order, in the compute dtype.

        "stem" is the activated map before the max pool. The arguments are those of `__call__`.
        """
        params = self.variables.get("params", {})
        known = isinstance(self.stem, str) and "stem" in params
        check_images(images, input_channels(self, self.variables) if known else None)
        kernels = get_kernels(self.kernels)
        conv = partial(Conv, use_bias=self.folded, dtype=self.dtype, kernels=kernels)
        norm = partial(
            _no_norm if self.folded else BatchNorm,
            use_running_average=not train or self.freeze_batch_norm,
            axis_name=self.norm_axis_name,
            dtype=self.dtype,
            kernels=kernels,
        )
        last_norm = norm
        if self.zero_init_residual:
            last_norm = partial(norm, scale_init=nn.initializers.zeros)
        shortcut = None
        if self.residual:
            shortcut = partial(Shortcut, option=self.shortcut, conv=conv, norm=norm)
        block_class = nn.remat(self.block) if self.remat else self.block
        block = partial(block_class, norm=norm, last_norm=last_norm, shortcut=shortcut)
        if self.block is BottleneckBlock:
            block = partial(
                block,
                groups=self.groups,
                width_per_group=self.width_per_group,
                stride_on_first=self.stride_on_first,
            )

        stem = _STEMS[self.stem] if isinstance(self.stem, str) else self.stem
        x = stem(conv=conv, norm=norm, features=self.stage_widths[0], name="stem")(images)
        features = OrderedDict(stem=x)
        if self.stem == "imagenet":
            x = MaxPool(kernels, name="pool")(x)
        replaced = (False, *(self.replace_stride_with_dilation or [False] * len(self.stage_sizes)))
        dilation = 1
        for index, size in enumerate(self.stage_sizes):
            name = f"stage{index + 1}"
            stride, first_dilation = 1 if index == 0 else 2, dilation
            if replaced[index]:
                stride, dilation = 1, 2 * dilation
            stage_block = partial(block, width=self.stage_widths[index])
            stage = Stage(stage_block, conv, size, stride, first_dilation, dilation, name=name)
            x = features[name] = stage(x)
        return features


def _no_norm(**_: object) -> Callable[[Array], Array]:
    return lambda x: x


def _head_bias_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike, fan_in: int) -> Array:
    return nn.initializers.uniform(2 / fan_in**0.5)(key, shape, dtype) - 1 / fan_in**0.5
