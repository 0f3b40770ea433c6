"""Recomputed statistics against one giant batch, by the network's own training mode."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from resnet_jax import data
from resnet_jax.evaluation import (
    EvaluationError,
    Network,
    recompute_batch_statistics,
    training_images,
)
from resnet_jax.evaluation.analyses.capture import chain
from resnet_jax.models import BottleneckBlock
from resnet_jax.runtime.devices import data_mesh
from tests.evaluation.networks import DeepStem, random_variables, small_model

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 20, 17, 3), dtype=np.uint8)


class Parallel(nn.Module):
    """No chain: two ways side by side, with Flax's own normalisation."""

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        way = nn.relu(norm(name="bn1")(nn.Conv(4, (3, 3), name="conv1")(x)))
        other = norm(name="bn2")(nn.Conv(4, (1, 1), name="conv2")(x))
        x = norm(name="bn3")(way + other)
        return nn.Dense(3, name="head")(jnp.mean(x, axis=(1, 2)))


def make_network(**options):
    model = small_model(**options)
    return Network(model, random_variables(model), data.make_normalization("torchvision", 3))


def in_float64(network):
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.variables)
    normalization = data.make_normalization("torchvision", 3)
    return Network(network.model, variables, normalization)


def giant_batch(network, images):
    """batch_stats after one forward pass of training over all images, with a momentum of 1."""
    model, variables = network.model, network.variables

    def apply(momentum_variables):
        _, updates = model.apply(
            momentum_variables,
            network.normalization(jnp.asarray(images)),
            train=True,
            mutable=["batch_stats"],
        )
        return updates["batch_stats"]

    # The update is new = 0.9 old + 0.1 batch, so batch = 10 new where the old ones are zero.
    nothing = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    options = {"xla_backend_optimization_level": 0}
    new = jax.jit(apply, compiler_options=options)(variables | {"batch_stats": nothing})
    return jax.tree.map(lambda leaf: np.asarray(leaf) * 10, new)


def check(network, expected, tolerance, batch_size=4, devices=1):
    mesh = data_mesh(jax.devices()[:devices])
    recomputed = recompute_batch_statistics(network, IMAGES, mesh, batch_size=batch_size)
    assert jax.tree.structure(recomputed.variables) == jax.tree.structure(network.variables)
    assert recomputed.variables["params"] is network.variables["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected):
        own = recomputed.variables["batch_stats"]
        for key in path:
            own = own[key.key]
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(own, leaf, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def expected():
    with jax.enable_x64(True):
        return giant_batch(in_float64(make_network()), IMAGES)


@pytest.mark.parametrize(("batch_size", "devices"), [(11, 1), (4, 1), (100, 1), (3, 2)])
def test_any_division_into_batches_gives_the_statistics_of_one(expected, batch_size, devices):
    check(make_network(), expected, 1e-6, batch_size, devices)


@pytest.mark.parametrize(
    "options",
    [
        {"stem": "cifar", "shortcut": "A", "stage_sizes": (1, 2)},
        {"shortcut": "C", "remat": True},
        {"residual": False},
        {"block": BottleneckBlock, "groups": 2, "width_per_group": 32},
        {"stem": DeepStem},
    ],
    ids=str,
)
def test_every_kind_of_network_to_the_last_digits(options):
    with jax.enable_x64(True):
        network = in_float64(make_network(**options))
        check(network, giant_batch(network, IMAGES), 1e-12)


def test_a_network_that_is_no_chain():
    with jax.enable_x64(True):
        model = Parallel()
        normalization = data.make_normalization("torchvision", 3)
        network = in_float64(Network(model, random_variables(model), normalization))
        check(network, giant_batch(network, IMAGES), 1e-12)


def units(model):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return [".".join(unit.path) for unit in chain(model, shapes, (16, 16, 3))]


def test_a_network_is_taken_apart_into_its_blocks_and_no_further():
    blocks = ["stage1.block1", "stage2.block1", "stage2.block2"]
    assert units(small_model(stage_sizes=(1, 2))) == ["stem", "pool", *blocks]
    assert units(small_model(stage_sizes=(1, 2), stem="cifar")) == ["stem", *blocks]
    assert units(small_model(stage_sizes=(1, 2), stem=DeepStem)) == ["stem", *blocks]
    assert units(Parallel()) == [""]


def test_training_images_are_augmented_as_in_training():
    source = data.open_source("fashion_mnist_mini", "train[:5]")
    transform = data.train_transform("cifar")
    images = training_images(source, transform, 12, seed=3)
    assert images.shape == (12, 28, 28, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:7], training_images(source, transform, 7, seed=3))
    assert not np.array_equal(images, training_images(source, transform, 12, seed=4))

    whole = training_images(source, data.train_transform("none"), 10, seed=3)
    for epoch in (whole[:5], whole[5:]):
        # Each image once an epoch.
        order = [
            [np.array_equal(image, other) for other in source.images].index(True) for image in epoch
        ]
        assert sorted(order) == [0, 1, 2, 3, 4]
    padded = np.pad(source.images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), (1, 2))
    for image in images[:5]:
        cuts = [image[:, :, 0], image[:, ::-1, 0]]
        assert any((windows == cut).all((-1, -2)).any() for cut in cuts)


def test_bad_requests():
    network, mesh = make_network(), data_mesh()
    with pytest.raises(EvaluationError, match="over 0 images"):
        recompute_batch_statistics(network, IMAGES[:0], mesh, batch_size=4)
    folded = make_network(folded=True)
    with pytest.raises(EvaluationError, match="no batch normalisation to recompute"):
        recompute_batch_statistics(folded, IMAGES, mesh, batch_size=4)
