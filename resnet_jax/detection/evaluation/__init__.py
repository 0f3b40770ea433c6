"""The numbers of detection, COCO's, VOC's and ImageNet's localisation error, and its pictures."""

from resnet_jax.detection.evaluation.coco import coco_metrics
from resnet_jax.detection.evaluation.detections import (
    Detections,
    Scores,
    coco_results,
    coco_truth,
    write_coco_results,
)
from resnet_jax.detection.evaluation.localization import localization_error
from resnet_jax.detection.evaluation.pictures import (
    draw_detections,
    draw_grid,
    draw_precision_recall,
)
from resnet_jax.detection.evaluation.voc import voc_metrics

__all__ = [
    "Detections",
    "Scores",
    "coco_metrics",
    "coco_results",
    "coco_truth",
    "draw_detections",
    "draw_grid",
    "draw_precision_recall",
    "localization_error",
    "voc_metrics",
    "write_coco_results",
]
