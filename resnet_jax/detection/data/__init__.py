"""Images with boxes: COCO JSON, VOC folders and TFDS records; transforms that move the boxes."""

from resnet_jax.detection.data.examples import (
    ON_BAD_BOX,
    AnnotatedImages,
    DetectionExample,
    DetectionSource,
    Truth,
)
from resnet_jax.detection.data.opening import open_detection_source
from resnet_jax.detection.data.transforms import Placed, PlaceOnCanvas, scaled_boxes, scaled_size

__all__ = [
    "AnnotatedImages",
    "DetectionExample",
    "DetectionSource",
    "ON_BAD_BOX",
    "PlaceOnCanvas",
    "Placed",
    "Truth",
    "open_detection_source",
    "scaled_boxes",
    "scaled_size",
]
