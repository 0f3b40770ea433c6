"""The styles' numbers, as the three houses' own configurations have them."""

import pytest

from resnet_jax.detection.model import STYLES, Pooling, get_style
from resnet_jax.models import ModelError


@pytest.mark.parametrize(
    "name, pyramid, numbers",
    [
        (
            "paper",
            False,
            {
                "anchor_sizes": ((128, 256, 512),),
                "anchor_offset": 0.5,
                "crossing_anchors": False,
                "rpn_beta": 1 / 9,
                "head_beta": 1.0,
                "pre_nms": (12_000, 6_000),
                "post_nms": (2_000, 300),
                "smallest_proposal": 16.0,
                "regions_per_image": 128,
                "nms": 0.3,
                "shorter_side": 600,
                "longer_side": 1000,
            },
        ),
        (
            "torchvision",
            True,
            {
                "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
                "anchor_rounding": "corners",
                "ratios_first": True,
                "divide_strides": True,
                "fixed_rpn_count": False,
                "rpn_beta": 1 / 9,
                "head_beta": 1 / 9,
                "pre_nms": (2_000, 1_000),
                "post_nms": (2_000, 1_000),
                "smallest_proposal": 1e-3,
                "smallest_box": 1e-2,
                "pooling": Pooling(7, 2, False),
                "background_box": True,
                "level_inside": False,
                "nms": 0.5,
            },
        ),
        (
            "detectron2",
            False,
            {
                "anchor_sizes": ((32, 64, 128, 256, 512),),
                "anchor_rounding": "none",
                "ratios_first": False,
                "divide_strides": False,
                "fixed_rpn_count": True,
                "rpn_beta": 0.0,
                "head_beta": 0.0,
                "pre_nms": (12_000, 6_000),
                "post_nms": (2_000, 1_000),
                "smallest_proposal": 0.0,
                "pooling": Pooling(14, 0, True),
                "background_box": False,
                "level_inside": True,
            },
        ),
        ("detectron2", True, {"pre_nms": (2_000, 1_000), "post_nms": (1_000, 1_000)}),
    ],
)
def test_numbers_that_differ(name, pyramid, numbers):
    style = get_style(name, pyramid)
    assert {key: getattr(style, key) for key in numbers} == numbers


@pytest.mark.parametrize("name", STYLES)
def test_numbers_that_all_share(name):
    style = get_style(name, pyramid=True)
    assert style.box_weights == (10, 10, 5, 5)
    assert (style.anchors_per_image, style.positive_anchors) == (256, 0.5)
    assert (style.anchor_ious, style.rpn_nms, style.positive_regions) == ((0.7, 0.3), 0.7, 0.25)
    assert (style.score_threshold, style.detections) == (0.05, 100)
    assert style.pooling.bins == 7


def test_an_unknown_style_names_the_nearest():
    with pytest.raises(ModelError, match=r"'torchvison' \(did you mean 'torchvision'\?\); choose"):
        get_style("torchvison")
