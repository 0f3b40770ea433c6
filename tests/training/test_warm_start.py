"""Fine-tuning: what a run begins with, from a weights file or another run."""

import dataclasses
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax import data
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import TrainConfig, default_config, open_experiment, resolve
from resnet_jax.training import initial as initial_weights
from resnet_jax.training.initial import like_the_weights, load_initial, open_initial
from resnet_jax.training.loop import train
from resnet_jax.training.records import read_metrics
from resnet_jax.training.restore import open_run
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
    weights = open_initial(config.init_from, config.seed)
    return load_initial(weights, model, channels, skip_head=config.skip_head)


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


OWN = data.Preprocessing(
    image_size=(32, 32),
    crop_share=0.8,
    interpolation="bicubic",
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.6, 0.7),
    channel_order="BGR",
    class_names=("x", "y", "z"),
)
TUNING = dataclasses.replace(
    CONFIG,
    model="resnet8_cifar",
    channels=3,
    augmentation="imagenet",
    image_size=24,
    preprocess="weights",
    skip_head=True,
    keep_checkpoints=5,
)


@pytest.fixture(scope="module")
def coloured(resnet8, tmp_path_factory):
    """Weights for colour images, with their preprocessing and without."""
    model = resnet_jax.create_model("resnet8_cifar", 3)
    variables = init(model, jnp.zeros((1, 8, 8, 3)), 5)
    folder = tmp_path_factory.mktemp("coloured")
    resnet_jax.save_weights(folder / "own.safetensors", variables, model, preprocessing=OWN)
    resnet_jax.save_weights(folder / "silent.safetensors", variables, model)
    return folder


def test_a_run_prepares_images_as_its_weights_want_them(coloured, tmp_path, capsys):
    """At its start, when it resumes without the weights, and when it is evaluated."""
    weights = tmp_path / "weights.safetensors"
    shutil.copy(coloured / "own.safetensors", weights)
    config = dataclasses.replace(TUNING, init_from=str(weights), num_steps=1)
    mesh = data_mesh(jax.devices()[:1])
    train(config, tmp_path / "run", mesh)
    wanted = dataclasses.replace(OWN, image_size=(24, 24))
    assert f"preprocessing of the weights: {wanted.describe()}" in " ".join(
        capsys.readouterr().out.split()
    )
    weights.unlink()
    train(dataclasses.replace(config, num_steps=2), tmp_path / "run", mesh)

    run = open_run(tmp_path / "run")
    found = run.preprocessing
    source = data.open_source("fashion_mnist_mini", "test[:16]")
    # The mean and the deviation are in float32 by now.
    assert found == dataclasses.replace(
        wanted, class_names=tuple(source.class_names), mean=found.mean, std=found.std
    )
    np.testing.assert_allclose([found.mean, found.std], [wanted.mean, wanted.std], rtol=1e-6)
    # The run's own evaluation is that of the record's images.
    images = found([Image.fromarray(pixels[:, :, 0]) for pixels in source.images])
    logits = run.network.model.apply(run.network.variables, images)
    losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(16), source.labels]
    [record] = [line for line in read_metrics(tmp_path / "run") if line["step"] == 2][-1:]
    assert record["split"] == "test[:16]"
    assert record["loss"] == pytest.approx(losses.mean(), rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"augmentation": "none", "image_size": None}], ids=str)
def test_weights_that_do_not_say_it_have_torchvisions(coloured, tmp_path, changes):
    path = str(coloured / "silent.safetensors")
    config = dataclasses.replace(TUNING, init_from=path, **changes)
    weights = open_initial(path, 0)
    experiment, own = like_the_weights(open_experiment(config), tmp_path / "new", weights)
    expected = data.make_normalization("torchvision", 3)
    jax.tree.map(np.testing.assert_array_equal, experiment.normalization, expected)
    assert "silent.safetensors does not say it" in own.describe()
    crop = data.eval_transform(config.augmentation, config.image_size, channels=3)
    if changes:
        assert experiment.eval_transform == crop
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        np.testing.assert_array_equal(experiment.eval_transform(pixels), crop(pixels))


def test_another_run_is_opened_once(coloured, tmp_path, monkeypatch):
    """For its weights, its classes and its preprocessing."""
    opened = []

    def open_once(*arguments):
        opened.append(arguments)
        return open_run(*arguments)

    own = str(coloured / "own.safetensors")
    config = dataclasses.replace(TUNING, init_from=own, num_steps=1)
    mesh = data_mesh(jax.devices()[:1])
    train(config, tmp_path / "first", mesh)
    monkeypatch.setattr(initial_weights, "open_run", open_once)
    train(dataclasses.replace(config, init_from=str(tmp_path / "first")), tmp_path / "second", mesh)
    assert len(opened) == 1
    assert open_run(tmp_path / "second").preprocessing.interpolation == "bicubic"


def test_a_normalization_handed_in_stays(coloured, tmp_path):
    config = dataclasses.replace(TUNING, init_from=str(coloured / "own.safetensors"))
    plain = data.make_normalization("none", 3)
    opened = open_experiment(config, normalization=plain)
    experiment, _ = like_the_weights(opened, tmp_path, open_initial(config.init_from, 0))
    assert experiment.normalization is plain


def test_the_weights_preprocessing_needs_weights():
    config = default_config()
    config.update(num_steps=1, preprocess="weights")
    with pytest.raises(ConfigError, match="preprocess='weights' needs config.init_from"):
        resolve(config)
