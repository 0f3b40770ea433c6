"""Runs opened for evaluation: the right checkpoint, as it was saved, on other devices."""

import json

import jax
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training.restore import open_run, read_config
from tests.training.runs import CONFIG, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return workdir, make_run(workdir)


@pytest.mark.parametrize(
    ("checkpoint", "step"), [("latest", 30), ("best", 20), ("10", 10), ("30", 30)]
)
def test_a_checkpoint_comes_back_as_it_was_saved(run, checkpoint, step):
    workdir, states = run
    opened = open_run(str(workdir), checkpoint)
    assert (opened.step, opened.channels, opened.config) == (step, 1, CONFIG)
    network, state = opened.network, states[step]
    assert network.model.num_classes == 10
    jax.tree.map(np.testing.assert_array_equal, network.variables, state.variables)
    np.testing.assert_array_equal(network.normalization.mean, state.normalization.mean)
    assert network.normalization.mean.shape == (28, 28, 1)
    # Saved by eight devices; here none is asked for.
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(network.variables))


def test_averages_are_what_is_evaluated(tmp_path):
    states = make_run(tmp_path / "run", [(5, 0.5)], ema_decay=0.9)
    network = open_run(tmp_path / "run").network
    jax.tree.map(np.testing.assert_array_equal, network.variables, states[5].average)


def test_of_equally_good_checkpoints_the_newest_is_best(run, tmp_path):
    workdir, _ = run
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.json").write_text((workdir / "config.json").read_text())
    for step in (10, 20, 30):
        (copy / "checkpoints" / str(step)).symlink_to(workdir / "checkpoints" / str(step))
    lines = [(10, 0.3), (20, 0.3), (25, 0.1), (30, 0.4)]
    (copy / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "split": CONFIG.eval_split, "top1_error": error}) + "\n"
            for step, error in lines
        )
    )
    assert open_run(copy, "best").step == 20  # That of step 25 is gone.
    (copy / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no checkpoint of .* was evaluated"):
        open_run(copy, "best")


def test_a_configuration_of_an_older_version_has_the_defaults(run, tmp_path):
    values = json.loads((run[0] / "config.json").read_text())
    del values["ema_decay"], values["log_every"]
    values["boundaries"] = [3, 5]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config, _ = read_config(tmp_path)
    assert (config.ema_decay, config.log_every, config.boundaries) == (None, 100, (3, 5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read .*config.json: No such file .*; give a work directory of train.py"),
        ("{", "config.json is not a run's configuration"),
        ("3", "config.json is not a run's configuration"),
        ('{"a_new_key": 1}', "has the unknown key a_new_key; it needs a newer"),
        ('{"num_steps": 1}', "has no checkpoint yet"),
    ],
)
def test_directories_of_no_run(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_run(tmp_path)


@pytest.mark.parametrize("checkpoint", ["15", "newest", "-10", ""])
def test_checkpoints_that_are_not_there(run, checkpoint):
    with pytest.raises(ConfigError, match="choose from best, latest, 10, 20, 30"):
        open_run(run[0], checkpoint)
