"""Fields and images that a network refuses, each with a line that says what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from resnet_jax.models import (
    BasicBlock,
    BottleneckBlock,
    ModelError,
    ResNet,
    create_model,
    input_channels,
)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "fields, words",
    [
        ({"stem": "cifar10"}, ["stem", "'cifar10'", "'cifar'"]),
        ({"stem": None}, ["stem", "None", "imagenet"]),
        ({"shortcut": "a"}, ["shortcut", "'a'", "'A'"]),
        ({"shortcut": ["A"]}, ["shortcut", "A, B, C"]),
        ({"residual": "no"}, ["residual", "'no'", "True or False"]),
        ({"zero_init_residual": 1}, ["zero_init_residual", "1"]),
        ({"freeze_batch_norm": None}, ["freeze_batch_norm", "None"]),
        ({"num_classes": 0}, ["num_classes", "0"]),
        ({"num_classes": "10"}, ["num_classes", "'10'"]),
        ({"num_classes": True}, ["num_classes", "True"]),
        ({"num_classes": 10.0}, ["num_classes", "10.0"]),
        ({"groups": 0}, ["groups", "0"]),
        ({"width_per_group": -1}, ["width_per_group", "-1"]),
        ({"stage_sizes": ()}, ["stage_sizes", "()"]),
        ({"stage_sizes": (1, 0, 1, 1)}, ["stage_sizes"]),
        ({"stage_sizes": 3}, ["stage_sizes", "3"]),
        ({"stage_widths": "wide"}, ["stage_widths", "'wide'"]),
        ({"stage_widths": (16, 32)}, ["stage_widths", "4 stages"]),
        ({"replace_stride_with_dilation": True}, ["replace_stride_with_dilation", "3"]),
        ({"replace_stride_with_dilation": (True,)}, ["replace_stride_with_dilation", "3"]),
        ({"replace_stride_with_dilation": (0, 0, 1)}, ["replace_stride_with_dilation", "True"]),
        ({"norm_axis_name": 0}, ["norm_axis_name", "'data'"]),
        ({"norm_axis_name": ("data", None)}, ["norm_axis_name"]),
        ({"norm_axis_name": ["data"]}, ["norm_axis_name"]),
        ({"dtype": "int32"}, ["dtype", "'int32'", "'bfloat16'"]),
        ({"dtype": "half-ish"}, ["dtype", "'half-ish'"]),
        ({"residual": False, "zero_init_residual": True}, ["zero_init_residual", "plain"]),
        ({"block": BasicBlock, "groups": 2}, ["groups", "bottleneck"]),
        ({"block": BasicBlock, "width_per_group": 128}, ["width_per_group", "bottleneck"]),
        ({"block": BasicBlock, "stride_on_first": True}, ["stride_on_first", "bottleneck"]),
        (
            {"block": BasicBlock, "replace_stride_with_dilation": (False, False, True)},
            ["replace_stride_with_dilation", "bottleneck"],
        ),
    ],
)
def test_wrong_fields(fields, words):
    with pytest.raises(ModelError) as error:
        ResNet(**{"stage_sizes": (1, 1, 1, 1), "block": BottleneckBlock, **fields})
    message = str(error.value)
    assert len(message) < 300
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("dtype", [None, "bfloat16", jnp.float16, jnp.dtype("float32")])
def test_right_fields(dtype):
    options = {"norm_axis_name": ("hosts", "data"), "replace_stride_with_dilation": [True] * 3}
    create_model("resnet50", 10, dtype=dtype, **options)
    create_model("resnet18", 10, replace_stride_with_dilation=(False, False, False))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 2, 32, 32, 3), (2, 0, 32, 3), ()])
def test_images_of_a_wrong_shape(shape):
    with pytest.raises(ModelError, match=r"\[n, h, w, c\]"):
        create_model("resnet20_cifar").init(jax.random.key(0), jnp.zeros(shape))


def test_images_of_other_channels_than_the_model_has():
    model = create_model("resnet20_cifar")
    images = jnp.zeros((1, 8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(ModelError, match="images have 3 channels but the model takes 1; "):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 8, 8, 3)))


class Reversed(nn.Module):
    """A stem whose layers are not called in the order of their names."""

    conv: Any
    norm: Any
    features: int

    @nn.compact
    def __call__(self, x):
        x = self.norm(name="zwei_norm")(self.conv(5, 3, 1, name="zwei")(x))
        return self.norm(name="eins_norm")(self.conv(self.features, 3, 1, name="eins")(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_a_stem_of_ones_own(channels):
    model = ResNet((1,), BasicBlock, 5, (4,), stem=Reversed)
    images = jnp.zeros((1, 8, 8, channels))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert input_channels(model, variables) == channels
    assert jax.eval_shape(model.apply, variables, images).shape == (1, 5)
