"""Periods and boundaries in epochs, and what a run says about its lengths."""

import dataclasses
from pathlib import Path

import numpy as np
import optax
import pytest

from resnet_jax.commands import _recipes
from resnet_jax.errors import ConfigError
from resnet_jax.training import load_recipe, resolve
from resnet_jax.training.config import default_config
from resnet_jax.training.lengths import (
    boundaries_in_steps,
    idle_schedule,
    is_due,
    lengths,
    next_due,
    other_batch_size,
    periods,
)
from resnet_jax.training.optimizer import make_schedule
from tests.training.runs import CONFIG

IMAGENET = 1_281_167


@pytest.mark.parametrize("batch_size", [1000, 8192])
def test_resnet50_is_evaluated_once_an_epoch_at_any_batch_size(batch_size):
    recipe = load_recipe("resnet50_imagenet")
    recipe.batch_size = batch_size
    config = resolve(recipe)
    num_steps, _ = lengths(config, IMAGENET)
    period = periods(config, IMAGENET).evaluation
    evaluated = [step for step in range(num_steps + 1) if is_due(step, period)]
    # The end of each epoch, to half a step; no other at the end.
    assert len(evaluated) == 90 and evaluated[-1] == num_steps
    ends = np.arange(1, 91) * IMAGENET / batch_size
    assert np.abs(evaluated - ends).max() <= 0.5


@pytest.mark.parametrize("period", [1.0, 1.5, 7.0, 12.34, 1000.0])
def test_the_next_step_at_which_something_is_due(period):
    due = [step for step in range(3000) if is_due(step, period)]
    assert (
        due
        == sorted({round(k * period) for k in range(1, int(3000 / period) + 2)} - {3000})[
            : len(due)
        ]
    )
    for step in (0, 1, 6, 13, 999):
        assert next_due(step, period) == min(d for d in due if d > step)


def test_each_step_is_evaluated_where_an_epoch_is_less_than_one():
    config = dataclasses.replace(CONFIG, eval_every_epochs=0.01)
    assert periods(config, 100) == (1.0, 1000.0)


def test_boundaries_in_epochs_are_steps_of_the_schedule():
    config = dataclasses.replace(
        CONFIG, schedule="step", boundaries_epochs=(1.0, 2.5), learning_rate=1.0
    )
    assert boundaries_in_steps(config, 100) == (12, 31)  # 12.5 and 31.25 steps of 8.
    rate = make_schedule(config, 100)
    np.testing.assert_allclose([rate(k) for k in (11, 12, 30, 31)], [1, 0.1, 0.1, 0.01], rtol=1e-6)


@pytest.mark.parametrize("epochs", [(0.01,), (1.1, 1.11)])
def test_boundaries_that_are_no_steps_are_named(epochs):
    config = dataclasses.replace(CONFIG, schedule="step", boundaries_epochs=epochs)
    with pytest.raises(ConfigError, match="boundaries_epochs=.* must be positive and increasing"):
        boundaries_in_steps(config, 100)


def test_boundaries_that_are_scaled_to_no_steps_are_named():
    config = dataclasses.replace(
        CONFIG, schedule="step", boundaries=(10, 20), num_steps=1, scale_schedule=True
    )
    with pytest.raises(ConfigError, match=r"scaled boundaries \(10, 20\) are steps \(0, 1\) here"):
        make_schedule(config, 100)


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        ("eval_every", "eval_every_epochs"),
        ("checkpoint_every", "checkpoint_every_epochs"),
        ("boundaries", "boundaries_epochs"),
    ],
)
def test_the_command_line_may_choose_the_other_unit(steps, epochs):
    values = {steps: (5,) if steps == "boundaries" else 5, epochs: 0.5}
    values[epochs] = (0.5,) if steps == "boundaries" else 0.5
    for one, other in ((steps, epochs), (epochs, steps)):
        recipe, changed = default_config(), default_config()
        for config in (recipe, changed):
            config.num_steps, config[one] = 100, values[one]
        changed[other] = values[other]
        resolved = resolve(changed, recipe)
        assert getattr(resolved, other) == values[other] and not getattr(resolved, one)
        with pytest.raises(ConfigError, match=f"{steps} and config.{epochs} are both given"):
            resolve(changed)


def test_another_batch_size_than_the_recipes_is_said_in_epochs():
    arguments = ["--config", "cifar10_resnet20", "--config.batch_size=256"]
    config, recipe = _recipes.parse(_recipes.new_flags(), arguments)
    [line] = other_batch_size(config, recipe, 50_000)
    assert (
        "64000 steps of 256 images are 328 epochs; the recipe's 64000 steps of 128 are 164" in line
    )
    assert line.endswith("set --config.num_steps=32000 --config.scale_schedule=True")
    followed = dataclasses.replace(config, num_steps=32000, scale_schedule=True)
    assert other_batch_size(followed, recipe, 50_000) == []
    rate = make_schedule(followed, 50_000)
    np.testing.assert_allclose([rate(k) for k in (15_999, 16_000, 24_000)], [0.1, 0.01, 0.001])
    assert other_batch_size(recipe, recipe, 50_000) == []
    in_epochs = resolve(load_recipe("resnet50_imagenet"))
    assert other_batch_size(dataclasses.replace(in_epochs, batch_size=8), in_epochs, 100) == []


@pytest.mark.parametrize(
    ("schedule", "start", "end", "first"),
    [
        (optax.cosine_decay_schedule(0.1, 60), 60, 120, 61),
        (optax.cosine_decay_schedule(0.1, 60), 50, 120, 61),
        (optax.cosine_decay_schedule(0.1, 60), 40, 60, None),
        (optax.cosine_decay_schedule(0.1, 60), 60, 60, None),
        (optax.cosine_decay_schedule(0.1, 60, alpha=0.01), 60, 120, None),
        (optax.constant_schedule(0.1), 60, 120, None),
    ],
)
def test_steps_without_a_learning_rate_are_said(schedule, start, end, first):
    lines = idle_schedule(schedule, start, end, Path("runs/x"))
    if first is None:
        assert lines == []
    else:
        [line] = lines
        assert f"steps {first} to {end} change nothing, with learning rate 0" in line
        assert "new --workdir with --config.init_from=runs/x" in line
