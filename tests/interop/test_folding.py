"""Batch normalisation folded into the convolutions: the same logits, and none of it left."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import (
    WeightsError,
    create_model,
    fold_batch_norm,
    from_torch,
    load_model,
    load_weights,
    save_weights,
    to_torch,
)
from resnet_jax.models import BasicBlock, ResNet
from tests import torch_twins
from tests.evaluation.networks import DeepStem
from tests.interop.nets import (
    NUM_CLASSES,
    assert_identical,
    logits,
    logits_of_twin,
    random_images,
    relative_error,
    small_pair,
)

SMALL = [
    {"block": "basic", "shortcut": "A"},
    {"block": "basic", "shortcut": "C"},
    {"block": "basic", "residual": False},
    {"groups": 4, "width_per_group": 32, "stem": "imagenet"},
    {"stride_on_first": True, "shortcut": "A"},
]


def names(tree):
    return {key.key for path, _ in jax.tree_util.tree_leaves_with_path(tree) for key in path}


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_small_nets_keep_the_logits_of_pytorch(options):
    model, twin = small_pair(**options)
    images = random_images(3, 17, 20, dtype=np.float64)
    with jax.enable_x64(True):
        variables = from_torch(model, twin.double().state_dict())
        folded, folded_variables = fold_batch_norm(model, variables)
        error = relative_error(
            logits(folded, folded_variables, images), logits_of_twin(twin, images)
        )
    assert error < 1e-12
    assert folded == model.clone(folded=True)
    assert set(folded_variables) == {"params"}
    assert not {name for name in names(folded_variables) if "bn" in name or name == "scale"}


@pytest.mark.parametrize("name, size", [("resnet18", 64), ("resnet50", 64), ("resnet20_cifar", 32)])
def test_named_nets_keep_their_logits_to_1e_5(name, size):
    model = create_model(name, NUM_CLASSES)
    twin = torch_twins.randomise(torch_twins.make_twin(name, NUM_CLASSES), seed=1)
    images = random_images(2, size, size)
    variables = from_torch(model, twin.state_dict())
    folded, folded_variables = fold_batch_norm(model, variables)
    ours = logits(folded, folded_variables, images)
    assert ours.dtype == np.float32
    assert relative_error(ours, logits(model, variables, images)) < 1e-5
    assert relative_error(ours, logits_of_twin(twin, images)) < 1e-5


def test_a_folded_net_has_the_variables_that_it_says():
    model, twin = small_pair()
    folded, variables = fold_batch_norm(model, from_torch(model, twin.state_dict()))
    images = random_images(1, 8, 8)
    initial = jax.eval_shape(folded.init, jax.random.key(0), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, initial)
    conv = variables["params"]["stage1"]["block1"]["shortcut"]["conv"]
    assert {name: leaf.shape for name, leaf in conv.items()} == {
        "kernel": (1, 1, 4, 16),
        "bias": (16,),
    }


def test_folded_features_are_the_maps():
    model, twin = small_pair(stem="imagenet")
    variables = from_torch(model, twin.state_dict())
    folded, folded_variables = fold_batch_norm(model, variables)
    images = random_images(2, 32, 32)
    ours, theirs = (
        jax.jit(partial(one.apply, method="features"))(its_variables, images)
        for one, its_variables in ((folded, folded_variables), (model, variables))
    )
    assert list(ours) == list(theirs)
    for name in theirs:
        assert relative_error(ours[name], theirs[name]) < 1e-5, name


def test_a_folded_net_trains_without_statistics():
    model, twin = small_pair()
    folded, variables = fold_batch_norm(model, from_torch(model, twin.state_dict()))
    images = random_images(2, 8, 8)
    trained, updates = folded.apply(variables, images, train=True, mutable=["batch_stats"])
    assert updates == {}
    np.testing.assert_array_equal(trained, folded.apply(variables, images, train=False))


def test_folding_twice_is_folding_once_and_the_source_stays():
    model, twin = small_pair()
    variables = from_torch(model, twin.state_dict())
    before = jax.device_get(variables)
    once = fold_batch_norm(model, variables)
    twice = fold_batch_norm(*once)
    assert twice[0] == once[0]
    assert_identical(twice[1], once[1])
    assert_identical(jax.device_get(variables), before)


def test_a_folded_net_is_saved_and_goes_to_pytorch_and_back(tmp_path):
    model, twin = small_pair()
    folded, variables = fold_batch_norm(model, from_torch(model, twin.state_dict()))
    save_weights(tmp_path / "folded.safetensors", variables, folded)
    loaded, loaded_variables = load_model(tmp_path / "folded.safetensors")
    assert loaded == folded
    assert_identical(loaded_variables, variables)
    state_dict = to_torch(folded, variables)
    assert {"conv1.bias", "layer1.0.downsample.0.bias"} <= set(state_dict)
    assert_identical(from_torch(folded, state_dict), variables)


def test_other_variables_are_refused():
    model, _ = small_pair()
    other, twin = small_pair("basic")
    with pytest.raises(WeightsError, match="cannot be fitted"):
        fold_batch_norm(model, from_torch(other, twin.state_dict()))


def test_a_stem_of_ones_own_with_other_names_is_refused():
    class Stem(nn.Module):
        conv: Any
        norm: Any
        features: int

        @nn.compact
        def __call__(self, x):
            return self.norm(name="normal")(self.conv(self.features, 3, 1, name="first")(x))

    model = ResNet((1, 1), BasicBlock, 5, (4, 8), stem=Stem)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    with pytest.raises(WeightsError, match=r"stem\.(first|normal) cannot be folded; name"):
        fold_batch_norm(model, variables)


def test_a_stem_of_ones_own_cannot_be_named_in_a_file(tmp_path):
    model = ResNet((1, 1), BasicBlock, 5, (4, 8), stem=DeepStem)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 32, 32, 1)))
    with pytest.raises(WeightsError, match="not one of your own; save the variables without"):
        save_weights(tmp_path / "net.safetensors", variables, model)
    save_weights(tmp_path / "net.safetensors", variables)
    loaded = load_weights(tmp_path / "net.safetensors", model)
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))
