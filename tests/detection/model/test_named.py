"""The named detectors: their parameters, counted, and their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.detection.model import create_detector, list_detectors
from resnet_jax.models import ModelError


def shapes_of(detector):
    args = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    return jax.eval_shape(detector.init, jax.random.key(0), *args)


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


# torchvision's detectors with 91 classes, background with them, with trainable batch norm.
@pytest.mark.parametrize("layout, expected", [("fpn", 41_808_406), ("fpn_v2", 43_712_278)])
def test_parameters_are_as_many_as_torchvisions(layout, expected):
    detector = create_detector(f"faster_rcnn_resnet50_{layout}", 90, style="torchvision")
    params = shapes_of(detector)["params"]
    assert set(params) == {"trunk", "neck", "rpn", "head", "predictor"}
    assert count(params) == expected


@pytest.mark.parametrize("name", ["faster_rcnn_resnet18_c4", "faster_rcnn_resnet101_v1_c4"])
def test_the_papers_form_has_the_whole_trunk_and_context_twice_its_features(name):
    detector = create_detector(name, 20, context=True, dtype="bfloat16")
    params = shapes_of(detector)["params"]
    assert set(params) == {"trunk", "rpn", "head", "predictor"}
    assert set(params["trunk"]) == {"stem", "stage1", "stage2", "stage3"}
    assert set(params["head"]) == {"stage4"}
    features = 2048 if "101" in name else 512
    assert params["predictor"]["classes"]["kernel"].shape == (2 * features, 21)
    assert params["rpn"]["logits"]["conv"]["kernel"].shape[-1] == 9
    assert dict(detector.head.options).get("stride_on_first", False) == ("101" in name)


def test_names():
    assert len(list_detectors()) == 18
    assert "faster_rcnn_resnet50_v1_c4" in list_detectors("*_c4")


@pytest.mark.parametrize(
    "name, options, words",
    [
        (
            "faster_rcnn_resnet50_fnp",
            {},
            "unknown detector .*did you mean 'faster_rcnn_resnet50_fp",
        ),
        ("faster_rcnn_resnet50_fpn", {"contxt": 1}, "option 'contxt' .did you mean 'context'"),
        (
            "faster_rcnn_resnet50_fpn",
            {"style": "caffe"},
            "unknown style 'caffe'; choose from paper",
        ),
    ],
)
def test_unknown_names_are_named(name, options, words):
    with pytest.raises(ModelError, match=words):
        create_detector(name, 20, **options)
