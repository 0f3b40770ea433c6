"""Fine-tuning: what a run begins with, from a weights file or another run."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import TrainConfig
from resnet_jax.training.loop import train
from resnet_jax.training.restore import load_initial, open_run
from tests.quick import init

CONFIG = TrainConfig(
    model="resnet20_cifar",
    dataset="fashion_mnist_mini",
    eval_split="test[:16]",
    augmentation="none",
    preprocess="none",
    batch_size=4,
    num_steps=1,
    schedule_steps=1,
    learning_rate=1e-30,
    weight_decay=0.0,
)


def initial(config, model, channels):
    return load_initial(
        config.init_from, model, channels, skip_head=config.skip_head, seed=config.seed
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network of three classes with random statistics, and the file that holds it."""
    model = resnet_jax.create_model("resnet20_cifar", 3)
    variables = init(model, jnp.zeros((1, 8, 8, 1)), 5)
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.5, 2, leaf.shape), jnp.float32),
        variables["batch_stats"],
    )
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    resnet_jax.save_weights(path, variables, model)
    return path, variables


def assert_same_but_head(variables, expected):
    for name in ("params", "batch_stats"):
        a, b = dict(variables[name]), dict(expected[name])
        a.pop("head", None), b.pop("head", None)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-20), a, b)


def test_a_run_begins_with_the_weights_of_a_file_and_a_head_of_its_own(tmp_path, weights):
    path, expected = weights
    config = dataclasses.replace(CONFIG, init_from=str(path), skip_head=True)
    train(config, tmp_path, data_mesh(jax.devices()[:1]))
    variables = dict(open_run(tmp_path).network.variables)
    variables["batch_stats"] = expected["batch_stats"]  # One step has moved them.
    assert_same_but_head(variables, expected)
    assert variables["params"]["head"]["kernel"].shape == (64, 10)
    assert np.std(variables["params"]["head"]["kernel"]) > 0

    # A second run begins with the first one's checkpoint, its classifier too.
    again = dataclasses.replace(CONFIG, init_from=str(tmp_path))
    model = resnet_jax.create_model("resnet20_cifar", 10)
    first = open_run(tmp_path).network.variables
    jax.tree.map(np.testing.assert_array_equal, initial(again, model, 1), first)


@pytest.mark.parametrize(
    ("changes", "channels", "error", "words"),
    [
        ({"init_from": "nowhere.pth"}, 1, ConfigError, "nowhere.pth"),
        ({"init_from": "{folder}"}, 1, ConfigError, "give a work directory"),
        ({"init_from": "{path}"}, 1, resnet_jax.WeightsError, "3 classes"),
        ({"init_from": "{path}", "skip_head": True}, 3, ConfigError, "config.channels=1"),
    ],
)
def test_what_cannot_be_begun_with(weights, changes, channels, error, words):
    path, _ = weights
    changes["init_from"] = changes["init_from"].format(path=path, folder=path.parent)
    model = resnet_jax.create_model("resnet20_cifar", 10)
    with pytest.raises(error, match=words):
        initial(dataclasses.replace(CONFIG, **changes), model, channels)
