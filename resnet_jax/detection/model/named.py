"""The named detectors."""

import dataclasses
import fnmatch
from typing import Any

from resnet_jax.detection.model.detector import Detector
from resnet_jax.detection.model.fpn import FeaturePyramid
from resnet_jax.detection.model.heads import DenseHead, StageHead
from resnet_jax.detection.model.rpn import RPNHead
from resnet_jax.detection.model.styles import Style, get_style
from resnet_jax.errors import ModelError, did_you_mean, shown
from resnet_jax.models import BatchNorm, BottleneckBlock, ResNet, create_model

_TRUNKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet50_v1", "resnet101_v1")
_LAYOUTS = ("c4", "fpn", "fpn_v2")
_NAMES = {
    f"faster_rcnn_{trunk}_{layout}": (trunk, layout) for trunk in _TRUNKS for layout in _LAYOUTS
}
_OF_STYLE = ("anchor_sizes", "pre_nms", "post_nms", "score_threshold")
_OF_DETECTOR = ("context", "padding", "freeze_batch_norm")
_OF_TRUNK = ("remat", "dtype", "kernels")
_BOTTLENECK = ("groups", "width_per_group", "stride_on_first")


def list_detectors(pattern: str = "*") -> list[str]:
    """Returns the sorted names of the detectors that match a shell pattern such as "*_c4"."""
    return sorted(fnmatch.filter(_NAMES, pattern))


def create_detector(name: str, num_classes: int, style: str = "paper", **options: Any) -> Detector:
    """Builds a detector by name.

    Args:
      name: one of `list_detectors()`. "c4" is the paper's: one map of stride 16, and the last stage
        on every region; "fpn" and "fpn_v2" are torchvision's two pyramids.
      num_classes: number of classes, without the background.
      style: "paper", "torchvision" or "detectron2": all numbers that the houses choose otherwise.
      **options: `context`, `padding` and `freeze_batch_norm`, see `Detector`; `anchor_sizes`,
        `pre_nms`, `post_nms` and `score_threshold`, see `Style`; `remat`, `dtype`
        and `kernels`, see `ResNet`.

    Raises:
      ModelError: there is no such detector, style or option.
    """
    if name not in _NAMES:
        hint = did_you_mean(name, _NAMES)
        raise ModelError(f"unknown detector {shown(name)}{hint}; see resnet_jax.list_detectors()")
    known = (*_OF_DETECTOR, *_OF_STYLE, *_OF_TRUNK)
    for option in options:
        if option not in known:
            raise ModelError(
                f"unknown detector option {shown(option)}{did_you_mean(option, known)};"
                f" choose from {', '.join(known)}"
            )
    trunk_name, layout = _NAMES[name]
    numbers = dataclasses.replace(
        get_style(style, pyramid=layout != "c4"),
        **{key: options[key] for key in _OF_STYLE if key in options},
    )
    trunk = create_model(trunk_name, **{key: options[key] for key in _OF_TRUNK if key in options})
    parts = _c4(trunk, numbers) if layout == "c4" else _fpn(trunk, numbers, layout == "fpn_v2")
    chosen = {key: options[key] for key in _OF_DETECTOR if key in options}
    return Detector(num_classes=num_classes, style=numbers, **parts, **chosen)


def _c4(trunk: ResNet, style: Style) -> dict[str, Any]:
    options = {}
    if trunk.block is BottleneckBlock:
        options = {name: getattr(trunk, name) for name in _BOTTLENECK}
    head = StageHead(
        trunk.block,
        trunk.stage_sizes[3],
        BatchNorm,
        trunk.stage_widths[3],
        trunk.dtype,
        tuple(options.items()),
    )
    return {
        "trunk": trunk.clone(
            stage_sizes=trunk.stage_sizes[:3], stage_widths=trunk.stage_widths[:3]
        ),
        "stages": ("stage3",),
        "strides": (16,),
        "neck": None,
        "rpn": RPNHead(_anchors_per_place(style), dtype=trunk.dtype),
        "head": head,
    }


def _fpn(trunk: ResNet, style: Style, second: bool) -> dict[str, Any]:
    norm = BatchNorm if second else None
    convs, dense = (4, 1) if second else (0, 2)
    return {
        "trunk": trunk,
        "stages": ("stage1", "stage2", "stage3", "stage4"),
        "strides": (4, 8, 16, 32, 64),
        "neck": FeaturePyramid(norm=norm, dtype=trunk.dtype),
        "rpn": RPNHead(_anchors_per_place(style), 2 if second else 1, dtype=trunk.dtype),
        "head": DenseHead(convs, dense, norm=norm, dtype=trunk.dtype),
    }


def _anchors_per_place(style: Style) -> int:
    return len(style.anchor_sizes[0]) * len(style.anchor_ratios)
