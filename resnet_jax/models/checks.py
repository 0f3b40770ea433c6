"""What a network checks before it takes its fields and its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from resnet_jax import ops
from resnet_jax.models.blocks import BottleneckBlock
from resnet_jax.models.errors import ModelError, did_you_mean, shown

if TYPE_CHECKING:
    from resnet_jax.models.resnet import ResNet

_CHOICES = {
    "stem": ("imagenet", "cifar"),
    "shortcut": ("A", "B", "C"),
    "kernels": ops.NAMES,
}
_FLAGS = (
    "residual",
    "stride_on_first",
    "zero_init_residual",
    "freeze_batch_norm",
    "remat",
    "folded",
)
_BOTTLENECK_ONLY = {"groups": 1, "width_per_group": 64, "stride_on_first": False}


def check_fields(model: ResNet) -> None:
    """Raises ModelError if a field has a value that it cannot have, alone or with the others."""
    for name, choices in _CHOICES.items():
        value = getattr(model, name)
        if value not in choices:
            hint = did_you_mean(value, choices)
            raise ModelError(f"unknown {name} {shown(value)}{hint} There are {', '.join(choices)}")
    for name in _FLAGS:
        value = getattr(model, name)
        if not isinstance(value, bool):
            raise ModelError(f"{name} is True or False, not {shown(value)}")
    for name in ("num_classes", "groups", "width_per_group"):
        check_count(name, getattr(model, name))
    for name in ("stage_sizes", "stage_widths"):
        values = getattr(model, name)
        if not (_is_sequence(values) and values and all(_is_count(value) for value in values)):
            raise ModelError(f"{name} holds a whole number for each stage, not {shown(values)}")
    num_stages = len(model.stage_sizes)
    if len(model.stage_widths) != num_stages:
        raise ModelError(
            f"stage_widths holds a number for each of the {num_stages} stages,"
            f" not {shown(model.stage_widths)}"
        )
    _check_dilation(model.replace_stride_with_dilation, num_stages)
    if model.block is not BottleneckBlock:
        for name, default in _BOTTLENECK_ONLY.items():
            if getattr(model, name) != default:
                raise ModelError(f"{name} belongs to bottleneck blocks; leave it at {default}")
        if any(model.replace_stride_with_dilation or ()):
            raise ModelError(
                "replace_stride_with_dilation needs bottleneck blocks, as in 'resnet50'; leave it"
            )
    if model.zero_init_residual and not model.residual:
        raise ModelError("zero_init_residual would blank a plain network; leave it at False")
    _check_axis_name(model.norm_axis_name)
    _check_dtype(model.dtype)


def check_count(name: str, value: Any) -> None:
    """Raises ModelError unless a value is a whole number of at least 1."""
    if not _is_count(value):
        raise ModelError(f"{name} is a whole number of at least 1, not {shown(value)}")


def check_images(model: ResNet, images: ArrayLike) -> None:
    """Raises ModelError unless the images are [n, h, w, c] with the channels of the stem."""
    shape = np.shape(images)
    if len(shape) != 4 or 0 in shape[1:]:
        raise ModelError(f"images have the shape [n, h, w, c], none of them 0; not {list(shape)}")
    params = model.variables.get("params", {})
    if "stem" in params:
        channels = params["stem"]["conv"]["kernel"].shape[2]
        if shape[3] != channels:
            raise ModelError(
                f"the images have {shape[3]} channels and the model takes {channels}; convert the"
                " images, or initialise a model with images like these"
            )


def image_sides(model: ResNet, image_size: Any) -> tuple[int, int]:
    """Returns height and width of the images; for None the paper's.

    Raises ModelError unless `image_size` is a number of pixels, or two.
    """
    if image_size is None:
        image_size = 32 if model.stem == "cifar" else 224
    sides = tuple(image_size) if _is_sequence(image_size) else (image_size,) * 2
    if len(sides) != 2 or not all(map(_is_count, sides)):
        raise ModelError(f"image_size is a number of pixels, or two, not {shown(image_size)}")
    return sides


def _check_dilation(value: Any, num_stages: int) -> None:
    if value is None:
        return
    is_right = _is_sequence(value) and len(value) == num_stages - 1
    if not (is_right and all(isinstance(flag, bool) for flag in value)):
        raise ModelError(
            f"replace_stride_with_dilation holds True or False for each of the {num_stages - 1}"
            f" stages after the first, not {shown(value)}"
        )


def _check_axis_name(value: Any) -> None:
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"norm_axis_name is None or the name of a mesh axis, such as 'data', not {shown(value)}"
        )


def _check_dtype(value: Any) -> None:
    if value is None:
        return
    try:
        is_float = jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        is_float = False
    if not is_float:
        raise ModelError(
            f"dtype is a floating-point type such as 'bfloat16' or 'float32', not {shown(value)}"
        )


def _is_count(value: Any) -> bool:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_whole and int(value) >= 1


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
