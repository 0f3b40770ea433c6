"""The named models: a line each."""

import fnmatch
from collections.abc import Callable
from functools import partial

from resnet_jax.models.blocks import BasicBlock, BottleneckBlock
from resnet_jax.models.errors import ModelError, did_you_mean, shown
from resnet_jax.models.resnet import ResNet

_18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
_34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
_50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
_101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=BottleneckBlock)
_152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=BottleneckBlock)


def _cifar(num_layers: int, residual: bool) -> Callable[..., ResNet]:
    """Returns the net of 6n + 2 layers of Section 4.2."""
    return partial(
        ResNet,
        stage_sizes=((num_layers - 2) // 6,) * 3,
        block=BasicBlock,
        stage_widths=(16, 32, 64),
        stem="cifar",
        shortcut="A",
        residual=residual,
    )


_MODELS: dict[str, Callable[..., ResNet]] = {
    "plain18": partial(_18, residual=False),
    "plain34": partial(_34, residual=False),
    "resnet18": _18,
    "resnet34": _34,
    "resnet50": _50,
    "resnet101": _101,
    "resnet152": _152,
    "resnet50_v1": partial(_50, stride_on_first=True),
    "resnet101_v1": partial(_101, stride_on_first=True),
    "resnet152_v1": partial(_152, stride_on_first=True),
    "resnext50_32x4d": partial(_50, groups=32, width_per_group=4),
    "resnext101_32x8d": partial(_101, groups=32, width_per_group=8),
    "resnext101_64x4d": partial(_101, groups=64, width_per_group=4),
    "wide_resnet50_2": partial(_50, width_per_group=128),
    "wide_resnet101_2": partial(_101, width_per_group=128),
    **{f"plain{n}_cifar": _cifar(n, residual=False) for n in (20, 32, 44, 56, 110)},
    **{f"resnet{n}_cifar": _cifar(n, residual=True) for n in (20, 32, 44, 56, 110, 1202)},
}

_OPTIONS = (
    "shortcut",
    "stem",
    "zero_init_residual",
    "replace_stride_with_dilation",
    "freeze_batch_norm",
    "remat",
    "norm_axis_name",
    "dtype",
    "kernels",
)


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the models that match a shell pattern such as "*_cifar", sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def create_model(name: str, num_classes: int = 1000, **options: object) -> ResNet:
    """Builds a model by its name.

    The ImageNet nets have projection shortcuts ("B") and the CIFAR nets have none ("A"), as in
    Table 1 and Section 4.2 of the paper.

    Args:
        name: one of `list_models()`.
        num_classes: number of logits.
        **options: `shortcut`, `stem`, `zero_init_residual`, `replace_stride_with_dilation`,
            `freeze_batch_norm`, `remat`, `norm_axis_name`, `dtype` and `kernels`, as `ResNet`
            describes them.

    Raises:
        ModelError: if there is no such model or option, or if an option has a wrong value.
    """
    if not isinstance(name, str) or name not in _MODELS:
        hint = did_you_mean(name, _MODELS)
        raise ModelError(f"unknown model {shown(name)}{hint} See resnet_jax.list_models()")
    for option in options:
        if option not in _OPTIONS:
            hint = did_you_mean(option, _OPTIONS)
            choices = ", ".join(_OPTIONS)
            raise ModelError(f"unknown model option {shown(option)}{hint} There are {choices}")
    return _MODELS[name](num_classes=num_classes, **options)
