"""The named models, one line each."""

import fnmatch
from collections.abc import Callable
from functools import partial
from typing import Any

from resnet_jax.errors import ModelError, did_you_mean, shown
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock
from resnet_jax.models.resnet import ResNet
from resnet_jax.registry import Registry, accepted

_18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
_34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
_50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
_101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=BottleneckBlock)
_152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=BottleneckBlock)


def _cifar(num_layers: int, residual: bool) -> Callable[..., ResNet]:
    """Returns the network of 6n + 2 layers of Section 4.2."""
    return partial(
        ResNet,
        stage_sizes=((num_layers - 2) // 6,) * 3,
        block=BasicBlock,
        stage_widths=(16, 32, 64),
        stem="cifar",
        shortcut="A",
        residual=residual,
    )


MODELS = Registry("model", ModelError, listing="see resnet_jax.list_models()")
"""Functions of (num_classes, **options) that return a network: `flax.linen.Module`s."""

register_model = MODELS.register
"""Decorator that registers a function of (num_classes, **options) that returns a network."""

_NETWORKS: dict[str, Callable[..., ResNet]] = {
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
for _name, _network in _NETWORKS.items():
    register_model(_name)(_network)

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
    """Returns the sorted names of the models that match a shell pattern such as "*_cifar"."""
    return sorted(fnmatch.filter(MODELS, pattern))


def create_model(name: str, num_classes: int = 1000, **options: Any) -> Any:
    """Builds a model by name.

    The ImageNet networks have projection shortcuts ("B"), the CIFAR networks none ("A"), as in
    Table 1 and Section 4.2 of the paper.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      **options: `shortcut`, `stem`, `zero_init_residual`, `replace_stride_with_dilation`,
        `freeze_batch_norm`, `remat`, `norm_axis_name`, `dtype` and `kernels`, see `ResNet`; for
        a custom model, the arguments of its function.

    Returns:
      A `ResNet`; for a custom model, the module that its function returns.

    Raises:
      ModelError: there is no such model or option, or an option has an invalid value.
    """
    build = MODELS[name]
    known = _OPTIONS if _is_named_resnet(build) else [*accepted(build, dict.fromkeys(options))]
    for option in options:
        if option not in known:
            listed = ", ".join(known) or "none"
            raise ModelError(
                f"unknown model option {shown(option)}{did_you_mean(option, known)}; "
                f"choose from {listed}"
            )
    return build(num_classes=num_classes, **options)


def _is_named_resnet(build: Callable[..., Any]) -> bool:
    return isinstance(build, partial) and build.func is ResNet
