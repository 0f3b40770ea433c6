"""Feature maps at other strides, frozen batch normalisation, and training a part of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax.core import FrozenDict

from resnet_jax.models import ModelError, create_model, parameter_mask, train_only
from tests import torch_twins

NUM_CLASSES = 5


def images_of(size, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(2, *size, 3)).astype(dtype)


def make_twin(name, **options):
    twin = torch_twins.make_twin(name, NUM_CLASSES, **options)
    return torch_twins.randomise(twin, seed=1).double().eval()


def channels_first(images):
    return torch.tensor(images).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "dilated, output_stride",
    [((False, False, True), 16), ((False, True, True), 8)],
    ids=str,
)
def test_maps_at_smaller_output_strides_are_pytorchs(dilated, output_stride):
    twin = make_twin("resnet50", replace_stride_with_dilation=dilated)
    images = images_of((64, 32))
    with torch.no_grad():
        theirs = {
            name: value.permute(0, 2, 3, 1).numpy()
            for name, value in twin.features(channels_first(images)).items()
        }
    model = create_model("resnet50", NUM_CLASSES, replace_stride_with_dilation=dilated)
    with jax.enable_x64(True):
        apply = jax.jit(lambda *args: model.apply(*args, train=False, method="features"))
        ours = jax.device_get(apply(torch_twins.to_variables(twin), images))
    assert ours["stage4"].shape[1:3] == (64 // output_stride, 32 // output_stride)
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=0, atol=1e-9 * np.abs(theirs[name]).max(), err_msg=name
        )


def test_frozen_batch_norm_trains_the_rest_as_pytorch_in_eval_mode():
    """The way detectors fine-tune: running statistics are used and kept, all else has gradients."""
    twin = make_twin("resnet18")
    images, cotangent = images_of((33, 32)), np.random.default_rng(1).normal(size=(2, NUM_CLASSES))
    variables = torch_twins.to_variables(twin)
    twin(channels_first(images)).backward(torch.tensor(cotangent))
    theirs = torch_twins.to_tree((name, p.grad) for name, p in twin.named_parameters())
    model = create_model("resnet18", NUM_CLASSES, freeze_batch_norm=True)

    @jax.jit
    def run(variables, images, cotangent):
        def apply(params):
            return model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )

        _, vjp, updates = jax.vjp(apply, variables["params"], has_aux=True)
        return vjp(cotangent)[0], updates["batch_stats"]

    with jax.enable_x64(True):
        grads, batch_stats = jax.device_get(run(variables, images, cotangent))
    jax.tree.map(np.testing.assert_array_equal, batch_stats, variables["batch_stats"])
    assert np.any(grads["stage1"]["block1"]["bn1"]["scale"])
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(
            one, other, rtol=0, atol=1e-9 * np.abs(other).max()
        ),
        grads,
        theirs,
    )


def test_parameters_outside_the_trained_parts_stay_bit_for_bit():
    model = create_model("resnet20_cifar", NUM_CLASSES, freeze_batch_norm=True)
    images = images_of((8, 8), dtype=np.float32)
    start = torch_twins.to_variables(
        torch_twins.randomise(torch_twins.make_twin("resnet20_cifar", NUM_CLASSES), seed=1)
    )
    weight_decay_and_momentum = optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
    )
    optimizer = train_only(weight_decay_and_momentum, ("stage3", "head"))

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            logits = model.apply({**start, "params": params}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, np.arange(2)).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, opt_state = start["params"], optimizer.init(start["params"])
    for _ in range(3):
        params, opt_state = step(params, opt_state)
    for part, before in start["params"].items():
        for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(params[part]), strict=True):
            same = one.tobytes() == np.asarray(other).tobytes()
            assert same == (part not in ("stage3", "head")), part
    momenta = jax.tree.leaves(opt_state)
    trained = jax.tree.leaves([params["head"], params["stage3"]])
    assert sum(leaf.size for leaf in momenta) == sum(leaf.size for leaf in trained)


def test_masks():
    params = {
        "stem": {"conv": {"kernel": 1}},
        "stage1": {"block1": {"bn1": {"scale": 2, "bias": 3}}},
        "head": {"kernel": 4},
    }
    assert parameter_mask(params, "head") == {
        "stem": {"conv": {"kernel": False}},
        "stage1": {"block1": {"bn1": {"scale": False, "bias": False}}},
        "head": {"kernel": True},
    }
    both = parameter_mask(params, ["stage1", "stem"])
    assert jax.tree.leaves(both["stem"]) == [True]
    assert jax.tree.leaves(both["stage1"]) == [True, True]
    assert jax.tree.leaves(both["head"]) == [False]


def test_masks_of_frozen_dicts():
    params = {"stem": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(3)}}
    frozen = FrozenDict(params)
    mask = parameter_mask(frozen, "head")
    assert isinstance(mask, FrozenDict)
    assert mask == FrozenDict(parameter_mask(params, "head"))
    optimizer = train_only(optax.sgd(1.0), "head")
    updates, _ = optimizer.update(frozen, optimizer.init(frozen), frozen)
    assert isinstance(updates, FrozenDict)
    assert updates["stem"]["kernel"].tolist() == [0, 0]
    assert updates["head"]["kernel"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "parts, words",
    [
        ("stage2", ["'stage2'", "did you mean 'stage1'", "choose from stem, stage1, head"]),
        (("head", "fc"), ["'fc'", "choose from stem, stage1, head"]),
        ((), ["no part", "choose from stem, stage1, head"]),
    ],
)
def test_unknown_parts_are_named_with_those_there_are(parts, words):
    params = {"head": 0, "stage1": 0, "stem": 0}
    for act in (
        lambda: parameter_mask(params, parts),
        lambda: train_only(optax.sgd(1.0), parts).init(params),
    ):
        with pytest.raises(ModelError) as error:
            act()
        for word in words:
            assert word in str(error.value)
