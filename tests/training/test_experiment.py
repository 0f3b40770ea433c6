"""Parts handed in: what a run makes of them, remembers of them, and refuses without them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from resnet_jax import data
from resnet_jax.commands import evaluate
from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.models import MODELS
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import default_config, learning_rate, open_experiment, open_run, train
from resnet_jax.training.experiment import make_model
from tests.training.test_loop import CONFIG, saved

pytestmark = pytest.mark.usefixtures("resnet8")

SHORT = dataclasses.replace(
    CONFIG, num_steps=4, schedule_steps=4, eval_every=2, checkpoint_every=2, log_every=1
)


class Net(nn.Module):
    """A network of nobody's: no stem, no head, no batch normalisation."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), (2, 2), name="first")(images))
        return nn.Dense(self.num_classes, name="last")(jnp.mean(x, axis=(1, 2)))


def go(experiment, workdir, **options):
    return train(experiment, workdir, data_mesh(jax.devices()[:1]), **options)


def mean_square(logits, targets):
    return jnp.mean(jnp.square(logits - jax.nn.one_hot(targets, logits.shape[1])), axis=1)


def test_a_run_of_handed_in_parts_resumes_with_them_and_not_without(tmp_path):
    parts = {"model": Net(), "loss": mean_square, "optimizer": optax.adamw}
    experiment = open_experiment(SHORT).replace(**parts)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    records = go(experiment, whole)
    assert records["train"]["loss"] < 1  # The loss that is trained, not the cross-entropy.

    go(experiment.replace(num_steps=2), halves)
    named = json.loads((halves / "config.json").read_text())["parts"]
    assert named == {"loss": "mean_square", "model": "Net", "optimizer": "adamw"}
    with pytest.raises(ConfigError, match="trained with loss mean_square handed in; hand it in"):
        go(open_experiment(SHORT), halves)
    with pytest.raises(ConfigError, match="with optimizer adamw, not sgd; hand in the same"):
        go(experiment.replace(optimizer=optax.sgd), halves)
    with pytest.raises(ConfigError, match="without a schedule handed in, now constant"):
        go(experiment.replace(schedule=optax.constant_schedule(0.1)), halves)

    go(experiment, halves)
    (state, position), (other, other_position) = saved(whole, 4), saved(halves, 4)
    assert position["data"] == other_position["data"]
    jax.tree.map(np.testing.assert_array_equal, state, other)

    with pytest.raises(ConfigError, match="trained with model Net handed in; register it"):
        open_run(whole)
    run = open_run(whole, model=Net())
    assert run.channels == 1 and run.network.num_classes == 10
    images = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    assert run.network.logits(images).shape == (2, 10)


def test_a_transformation_has_a_learning_rate_of_its_own(tmp_path):
    experiment = open_experiment(SHORT).replace(optimizer=optax.sgd(0.5), num_steps=2)
    records = go(experiment, tmp_path / "run")
    assert "learning_rate" not in records["train"]
    schedule = optax.constant_schedule(0.5)
    function = open_experiment(SHORT).replace(optimizer=optax.sgd, schedule=schedule, num_steps=2)
    records = go(function, tmp_path / "other")
    assert records["train"]["learning_rate"] == 0.5
    one, other = (saved(tmp_path / name, 2)[0]["params"] for name in ("run", "other"))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    for changes in ({"on_nan": "rollback"}, {"schedule": "plateau"}):
        config = dataclasses.replace(SHORT, **changes)
        with pytest.raises(ConfigError, match="this optimizer has its own"):
            go(open_experiment(config).replace(optimizer=optax.sgd(0.5)), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_another_training_source_has_lengths_of_its_own():
    config = dataclasses.replace(SHORT, num_steps=None, num_epochs=2.0, schedule_steps=None)
    experiment = open_experiment(config)
    assert experiment.num_steps == 125  # 500 images, 8 a step.
    images = np.zeros((80, 28, 28, 1), np.uint8)
    source = data.ArraySource(images, np.zeros(80, np.int32), ("a", "b"))
    assert experiment.replace(train_source=source).num_steps == 20
    assert experiment.replace(num_steps=7).replace(train_source=source).num_steps == 7
    assert open_experiment(config, train_source=source, eval_source=source).num_steps == 20
    with pytest.raises(ConfigError, match="an experiment has no part 'trainsource'; choose from"):
        experiment.replace(trainsource=source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "bfloat16"}, "takes no dtype; leave config.dtype"),
        ({"batch_norm": "global"}, "takes no norm_axis_name; leave config.batch_norm"),
    ],
)
def test_what_a_model_of_ones_own_cannot_do_is_said(monkeypatch, changes, message):
    monkeypatch.setitem(MODELS._makers, "net", lambda num_classes: Net(num_classes))
    config = dataclasses.replace(SHORT, model="net")
    assert make_model(config, 7) == Net(7)
    with pytest.raises(ConfigError, match=message):
        make_model(dataclasses.replace(config, **changes), 7)


def test_the_learning_rate_of_any_step():
    config = default_config()
    config.num_steps, config.warmup_steps, config.learning_rate = 110, 10, 0.1
    rates = [learning_rate(config, step) for step in (1, 5, 10, 60, 110)]
    half = 0.05 * (1 + np.cos(np.pi * 49 / 100))
    last = 0.05 * (1 + np.cos(np.pi * 99 / 100))
    np.testing.assert_allclose(rates, [0.01, 0.05, 0.1, half, last], rtol=1e-5, atol=1e-8)
    config.num_steps, config.num_epochs = None, 1.5
    assert learning_rate(config, 5, train_size=1000) == pytest.approx(0.05)


def test_evaluate_refuses_what_it_cannot_make(tmp_path):
    source = data.open_source("fashion_mnist_mini", "test[:32]")
    whole = data.AsIs()
    experiment = open_experiment(SHORT).replace(eval_source=source, num_steps=1)
    go(experiment, tmp_path / "source")
    go(experiment.replace(eval_transform=whole), tmp_path / "transform")
    with pytest.raises(UsageError, match="had eval_source ArraySource handed in; give --dataset"):
        evaluate.main(["--workdir", str(tmp_path / "source")])
    named = ["--dataset", "fashion_mnist_mini", "--split", "test[:32]"]
    with pytest.raises(UsageError, match="had eval_transform AsIs handed in; give --image"):
        evaluate.main(["--workdir", str(tmp_path / "transform"), *named])


@pytest.mark.parametrize("optimizer", [optax.adamw, optax.adamw(0.1)], ids=["function", "own"])
def test_a_part_is_trained_alone_by_an_optimizer_handed_in_too(tmp_path, optimizer):
    config = dataclasses.replace(SHORT, train_parts=("head",), eval_every=9, checkpoint_every=1)
    go(open_experiment(config).replace(optimizer=optimizer, num_steps=2), tmp_path)
    first, second = (saved(tmp_path, step)[0]["params"] for step in (1, 2))
    assert not np.array_equal(first.pop("head")["kernel"], second.pop("head")["kernel"])
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_weights_to_begin_with_are_for_a_resnet(tmp_path):
    go(dataclasses.replace(SHORT, num_steps=1), tmp_path / "run")
    config = dataclasses.replace(SHORT, init_from=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="config.init_from needs a ResNet"):
        go(open_experiment(config).replace(model=Net()), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_of_fewer_steps_handed_in_says_so(tmp_path, capsys):
    go(
        open_experiment(dataclasses.replace(SHORT, schedule="cosine")).replace(num_steps=1),
        tmp_path,
    )
    assert "made for 4 steps, but the run ends after 1;" in capsys.readouterr().out
