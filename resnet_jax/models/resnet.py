"""Residual networks and their plain twins ("Deep Residual Learning", arXiv 1512.03385)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from resnet_jax.models.batch_norm import BatchNorm, normalized
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, ModuleDef, Shortcut
from resnet_jax.models.checks import check_fields, check_images
from resnet_jax.models.layers import Conv
from resnet_jax.ops import get_kernels

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
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        """Returns the activated map."""
        x = self.conv(self.features, self.kernel_size, self.stride, name="conv")(x)
        return normalized(self.norm(name="bn"), x, relu=True)


class Stage(nn.Module):
    """Blocks of equal width; the first one takes the step to the stage's map size.

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
        # On a 1x1 convolution a dilation has no effect.
        conv = partial(self.conv, dilation=self.first_dilation)
        x = self.block(conv=conv, stride=self.stride, name="block1")(x)
        conv = partial(self.conv, dilation=self.dilation)
        for index in range(2, self.size + 1):
            x = self.block(conv=conv, stride=1, name=f"block{index}")(x)
        return x


class ResNet(nn.Module):
    """A residual network, or its plain twin, for images of any size and number of channels.

    Table 1 of the paper with the defaults; Section 4.2 with three stages of 16, 32 and 64
    channels and the "cifar" stem. `create_model` builds the named ones.

    Variables: `params` {"stem": {"conv", "bn"}, "stage1": {"block1": {"conv1", "bn1", ...,
    "shortcut": {"conv", "bn"}}, ...}, ..., "head": {"kernel", "bias"}} and, for every "bn",
    `batch_stats` {"mean", "var"}. All are float32.

    Attributes:
        stage_sizes: number of blocks in each stage; every stage after the first halves the map.
        block: `BasicBlock` or `BottleneckBlock`.
        num_classes: number of logits.
        stage_widths: width of the blocks of each stage; the stem has that of the first.
        stem: "imagenet", 7x7 with stride 2 and a 3x3 max pool with stride 2, or "cifar", 3x3.
        residual: False leaves the shortcuts out.
        shortcut: "A", "B" or "C" (see `Shortcut`); without effect on a plain network.
        groups: number of groups of the bottleneck's 3x3 convolution (ResNeXt).
        width_per_group: channels of the bottleneck for each group and 64 of width (ResNeXt, wide).
        stride_on_first: the bottleneck's stride sits on its first 1x1 convolution, as in the
            paper ("v1"), not on the 3x3, as in torchvision ("v1.5").
        zero_init_residual: every block starts as its shortcut: its last scale is zero at first.
        replace_stride_with_dilation: for each stage after the first, whether its stride gives way
            to a dilation of the 3x3 convolutions, as in torchvision; bottlenecks only.
        freeze_batch_norm: normalise by the running statistics, and leave them as they are, also
            while training. Scales and biases still have gradients.
        folded: the convolutions have biases and there is no batch normalisation, nor
            `batch_stats`; what `resnet_jax.fold_batch_norm` returns.
        remat: keep only the blocks' inputs for the backward pass and compute the rest of their
            activations anew; the same gradients from less memory, at the cost of a second forward
            pass.
        norm_axis_name: mesh axis, or axes, of `jax.shard_map`, over which the batch's statistics
            are shared. By default every shard has its own. Without `shard_map`, under a `jax.jit`
            of sharded arrays, the statistics are the whole batch's.
        dtype: type to compute in; by default what the images and the parameters promote to.
        kernels: "stock", JAX's own operations, right in every transformation; "cpu" or "gpu",
            faster forms for such a device with the same results, without forward mode; "auto",
            those for JAX's default device.

    Raises:
        ModelError: for a value that is not one of those, or that does not go with the others.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] | type[BottleneckBlock]
    num_classes: int = 1000
    stage_widths: Sequence[int] = (64, 128, 256, 512)
    stem: str = "imagenet"
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
        check_fields(self)
        # Lists, as configurations hold them, would leave the module without a hash.
        for name in ("stage_sizes", "stage_widths", "replace_stride_with_dilation"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> Float[Array, "n num_classes"]:
        """Returns the logits, in float32 (in float64 where images or parameters have it).

        Args:
            images: normalised images.
            train: normalise by the batch's statistics and update the running ones; make
                "batch_stats" mutable then.
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
        self, images: Float[Array, "n h w c"], train: bool = False
    ) -> OrderedDict[str, Float[Array, "n h2 w2 c2"]]:
        """Returns the maps "stem", "stage1", "stage2", ... in this order, in the compute dtype.

        "stem" is the activated map before the max pool. Arguments are those of `__call__`.
        """
        check_images(self, images)
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

        kernel_size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = Stem(conv, norm, self.stage_widths[0], kernel_size, stride, name="stem")
        x = stem(images)
        features = OrderedDict(stem=x)
        if self.stem == "imagenet":
            x = kernels.max_pool(x)
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
