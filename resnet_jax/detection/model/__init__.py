"""Faster R-CNN: boxes, anchors, suppression, pooling, matching, losses and the styles."""

from resnet_jax.detection.model.anchors import (
    base_anchors,
    grid_anchors,
    map_strides,
    own_places,
    within,
)
from resnet_jax.detection.model.boxes import (
    area,
    clip,
    decode,
    encode,
    iou,
    large_enough,
    share_inside,
)
from resnet_jax.detection.model.detections import Detections, detections
from resnet_jax.detection.model.detector import Detector, Truth
from resnet_jax.detection.model.fpn import FeaturePyramid
from resnet_jax.detection.model.heads import DenseHead, Predictor, StageHead, with_context
from resnet_jax.detection.model.losses import Term, head_losses, rpn_losses, smooth_l1
from resnet_jax.detection.model.matching import (
    Matches,
    Sample,
    match,
    sample,
    sampled_labels,
    with_boxes,
)
from resnet_jax.detection.model.named import create_detector, list_detectors
from resnet_jax.detection.model.nms import Kept, nms, vote
from resnet_jax.detection.model.roi_align import Pooling, box_levels, roi_align
from resnet_jax.detection.model.rpn import Proposals, RPNHead, propose
from resnet_jax.detection.model.styles import STYLES, Style, get_style

__all__ = [
    "STYLES",
    "DenseHead",
    "Detector",
    "Detections",
    "FeaturePyramid",
    "Kept",
    "Matches",
    "Pooling",
    "Predictor",
    "Proposals",
    "RPNHead",
    "Sample",
    "StageHead",
    "Style",
    "Term",
    "Truth",
    "area",
    "base_anchors",
    "box_levels",
    "clip",
    "create_detector",
    "decode",
    "detections",
    "encode",
    "get_style",
    "grid_anchors",
    "head_losses",
    "iou",
    "large_enough",
    "list_detectors",
    "map_strides",
    "match",
    "nms",
    "own_places",
    "propose",
    "roi_align",
    "rpn_losses",
    "sample",
    "sampled_labels",
    "share_inside",
    "smooth_l1",
    "vote",
    "with_boxes",
    "with_context",
    "within",
]
