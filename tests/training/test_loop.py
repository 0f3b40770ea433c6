"""Whole runs on the bundled images: records, checkpoints, and going on as if never stopped."""

import dataclasses
import json
import re
import shutil
import types
from functools import partial
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from resnet_jax.errors import ConfigError
from resnet_jax.ops import stock
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import TrainConfig, loop
from resnet_jax.training import experiment as experiment_module
from resnet_jax.training.checkpoint import SUMS, write_sums
from resnet_jax.training.experiment import open_experiment, resident_arrays, steps_at_once
from resnet_jax.training.loop import train
from resnet_jax.training.records import read_metrics
from resnet_jax.training.report import Diverged
from resnet_jax.training.workdir import open_workdir

CONFIG = TrainConfig(
    model="resnet8_cifar",
    dataset="fashion_mnist_mini",
    train_split="train[:500]",
    eval_split="test[:101]",
    augmentation="cifar",
    preprocess="cifar",
    batch_size=8,
    eval_batch_size=64,
    num_steps=60,
    schedule_steps=60,
    warmup_steps=5,
    log_every=10,
    eval_every=25,
    checkpoint_every=20,
    keep_checkpoints=2,
)


pytestmark = pytest.mark.usefixtures("resnet8")


def run(config, workdir):
    return train(config, workdir, data_mesh(jax.devices()[:1]))


def saved(workdir, step):
    """Everything that the checkpoint of a step holds, read by Orbax alone."""
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "state")
    position = (workdir / "checkpoints" / str(step) / "data" / "metadata").read_text()
    return state, json.loads(position)


def without_step(position, step):
    """Leaves out where a stopped run was evaluated; that may be its best checkpoint."""
    errors = {key: error for key, error in position["errors"].items() if key != str(step)}
    return position | {"errors": errors}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, resnet8):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(CONFIG, workdir)


def test_records(whole):
    workdir, final = whole
    records = read_metrics(workdir)
    assert [r["step"] for r in records if r["split"] == "train"] == [10, 20, 30, 40, 50, 60]
    evaluations = [r for r in records if r["split"] == "test[:101]"]
    assert [r["step"] for r in evaluations] == [25, 50, 60]
    assert {r["num_examples"] for r in evaluations} == {101}
    assert final["test[:101]"] == records[-1]
    for record in records:
        assert 0 <= record["top5_error"] <= record["top1_error"] <= 1
        assert record["loss"] > 0
    assert all(r["images_per_second"] > 0 for r in records if r["split"] == "train")
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").iterdir())
    config = json.loads((workdir / "config.json").read_text())
    assert config["batch_size"] == 8 and set(config) == {
        field.name for field in dataclasses.fields(TrainConfig)
    }


def test_it_learns(whole):
    workdir, _ = whole
    losses = [r["loss"] for r in read_metrics(workdir) if r["split"] == "train"]
    assert losses[-1] < 0.8 * losses[0]


def test_the_newest_and_the_best_checkpoints_are_kept(whole):
    workdir, _ = whole
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    evaluations = {
        r["step"]: r["top1_error"] for r in read_metrics(workdir) if r["split"] != "train"
    }
    best = min(evaluations, key=lambda step: (evaluations[step], -step))
    assert kept == {50, 60, best}


def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path):
    run(dataclasses.replace(CONFIG, num_steps=37), tmp_path)
    run(CONFIG, tmp_path)
    state, position = saved(tmp_path, 60)
    expected_state, expected_position = saved(whole[0], 60)
    assert without_step(position, 37) == expected_position
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected_state):
        other = state
        for key in path:
            other = other[getattr(key, "key", getattr(key, "idx", None))]
        np.testing.assert_array_equal(other, leaf, err_msg=jax.tree_util.keystr(path))

    errors = {r["step"]: r["top1_error"] for r in read_metrics(tmp_path) if r["split"] != "train"}
    best = min(errors, key=lambda step: (errors[step], -step))
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {50, 60, best}

    def lines(workdir):
        return [
            {key: value for key, value in record.items() if "second" not in key}
            for record in read_metrics(workdir)
            if record["step"] not in (37, 40)
        ]

    assert lines(tmp_path) == lines(whole[0])
    steps = [r["step"] for r in read_metrics(tmp_path) if r["split"] == "train"]
    assert steps == sorted(set(steps))


def test_a_finished_run_is_left_as_it_is(whole):
    workdir, final = whole
    before = (workdir / "metrics.jsonl").read_text()
    assert run(CONFIG, workdir) == final
    assert (workdir / "metrics.jsonl").read_text() == before


def test_another_configurations_directory_is_refused(whole):
    workdir, _ = whole
    before = (workdir / "config.json").read_text()
    changed = dataclasses.replace(CONFIG, learning_rate=0.2, batch_size=16, log_every=1)
    with pytest.raises(ConfigError, match=r"batch_size \(8, now 16\), learning_rate \(0.1"):
        run(changed, workdir)
    assert (workdir / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ({"scale_schedule": True}, {"num_steps": 120}, r"num_steps \(60, now 120\)"),
        ({"schedule": "plateau"}, {"eval_every": 10}, r"eval_every \(25, now 10\)"),
    ],
)
def test_what_moves_the_learning_rate_belongs_to_the_run(tmp_path, recipe, changes, message):
    config = dataclasses.replace(CONFIG, **recipe)
    with open_workdir(tmp_path, config):
        pass
    with (
        pytest.raises(ConfigError, match=message),
        open_workdir(tmp_path, dataclasses.replace(config, **changes)),
    ):
        pass


def test_a_run_that_is_to_end_where_it_stands_is_evaluated_there(tmp_path):
    longer = dataclasses.replace(CONFIG, checkpoint_every=10, eval_every=1000)
    run(dataclasses.replace(longer, num_steps=30), tmp_path)
    log = tmp_path / "metrics.jsonl"
    *lines, evaluation = log.read_text().splitlines(keepends=True)
    assert json.loads(evaluation)["split"] == CONFIG.eval_split
    # As a longer run that a signal ended there.
    log.write_text("".join(lines))
    position = tmp_path / "checkpoints" / "30" / "data" / "metadata"
    position.write_text(json.dumps(json.loads(position.read_text()) | {"errors": {}}))
    sums = tmp_path / "checkpoints" / "30" / SUMS
    sums.unlink(), write_sums(sums.parent)
    run(dataclasses.replace(longer, num_steps=30), tmp_path)
    assert log.read_text() == "".join([*lines, evaluation])


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"num_epochs": 0.5}, None),  # The recipe's boundaries, of which 31 steps reach none.
        ({"num_epochs": 3.0, "boundaries": (50, 150)}, None),
        ({"num_epochs": 0.5, "boundaries": (50, 62)}, 62),
        ({"num_epochs": 3.0, "boundaries": (50, 100), "scale_schedule": True}, 62),
    ],
)
def test_boundaries_behind_the_end_of_a_run_in_epochs(changes, end):
    """An epoch of 500 images is 62.5 steps."""
    lengths = {"num_steps": None, "schedule_steps": None, "schedule_epochs": 1.0}
    config = dataclasses.replace(
        CONFIG, **lengths | {"schedule": "step", "boundaries": (50,)} | changes
    )
    if end is None:
        open_experiment(config)
    else:
        with pytest.raises(ConfigError, match=f"boundaries=.* the end, step {end};"):
            open_experiment(config)


def test_a_run_of_an_older_version_goes_on(whole):
    """Keys that came later are taken to have had their defaults."""
    workdir, final = whole
    path = workdir / "config.json"
    config = json.loads(path.read_text())
    del config["skip_head"], config["ema_decay"]
    path.write_text(json.dumps(config))
    assert run(CONFIG, workdir) == final


@pytest.mark.parametrize("text", ["", "[]", "{", "7"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json is not a run's configuration"):
        run(CONFIG, tmp_path)
    assert (tmp_path / "config.json").read_text() == text


def test_devices_must_divide_the_batch(tmp_path):
    with pytest.raises(ConfigError, match="batch_size=8 does not divide over 3 devices"):
        train(CONFIG, tmp_path / "run", data_mesh(jax.devices()[:3]))
    assert not (tmp_path / "run").exists()


def test_more_classes_than_outputs_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="10 classes, the model only 5"):
        run(dataclasses.replace(CONFIG, num_classes=5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_do_not_change_a_run(tmp_path, workers):
    config = dataclasses.replace(CONFIG, num_steps=4, checkpoint_every=4)
    run(config, tmp_path / "none")
    run(dataclasses.replace(config, loader_workers=workers), tmp_path / "some")
    (expected, position), (state, other) = saved(tmp_path / "none", 4), saved(tmp_path / "some", 4)
    assert position == other
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_images_kept_on_the_device_do_not_change_a_run(whole, tmp_path):
    """Also where a run that the host cut the images for is taken up again with them."""
    run(dataclasses.replace(CONFIG, num_steps=37), tmp_path)
    run(dataclasses.replace(CONFIG, device_resident="yes"), tmp_path)
    (expected, position), (state, other) = saved(whole[0], 60), saved(tmp_path, 60)
    assert position == without_step(other, 37)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_several_steps_at_once_are_the_same_steps(tmp_path, monkeypatch):
    """As on an accelerator; from a step that is no multiple, and up to one that is none.

    Two programs round differently, which at the kink of an activation changes gradients. These
    activations have none.
    """
    monkeypatch.setattr(stock, "rectified", nn.softplus)
    config = dataclasses.replace(CONFIG, learning_rate=1e-3, num_steps=23, log_every=5)
    run(config, tmp_path / "one")
    sent = []

    def next_batch(self, batches, steps=1):
        sent.append(steps)
        return take(self, batches, steps)

    take = loop.Dispatch.next_batch
    monkeypatch.setattr(loop.Dispatch, "next_batch", next_batch)
    monkeypatch.setattr(loop, "steps_at_once", lambda config, mesh: 5)
    config = dataclasses.replace(config, device_resident="yes")
    run(dataclasses.replace(config, num_steps=8), tmp_path / "five")
    run(config, tmp_path / "five")
    assert sent == [5, 1, 1, 1] + [1, 1, 5, 5, 1, 1, 1]
    (expected, position), (state, other) = saved(tmp_path / "one", 23), saved(tmp_path / "five", 23)
    assert position.pop("errors").keys() == {"23"}
    assert other.pop("errors").keys() == {"8", "23"}  # Where it was to end at first.
    assert position == other
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, state["params"], expected["params"])
    # The line of step 8, where the first part ended, has taken two steps off that of step 10.
    one, five = (
        [record for record in read_metrics(tmp_path / name) if record["step"] not in (8, 10)]
        for name in ("one", "five")
    )
    for record, expected in zip(five, one, strict=True):
        for name in ("step", "split", "top1_error", "learning_rate"):
            assert record.get(name) == expected.get(name)
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_several_steps_at_once_end_at_periods_in_epochs(tmp_path, monkeypatch):
    """An epoch of 50 images is 6.25 steps: evaluations after 6 and, rounded, 12 of them."""
    sent = []

    def next_batch(self, batches, steps=1):
        sent.append(steps)
        return take(self, batches, steps)

    take = loop.Dispatch.next_batch
    monkeypatch.setattr(loop.Dispatch, "next_batch", next_batch)
    monkeypatch.setattr(loop, "steps_at_once", lambda config, mesh: 5)
    run(
        dataclasses.replace(
            CONFIG,
            device_resident="yes",
            train_split="train[:50]",
            num_steps=14,
            eval_every=None,
            eval_every_epochs=1.0,
        ),
        tmp_path,
    )
    assert sent == [5, 1] + [1] * 4 + [1, 1] + [1, 1]
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records if r["split"] != "train"] == [6, 12, 14]


def test_more_steps_of_a_finished_run_say_that_they_change_nothing(whole, tmp_path, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    run(dataclasses.replace(CONFIG, num_steps=62), tmp_path / "run")
    line = capsys.readouterr().out.splitlines()[0]
    assert "steps 61 to 62 change nothing, with learning rate 0" in line and str(tmp_path) in line


def test_another_batch_size_than_the_recipes_is_said_once(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, num_steps=2, schedule_steps=2, eval_every=9)
    recipe = dataclasses.replace(config, batch_size=4)
    said = []
    for _ in range(2):
        train(config, tmp_path, data_mesh(jax.devices()[:1]), recipe=recipe)
        said.append("2 steps of 8 images are 0.032 epochs" in capsys.readouterr().out)
    assert said == [True, False]


def test_the_step_of_several_that_diverged_is_named(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, learning_rate=1e12, warmup_steps=None)
    with pytest.raises(Diverged) as one_by_one:
        run(config, tmp_path / "one")
    monkeypatch.setattr(loop, "steps_at_once", lambda config, mesh: 10)
    with pytest.raises(Diverged) as at_once:
        run(dataclasses.replace(config, device_resident="yes"), tmp_path / "ten")
    step = re.compile(r"diverged at step (\d+)")
    assert step.search(str(at_once.value))[1] == step.search(str(one_by_one.value))[1]
    assert int(step.search(str(at_once.value))[1]) < 10


def mesh_of(platform):
    return mock.Mock(Mesh, devices=np.array([types.SimpleNamespace(platform=platform)]))


def test_as_many_steps_at_once_as_fit_between_what_happens(monkeypatch):
    def count(platform="gpu", **changes):
        mesh = mesh_of(platform)
        config = TrainConfig(log_every=100, eval_every=1000, checkpoint_every=500)
        return steps_at_once(dataclasses.replace(config, **changes), mesh)

    assert count() == 50 and count("cpu") == 1
    assert count(log_every=10) == 10 and count(checkpoint_every=7) == 1
    assert count(profile_steps=(101, 104)) == 4
    assert count(eval_every=None, eval_every_epochs=0.3, log_every=40) == 20


def test_an_accelerator_keeps_the_images_if_they_are_not_too_many(monkeypatch):
    experiment = open_experiment(CONFIG)

    def kept(platform, **changes):
        mesh = mesh_of(platform)
        config = dataclasses.replace(CONFIG, **changes)
        return resident_arrays(dataclasses.replace(experiment, config=config), mesh) is not None

    assert kept("gpu") and not kept("cpu") and not kept("gpu", device_resident="no")
    monkeypatch.setattr(experiment_module, "MAX_RESIDENT_BYTES", 500 * 28 * 28 - 1)
    assert not kept("gpu") and kept("gpu", device_resident="yes")


def test_images_in_files_cannot_be_kept_on_the_device(tmp_path):
    config = dataclasses.replace(
        CONFIG, device_resident="yes", augmentation="imagenet", image_size=8
    )
    with pytest.raises(ConfigError, match="device_resident='yes' needs a data set of arrays"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_eight_devices_goes_on_with_one_and_with_four(tmp_path, monkeypatch):
    """With shared statistics the number of devices does not change the run, but for rounding."""
    monkeypatch.setattr(stock, "rectified", nn.softplus)  # Without a kink.
    config = dataclasses.replace(
        CONFIG, batch_norm="global", learning_rate=1e-3, eval_every=100, log_every=1
    )
    for num_steps, devices in ((2, 8), (4, 1), (6, 4)):
        mesh = data_mesh(jax.devices()[:devices])
        train(dataclasses.replace(config, num_steps=num_steps), tmp_path / "moved", mesh)
    train(dataclasses.replace(config, num_steps=6), tmp_path / "one", data_mesh(jax.devices()[:1]))
    moved, one = (
        [r["loss"] for r in read_metrics(tmp_path / name) if r["split"] == "train"]
        for name in ("moved", "one")
    )
    assert len(moved) == 6
    np.testing.assert_allclose(moved, one, rtol=1e-3)
