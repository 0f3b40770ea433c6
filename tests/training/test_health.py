"""Runs that diverge: what is said of the first bad step, and going back with a lower rate."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import loop
from resnet_jax.training.loop import train
from resnet_jax.training.records import read_metrics
from resnet_jax.training.report import Diverged, diverged, layers
from resnet_jax.training.state import Health
from tests.training.test_loop import CONFIG, saved

PARAMS = {
    "stem": {"conv": {"kernel": jnp.ones((2, 2))}},
    "stage1": {
        "block1": {"conv1": {"kernel": jnp.ones(3)}, "bn1": {"scale": jnp.ones(2)}},
        "block2": {"shortcut": {"conv": {"kernel": jnp.ones(1)}}},
        "block10": {"conv1": {"kernel": jnp.ones(1)}},
    },
    "head": {"bias": jnp.full(4, 2.0)},
}
STATISTICS = {
    "stem": {"bn": {"mean": jnp.ones(2), "var": jnp.ones(2)}},
    "stage1": {"block1": {"bn1": {"mean": jnp.ones(2)}, "bn2": {"mean": jnp.ones(2)}}},
}


def spoiled(tree, *names):
    """`tree` with a value that is not finite in the layers named."""

    def spoil(path, leaf):
        at = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf.at[0].set(jnp.inf) if any(name in at for name in names) else leaf

    return jax.tree_util.tree_map_with_path(spoil, tree)


def say(loss, grads, statistics):
    health = Health.of(jnp.float32(loss), grads, statistics)
    metrics = {"health": health, "learning_rate": 0.5}
    return health, str(diverged(7, metrics, layers(grads), layers(statistics)))


def test_a_healthy_step():
    health, text = say(3.0, PARAMS, STATISTICS)
    assert health.is_finite()
    # Four ones, three, two, one, one and four twos.
    assert "step 7: loss 3, learning rate 0.5, gradient norm 5.196;" in text
    assert math.isclose(5.196, math.sqrt(4 + 3 + 2 + 1 + 1 + 16), abs_tol=1e-3)


@pytest.mark.parametrize(
    ("loss", "bad_gradients", "bad_statistics", "layer"),
    [
        (math.nan, ["stem", "block1", "head"], ["bn1", "bn2"], "stage1/block1/bn1"),
        (math.nan, ["head"], ["bn2"], "stage1/block1/bn2"),
        (1.0, [], ["bn1", "stem"], "stem/bn"),
        (math.inf, ["head", "stem"], [], "head"),
        (1.0, ["stem", "block1/", "block2"], [], "stage1/block2/shortcut/conv"),
        (1.0, ["stem", "block10", "block2"], [], "stage1/block10/conv1"),
        (1.0, ["block1/conv1", "block1/bn1"], [], "stage1/block1/bn1"),
    ],
)
def test_the_first_bad_layer(loss, bad_gradients, bad_statistics, layer):
    grads = spoiled(PARAMS, *bad_gradients)
    health, text = say(loss, grads, spoiled(STATISTICS, *bad_statistics))
    assert not health.is_finite()
    assert f", first bad layer {layer};" in text


pytestmark = pytest.mark.usefixtures("resnet8")

# Momentum 0.9 is stable as long as learning_rate * weight_decay is below 2 * (1 + 0.9).
UNSTABLE = dataclasses.replace(
    CONFIG, weight_decay=60.0, warmup_steps=None, schedule="constant", log_every=5
)


def run(workdir, **changes):
    config = dataclasses.replace(UNSTABLE, **changes)
    return train(config, workdir, data_mesh(jax.devices()[:1]))


def test_a_diverging_run_stops_and_saves_nothing_bad(tmp_path):
    with pytest.raises(Diverged, match=r"step \d+: loss .*, learning rate 0.1, gradient norm"):
        run(tmp_path, checkpoint_every=4, eval_every=1000, keep_checkpoints=100)
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    for step in steps:
        state, _ = saved(tmp_path, step)
        for name in ("params", "batch_stats", "opt_state"):
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state[name]))
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert not losses[-1] < 1e4 and all(loss < 1e4 for loss in losses[:-1])


def test_a_rollback_halves_the_learning_rate_and_is_as_exact_as_any_run(tmp_path):
    """The way there, killed and taken up again after the rollback, leads to the same state."""
    changes = {
        "on_nan": "rollback",
        "checkpoint_every": 20,
        "eval_every": 30,
        "eval_split": "test[:16]",
    }
    whole = tmp_path / "whole"
    run(whole, **changes)
    rates = {r["step"]: r["learning_rate"] for r in read_metrics(whole) if r["split"] == "train"}
    assert list(rates) == list(range(5, 61, 5))  # Each step once.
    assert rates[60] == np.float32(0.05)
    state, position = saved(whole, 60)
    assert position["rollbacks"] == 1
    assert state["feedback"]["scale"] == 0.5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))

    parts = tmp_path / "parts"
    for num_steps in (30, 60):
        run(parts, num_steps=num_steps, **changes)
    other, other_position = saved(parts, 60)
    assert other_position == position
    for name in ("params", "batch_stats", "opt_state", "feedback"):
        jax.tree.map(np.testing.assert_array_equal, other[name], state[name])


def test_rollbacks_come_to_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "ROLLBACK_FACTOR", 1.0)
    taken = []
    roll_back = loop._Run.roll_back
    monkeypatch.setattr(
        loop._Run, "roll_back", lambda self, error: taken.append(error) or roll_back(self, error)
    )
    with pytest.raises(Diverged) as last:
        run(tmp_path, on_nan="rollback", checkpoint_every=1000, eval_every=1000)
    assert len(taken) == loop.MAX_ROLLBACKS + 1 == 6
    assert {str(error) for error in taken} == {str(last.value)}  # The same each time.
