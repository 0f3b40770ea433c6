"""PyTorch twins of the networks, written for the tests with nothing but torch.nn.

The ImageNet nets carry torchvision's parameter names, the CIFAR nets those of the most used PyTorch
implementation (layer1.0.conv1, shortcut.0, linear).
"""

import functools
import re

import torch
from torch import nn
from torch.nn import functional as F

# The tests' arrays are small and their processes share the processors: more threads only wait.
torch.set_num_threads(1)


def conv(in_channels, channels, size, stride=1, groups=1, dilation=1):
    padding = dilation * (size - 1) // 2
    return nn.Conv2d(in_channels, channels, size, stride, padding, dilation, groups, bias=False)


class PaddedIdentity(nn.Module):
    """Option A: every stride-th pixel, and zero channels on both sides."""

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.stride = stride
        self.before = (channels - in_channels) // 2
        self.behind = channels - in_channels - self.before

    def forward(self, x):
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.behind))


def make_shortcut(option, in_channels, channels, stride):
    if option is None:
        return None
    changes_shape = stride != 1 or in_channels != channels
    if option == "C" or (option == "B" and changes_shape):
        return nn.Sequential(conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))
    if changes_shape:
        return PaddedIdentity(in_channels, channels, stride)
    return nn.Identity()


class Block(nn.Module):
    """The convolutions, each normalised and activated, the last one after the addition."""

    def __init__(self, convs, shortcut_name, shortcut):
        super().__init__()
        self.num_convs = len(convs)
        self.shortcut_name = shortcut_name if shortcut is not None else None
        for index, module in enumerate(convs, start=1):
            setattr(self, f"conv{index}", module)
            setattr(self, f"bn{index}", nn.BatchNorm2d(module.out_channels))
            setattr(self, f"relu{index}", nn.ReLU())
        if shortcut is not None:
            setattr(self, shortcut_name, shortcut)

    def forward(self, x):
        y = x
        for index in range(1, self.num_convs + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            if index == self.num_convs and self.shortcut_name is not None:
                y = y + getattr(self, self.shortcut_name)(x)
            y = getattr(self, f"relu{index}")(y)
        return y


class BasicBlock(Block):
    expansion = 1

    def __init__(self, in_channels, width, stride, option, dilation, shortcut_name):
        assert dilation == 1
        convs = [conv(in_channels, width, 3, stride), conv(width, width, 3)]
        super().__init__(convs, shortcut_name, make_shortcut(option, in_channels, width, stride))


class Bottleneck(Block):
    expansion = 4

    def __init__(
        self,
        in_channels,
        width,
        stride,
        option,
        dilation,
        shortcut_name,
        groups=1,
        width_per_group=64,
        stride_on_first=False,
    ):
        inner = int(width * (width_per_group / 64.0)) * groups
        strides = (stride, 1) if stride_on_first else (1, stride)
        convs = [
            conv(in_channels, inner, 1, strides[0]),
            conv(inner, inner, 3, strides[1], groups, dilation),
            conv(inner, 4 * width, 1),
        ]
        super().__init__(
            convs, shortcut_name, make_shortcut(option, in_channels, 4 * width, stride)
        )


class ResNet(nn.Module):
    def __init__(
        self,
        block,
        sizes,
        num_classes,
        *,
        widths=(64, 128, 256, 512),
        stem="imagenet",
        shortcut="B",
        residual=True,
        replace_stride_with_dilation=(False, False, False),
        in_channels=3,
        head_name="fc",
        shortcut_name="downsample",
        **block_options,
    ):
        super().__init__()
        self.stem, self.head_name = stem, head_name
        channels, dilation = widths[0], 1
        self.conv1 = conv(in_channels, channels, *((7, 2) if stem == "imagenet" else (3, 1)))
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        for stage, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            stride, previous_dilation = (1 if stage == 0 else 2), dilation
            if stage > 0 and replace_stride_with_dilation[stage - 1]:
                stride, dilation = 1, dilation * stride
            blocks = []
            for index in range(size):
                blocks.append(
                    block(
                        channels,
                        width,
                        stride if index == 0 else 1,
                        shortcut if residual else None,
                        previous_dilation if index == 0 else dilation,
                        shortcut_name,
                        **block_options,
                    )
                )
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(sizes)
        setattr(self, head_name, nn.Linear(channels, num_classes))

    def features(self, x):
        x = self.relu1(self.bn1(self.conv1(x)))
        features = {"stem": x}
        if self.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.num_stages + 1):
            x = features[f"stage{stage}"] = getattr(self, f"layer{stage}")(x)
        return features

    def forward(self, x):
        x = list(self.features(x).values())[-1]
        return getattr(self, self.head_name)(x.mean((2, 3)))


_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def make_twin(name, num_classes=1000, **options):
    """Returns the PyTorch twin of `resnet_jax.create_model(name, num_classes, **options)`."""
    kind, layers, suffix = re.fullmatch(
        r"(plain|resnet|resnext|wide_resnet)(\d+)_?(.*)", name
    ).groups()
    options = {"residual": kind != "plain", **options}
    if suffix == "cifar":
        cifar = {
            "widths": (16, 32, 64),
            "stem": "cifar",
            "shortcut": "A",
            "head_name": "linear",
            "shortcut_name": "shortcut",
        }
        sizes = ((int(layers) - 2) // 6,) * 3
        return ResNet(BasicBlock, sizes, num_classes, **{**cifar, **options})
    if kind == "resnext":
        groups, width = re.fullmatch(r"(\d+)x(\d+)d", suffix).groups()
        options.update(groups=int(groups), width_per_group=int(width))
    elif kind == "wide_resnet":
        options.update(width_per_group=128)
    elif suffix == "v1":
        options.update(stride_on_first=True)
    block = Bottleneck if int(layers) >= 50 else BasicBlock
    return ResNet(block, _SIZES[int(layers)], num_classes, **options)


def randomise(module, seed, residual_scale=0.6):
    """Gives a twin random weights, scales, biases and running statistics.

    As in trained networks, what a block adds to its shortcut is the smaller part; else rounding
    errors double from block to block. The deeper the net, the smaller `residual_scale` must be.
    """
    generator = torch.Generator().manual_seed(seed)
    last_norms = [
        getattr(part, f"bn{part.num_convs}") for part in module.modules() if isinstance(part, Block)
    ]
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", generator=generator)
            elif isinstance(part, nn.BatchNorm2d):
                high = residual_scale if part in last_norms else 1.5
                part.weight.uniform_(high / 3, high, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
                part.running_mean.normal_(0, 0.3, generator=generator)
                part.running_var.uniform_(0.5, 2.0, generator=generator)
            elif isinstance(part, nn.Linear):
                part.weight.normal_(0, 0.1, generator=generator)
                part.bias.normal_(0, 0.3, generator=generator)
    return module


def keep_off_kinks(module, images):
    """Changes weights so that no activation is at a kink when a twin trains on these images.

    There the slope jumps, and a rounding error in the forward pass becomes a large one in the
    gradients, also between two runs of PyTorch. For the activations the biases are moved: each
    channel's zero is put in the middle of the widest gap between the inner half of its values. For
    the max pool the stem's kernels are drawn anew that leave a window without a clear winner.
    """
    if module.stem == "imagenet":
        _draw_clear_winners(module.conv1, images)

    def shift(norm, _, inputs):
        (x,) = inputs
        values = x.detach().transpose(0, 1).flatten(1).sort().values
        quarter = values.shape[1] // 4
        inner = values[:, quarter : values.shape[1] - quarter]
        widest = inner.diff().argmax(1, keepdim=True)
        shift = -(inner.gather(1, widest) + inner.gather(1, widest + 1)).flatten() / 2
        with torch.no_grad():
            norm.bias += shift
        return (x + shift[:, None, None],)

    hooks = []
    for parent in module.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                norm = getattr(parent, name.replace("relu", "bn"))
                hook = functools.partial(shift, norm)
                hooks.append(child.register_forward_pre_hook(hook))
    statistics = [buffer.clone() for buffer in module.buffers()]
    module.train()
    module(images)
    for hook in hooks:
        hook.remove()
    for buffer, value in zip(module.buffers(), statistics, strict=True):
        buffer.copy_(value)
    return module


def _draw_clear_winners(stem, images):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        while True:
            maps = stem(images)
            padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
            windows = padded.unfold(2, 3, 2).unfold(3, 3, 2).flatten(-2)
            first, second = windows.topk(2, -1).values.unbind(-1)
            lead = (first - second).transpose(0, 1).flatten(1).min(1).values
            close = lead < 1e-4 * maps.std((0, 2, 3))
            if not close.any():
                return
            drawn = torch.empty_like(stem.weight)
            nn.init.kaiming_normal_(drawn, mode="fan_out", generator=generator)
            stem.weight[close] = drawn[close]


_LEAVES = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


def _path(name):
    """Returns where a PyTorch entry stands in the variables, as (module path, leaf in PyTorch)."""
    *module, leaf = name.split(".")
    if module[0] in ("fc", "linear"):
        return ("head",), leaf
    if module[0] in ("conv1", "bn1"):
        return ("stem", module[0].removesuffix("1")), leaf
    stage, block, part, *rest = module
    path = (stage.replace("layer", "stage"), f"block{int(block) + 1}")
    if part in ("downsample", "shortcut"):
        return (*path, "shortcut", ("conv", "bn")[int(rest[0])]), leaf
    return (*path, part), leaf


def to_tree(named_tensors):
    """Returns PyTorch's named tensors as nested dictionaries with the layout of `params`."""
    tree = {}
    for name, tensor in named_tensors:
        if name.endswith("num_batches_tracked"):
            continue
        path, leaf = _path(name)
        value = tensor.detach().numpy().copy()
        if value.ndim > 1:
            leaf = "kernel"
            value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        elif leaf == "weight":
            leaf = "scale"
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[_LEAVES.get(leaf, leaf)] = value
    return tree


def to_variables(module):
    """Returns a twin's parameters and running statistics as Flax variables of NumPy arrays."""
    return {
        "params": to_tree(module.named_parameters()),
        "batch_stats": to_tree(module.named_buffers()),
    }
