"""ImageNet's localisation error (the paper's Table 13)."""

from collections.abc import Sequence

import numpy as np

from resnet_jax.detection.data.examples import Truth
from resnet_jax.detection.evaluation.detections import Detections, check_lengths, overlaps
from resnet_jax.errors import EvaluationError

NUM_GUESSES = 5
"""Largest number of boxes per image that ImageNet's localisation counts."""


def localization_error(
    truth: Sequence[Truth], found: Sequence[Detections], *, threshold: float = 0.5
) -> float:
    """Returns the share of images for which none of five boxes is right, as a fraction.

    A box is right if it has an IoU of at least `threshold` with one of the image's boxes of its
    class. The first five detections count, in their order. Images without boxes do not count.

    Args:
      truth: the objects of each image.
      found: the detections of each image, best first.
      threshold: the IoU of a right box.

    Raises:
      EvaluationError: the numbers of images differ, or no image has a box.
    """
    check_lengths(truth, found)
    wrong = []
    for each, detections in zip(truth, found, strict=True):
        if not len(each.labels):
            continue
        guesses = slice(NUM_GUESSES)
        same = detections.labels[guesses, None] == each.labels
        close = overlaps(detections.boxes[guesses], each.boxes) >= threshold
        wrong.append(not (same & close).any())
    if not wrong:
        raise EvaluationError("no image of the split has a box; choose another split")
    return float(np.mean(wrong))
