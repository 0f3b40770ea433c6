"""The numbers in which the paper, torchvision and Detectron2 differ."""

import dataclasses

from resnet_jax.detection.model.boxes import Weights
from resnet_jax.detection.model.roi_align import Pooling
from resnet_jax.errors import ModelError, did_you_mean, shown


@dataclasses.dataclass(frozen=True)
class Style:
    """A detector's numbers, of one house and one layout (one map, or a pyramid).

    Each pair of proposals is of (training, testing); with a pyramid those before suppression are
    per level. IoU thresholds are the least of a positive and what a negative stays below.

    Attributes:
      anchor_sizes: square roots of the anchors' areas, of each level, in pixels.
      anchor_ratios: heights over widths.
      anchor_rounding: see `base_anchors`.
      ratios_first: the anchors' order at a place, see `base_anchors`.
      anchor_offset: centre of the first anchors, in strides.
      divide_strides: whether an anchor's stride is the image's height by the map's, rounded down.
      crossing_anchors: whether anchors that cross the image's border take part in training.
      anchors_per_image: number of sampled anchors.
      positive_anchors: greatest share of positives among them.
      anchor_ious: thresholds of anchors.
      fixed_rpn_count: whether the RPN's losses are divided by `anchors_per_image`, however few were
        sampled.
      rpn_beta: of the smooth L1 loss of the RPN; 0 is L1.
      pre_nms: number of proposals before suppression.
      post_nms: number of proposals after it.
      rpn_nms: greatest IoU of two proposals.
      by_probability: how proposals of several levels are ordered, see `propose`.
      smallest_proposal: least width and height of a proposal, in pixels.
      regions_per_image: number of sampled regions.
      positive_regions: greatest share of positives among them.
      region_ious: thresholds of regions.
      head_beta: of the smooth L1 loss of the head; 0 is L1.
      box_weights: factors of the head's regression targets.
      background_box: whether the regressor has rows for the background.
      pooling: bins and samples.
      level_inside: how a box's level is rounded, see `box_levels`.
      score_threshold: what a detection's score is above.
      nms: greatest IoU of two detections of a class.
      smallest_box: least width and height of a detection, in pixels.
      detections: greatest number of detections of an image.
      shorter_side: of an image, in pixels.
      longer_side: its greatest length, in pixels.
    """

    anchor_sizes: tuple[tuple[int, ...], ...] = ((32, 64, 128, 256, 512),)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_rounding: str = "none"
    ratios_first: bool = False
    anchor_offset: float = 0.0
    divide_strides: bool = False
    crossing_anchors: bool = True
    anchors_per_image: int = 256
    positive_anchors: float = 0.5
    anchor_ious: tuple[float, float] = (0.7, 0.3)
    fixed_rpn_count: bool = False
    rpn_beta: float = 0.0
    pre_nms: tuple[int, int] = (12_000, 6_000)
    post_nms: tuple[int, int] = (2_000, 1_000)
    rpn_nms: float = 0.7
    by_probability: bool = False
    smallest_proposal: float = 0.0
    regions_per_image: int = 512
    positive_regions: float = 0.25
    region_ious: tuple[float, float] = (0.5, 0.5)
    head_beta: float = 0.0
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    background_box: bool = False
    pooling: Pooling = Pooling(bins=14, samples=0, aligned=True)
    level_inside: bool = False
    score_threshold: float = 0.05
    nms: float = 0.5
    smallest_box: float = 0.0
    detections: int = 100
    shorter_side: int = 800
    longer_side: int = 1333


# The settings of py-faster-rcnn, with RoIAlign in place of the max pool of 2015.
_PAPER = Style(
    anchor_sizes=((128, 256, 512),),
    anchor_rounding="cell",
    ratios_first=True,
    anchor_offset=0.5,
    crossing_anchors=False,
    rpn_beta=1 / 9,
    post_nms=(2_000, 300),
    smallest_proposal=16.0,
    regions_per_image=128,
    head_beta=1.0,
    pooling=Pooling(bins=14, samples=2, aligned=True),
    nms=0.3,
    shorter_side=600,
    longer_side=1000,
)
_TORCHVISION = Style(
    anchor_rounding="corners",
    ratios_first=True,
    divide_strides=True,
    rpn_beta=1 / 9,
    pre_nms=(2_000, 1_000),
    post_nms=(2_000, 1_000),
    by_probability=True,
    smallest_proposal=1e-3,
    head_beta=1 / 9,
    background_box=True,
    pooling=Pooling(bins=14, samples=2, aligned=False),
    smallest_box=1e-2,
)
_DETECTRON2 = Style(fixed_rpn_count=True, level_inside=True)

STYLES = {"paper": _PAPER, "torchvision": _TORCHVISION, "detectron2": _DETECTRON2}
"""The style of each house for a single map of stride 16."""

_PYRAMID_SIZES = ((32,), (64,), (128,), (256,), (512,))


def get_style(name: str, pyramid: bool = False) -> Style:
    """Returns a style by name.

    Args:
      name: "paper", "torchvision" or "detectron2".
      pyramid: whether for a feature pyramid, of strides 4, 8, 16, 32 and 64, instead of one map of
        stride 16. The paper has none; its other numbers stay.

    Raises:
      ModelError: there is no such style.
    """
    if name not in STYLES:
        raise ModelError(
            f"unknown style {shown(name)}{did_you_mean(name, STYLES)};"
            f" choose from {', '.join(STYLES)}"
        )
    style = STYLES[name]
    if not pyramid:
        return style
    style = dataclasses.replace(
        style, anchor_sizes=_PYRAMID_SIZES, pooling=style.pooling._replace(bins=7)
    )
    if name == "detectron2":
        return dataclasses.replace(style, pre_nms=(2_000, 1_000), post_nms=(1_000, 1_000))
    return style
