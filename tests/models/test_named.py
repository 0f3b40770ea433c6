"""The named models: which there are, their parameters against PAPER.md's figures and the twins."""

import jax
import jax.numpy as jnp
import pytest
import torch

from resnet_jax.models import BottleneckBlock, ModelError, create_model, list_models
from tests.torch_twins import make_twin, to_variables

NAMES = [
    *("plain18", "plain34", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnet50_v1", "resnet101_v1", "resnet152_v1"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *(f"plain{depth}_cifar" for depth in (20, 32, 44, 56, 110)),
    *(f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110, 1202)),
]

# torchvision's counts, 1000 classes.
IMAGENET_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_v1": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}

# Table 6 of the paper, in millions.
CIFAR_PARAMETERS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}


def shapes(model, size=32):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_names():
    assert list_models() == sorted(NAMES)
    assert list_models("plain*_cifar") == [f"plain{n}_cifar" for n in (110, 20, 32, 44, 56)]
    assert list_models("vgg*") == []


@pytest.mark.parametrize("name", IMAGENET_PARAMETERS)
def test_imagenet_parameter_counts(name):
    assert count(shapes(create_model(name))) == IMAGENET_PARAMETERS[name]


@pytest.mark.parametrize("depth", CIFAR_PARAMETERS)
@pytest.mark.parametrize("kind", ["plain", "resnet"])
def test_cifar_parameter_counts(kind, depth):
    millions = count(shapes(create_model(f"{kind}{depth}_cifar", 10))) / 1e6
    assert round(millions, 2 if depth < 110 else 1) == CIFAR_PARAMETERS[depth]


def test_resnet1202_has_the_layers_and_parameters_of_the_paper():
    model = create_model("resnet1202_cifar", 10)
    assert 2 * sum(model.stage_sizes) + 2 == 1202
    assert model.stage_widths == (16, 32, 64)
    # A block adds two 3x3 convolutions and two normalisations to those of ResNet-110.
    blocks = sum((200 - 18) * (2 * 9 * width**2 + 4 * width) for width in (16, 32, 64))
    assert round((count(shapes(create_model("resnet110_cifar", 10))) + blocks) / 1e6, 1) == 19.4


@pytest.mark.parametrize("depth, sizes", [(101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))])
def test_blocks_of_the_deep_bottleneck_nets(depth, sizes):
    for name in list_models(f"*{depth}*"):
        assert create_model(name).stage_sizes == sizes


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in NAMES if not any(n in name for n in ("101", "152", "1202"))),
        ("resnet34", {"shortcut": "A"}),
        ("resnet34", {"shortcut": "C"}),
        ("resnet50", {"shortcut": "C", "stem": "cifar"}),
        ("resnet20_cifar", {"shortcut": "B", "stem": "imagenet"}),
    ],
)
def test_every_parameter_has_its_twin(name, options):
    with torch.device("meta"):
        twin = make_twin(name, 7, **options)
    ours = shapes(create_model(name, 7, **options))
    theirs = to_variables(twin.to_empty(device="cpu"))
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)


def test_stride_of_the_bottlenecks():
    for name in list_models():
        model = create_model(name)
        assert model.stride_on_first == name.endswith("_v1")
        assert (model.block is BottleneckBlock) == (
            not name.endswith("_cifar") and not name.endswith(("18", "34"))
        )


def test_models_are_equal_if_their_options_are():
    options = {"shortcut": "C", "replace_stride_with_dilation": [False, False, True]}
    first, second = create_model("resnet50", **options), create_model("resnet50", **options)
    assert first == second
    assert hash(first) == hash(second)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name, options, words",
    [
        ("resnet51", {}, ["'resnet51'", "'resnet50'", "list_models"]),
        ("ResNet50", {}, ["'ResNet50'", "'resnet50'"]),
        ("vgg", {}, ["'vgg'", "list_models"]),
        ("", {}, ["''"]),
        (None, {}, ["None"]),
        (["resnet50"], {}, ["resnet50"]),
        ("x" * 10_000, {}, ["list_models"]),
        ("two\nlines", {}, ["list_models"]),
        ("resnet50", {"shortcuts": "A"}, ["'shortcuts'", "'shortcut'", "stem"]),
        ("resnet50", {"stage_sizes": (1,)}, ["'stage_sizes'"]),
        ("resnet50", {"shortcut": "D"}, ["shortcut", "'D'", "A, B, C"]),
    ],
)
def test_bad_names_and_options(name, options, words):
    with pytest.raises(ModelError) as error:
        create_model(name, **options)
    message = str(error.value)
    assert len(message) < 300
    assert "\n" not in message
    for word in words:
        assert word in message
