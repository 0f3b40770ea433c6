"""Configurations: what is accepted, what is refused and in which words."""

import pytest
from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError
from resnet_jax.training import default_config, resolve
from resnet_jax.training.config import KEYS, check_key
from resnet_jax.training.lengths import in_steps


def config(**changes) -> ConfigDict:
    values = default_config()
    values.num_steps = 100
    with values.unlocked(), values.ignore_type():
        for key, value in changes.items():
            values[key] = value
    return values


def test_every_key_can_be_overridden():
    assert set(default_config()) == set(KEYS)


def test_resolve_freezes_what_was_set():
    values = config(model="resnet18", learning_rate=1, boundaries=[10, 20])
    values.model_options.shortcut = "C"
    resolved = resolve(values)
    assert resolved.model == "resnet18"
    assert resolved.learning_rate == 1.0 and isinstance(resolved.learning_rate, float)
    assert resolved.boundaries == (10, 20)
    assert resolved.model_options == {"shortcut": "C"}
    assert resolved.schedule_steps == 100


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bach_size": 8}, ["bach_size", "batch_size"]),
        ({"batch_size": "8"}, ["batch_size", "int", "'8'"]),
        ({"batch_size": 0}, ["batch_size=0", "greater than 0"]),
        ({"batch_size": True}, ["batch_size", "int"]),
        ({"learning_rate": float("nan")}, ["learning_rate=nan"]),
        ({"learning_rate": -1.0}, ["learning_rate=-1.0"]),
        ({"weight_decay": -1e-4}, ["weight_decay"]),
        ({"momentum": 1.0}, ["momentum=1.0"]),
        ({"seed": -1}, ["seed=-1"]),
        ({"channels": 2}, ["channels=2", "1, 3"]),
        ({"batch_norm": "sync"}, ["batch_norm", "'local', 'global'"]),
        ({"dtype": "float16"}, ["dtype", "bfloat16"]),
        ({"num_epochs": 2.0}, ["num_steps", "num_epochs", "both"]),
        ({"num_steps": None}, ["num_steps"]),
        ({"warmup_steps": 3, "warmup_epochs": 1.0}, ["warmup_steps", "warmup_epochs"]),
        ({"schedule": "step"}, ["boundaries"]),
        ({"boundaries": (20, 10)}, ["(20, 10)", "increasing"]),
        ({"eval_split": "train"}, ["eval_split", "'train[:100%]'"]),
        ({"boundaries": (1.5,)}, ["boundaries", "integer"]),
        ({"schedule": "step", "boundaries": (50, 100)}, ["(50, 100)", "the end, step 100"]),
        ({"eval_every": 0}, ["eval_every=0"]),
        ({"on_nan": "rolback"}, ["on_nan", "did you mean 'rollback'"]),
    ],
)
def test_bad_values_are_named_in_one_line(changes, words):
    with pytest.raises(ConfigError) as error:
        resolve(config(**changes))
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    for word in words:
        assert word in message


def test_unknown_flags_name_the_nearest_key():
    with pytest.raises(
        ConfigError, match=r"--config.batchsize \(did you mean '--config.batch_size'"
    ):
        check_key("batchsize", prefix="--config.")
    check_key("model_options.shortcut")


def test_a_length_from_the_command_line_replaces_the_files_but_not_its_schedule():
    file = config(num_steps=None, num_epochs=90.0, warmup_epochs=5.0)
    changed = config(num_steps=4, num_epochs=90.0, warmup_epochs=5.0)
    resolved = resolve(changed, file)
    assert (resolved.num_steps, resolved.num_epochs) == (4, None)
    assert (resolved.schedule_steps, resolved.schedule_epochs) == (None, 90.0)
    assert resolved.warmup_epochs == 5.0


def test_two_lengths_on_the_command_line_contradict_each_other():
    file = config(num_steps=None, num_epochs=90.0)
    with pytest.raises(ConfigError, match="both"):
        resolve(config(num_steps=4, num_epochs=1.0), file)


def test_lengths_in_steps():
    run = resolve(config(num_steps=None, num_epochs=1.5, batch_size=32))
    assert in_steps(run.num_steps, run.num_epochs, run.batch_size, train_size=100) == 5
    assert in_steps(7, None, run.batch_size, train_size=100) == 7


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({"num_steps": 20}, None),  # A short try of the recipe.
        ({"num_steps": 20, "boundaries": (10,)}, None),
        ({"num_steps": 20, "boundaries": (10, 30)}, 20),
        ({"num_steps": 20, "boundaries": (10, 30), "scale_schedule": True}, None),
        ({"num_steps": 200, "boundaries": (10, 150)}, None),
        ({"num_steps": 20, "schedule_steps": 30}, 30),
    ],
)
def test_boundaries_behind_the_end(changes, end):
    recipe = config(schedule="step", boundaries=(50, 75))
    changed = config(**{"schedule": "step", "boundaries": (50, 75)} | changes)
    if end is None:
        assert resolve(changed, recipe).num_steps == changed.num_steps
    else:
        with pytest.raises(ConfigError, match=f"config.boundaries=.* the end, step {end};"):
            resolve(changed, recipe)
