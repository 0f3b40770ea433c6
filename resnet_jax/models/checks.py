"""Checks of a network's fields."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from resnet_jax import ops
from resnet_jax.errors import ModelError, did_you_mean, shown
from resnet_jax.models.blocks import BottleneckBlock

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


def check_fields(fields: Mapping[str, Any]) -> None:
    """Raises a `ModelError` if a field's value is invalid, alone or with the others."""
    for name, choices in _CHOICES.items():
        value = fields[name]
        if value not in choices and not (name == "stem" and callable(value)):
            hint = did_you_mean(value, choices)
            listed = ", ".join(choices)
            raise ModelError(f"unknown {name} {shown(value)}{hint}; choose from {listed}")
    for name in _FLAGS:
        if not isinstance(fields[name], bool):
            raise ModelError(f"{name} must be True or False, not {shown(fields[name])}")
    for name in ("num_classes", "groups", "width_per_group"):
        check_count(name, fields[name])
    for name in ("stage_sizes", "stage_widths"):
        values = fields[name]
        if not (is_sequence(values) and values and all(is_count(value) for value in values)):
            raise ModelError(f"{name} must have an integer per stage, not {shown(values)}")
    num_stages = len(fields["stage_sizes"])
    if len(fields["stage_widths"]) != num_stages:
        raise ModelError(
            f"stage_widths must have a number for each of the {num_stages} stages,"
            f" not {shown(fields['stage_widths'])}"
        )
    dilated = fields["replace_stride_with_dilation"]
    _check_dilation(dilated, num_stages)
    if fields["block"] is not BottleneckBlock:
        for name, default in _BOTTLENECK_ONLY.items():
            if fields[name] != default:
                raise ModelError(f"{name} needs bottleneck blocks; leave it at {default}")
        if any(dilated or ()):
            raise ModelError(
                "replace_stride_with_dilation needs bottleneck blocks, as in 'resnet50'; omit it"
            )
    if fields["zero_init_residual"] and not fields["residual"]:
        raise ModelError("zero_init_residual would zero a plain network; leave it at False")
    _check_axis_name(fields["norm_axis_name"])
    _check_dtype(fields["dtype"])


def check_count(name: str, value: Any) -> None:
    """Raises a `ModelError` unless a value is an integer of at least 1."""
    if not is_count(value):
        raise ModelError(f"{name} must be an integer of at least 1, not {shown(value)}")


def _check_dilation(value: Any, num_stages: int) -> None:
    if value is None:
        return
    is_right = is_sequence(value) and len(value) == num_stages - 1
    if not (is_right and all(isinstance(flag, bool) for flag in value)):
        raise ModelError(
            f"replace_stride_with_dilation must have True or False for each of the {num_stages - 1}"
            f" stages after the first, not {shown(value)}"
        )


def _check_axis_name(value: Any) -> None:
    names = value if isinstance(value, tuple) else (value,)
    if value is not None and not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"norm_axis_name must be None or a mesh axis, such as 'data', not {shown(value)}"
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
            f"dtype must be a floating-point type, such as 'bfloat16', not {shown(value)}"
        )


def is_count(value: Any) -> bool:
    """Whether a value is an integer of at least 1."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_whole and int(value) >= 1


def is_sequence(value: Any) -> bool:
    """Whether a value is a sequence other than a string."""
    return isinstance(value, Sequence) and not isinstance(value, str)
