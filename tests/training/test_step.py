"""The compiled step against PyTorch on one device, and against itself on several."""

import dataclasses
import sys
from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.models import create_model
from resnet_jax.runtime.devices import data_mesh, shard_batch
from resnet_jax.training.config import TrainConfig
from tests.training.steps import make_step

CONFIG = TrainConfig(
    num_steps=10, schedule_steps=10, schedule="step", boundaries=(2,), learning_rate=0.05
)


pytestmark = pytest.mark.usefixtures("resnet8")

HALVES = (slice(0, 4), slice(4, 8))


def batches(count: int, size: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (size, 8, 8, 3), dtype=np.uint8),
            "label": rng.integers(0, 10, size, dtype=np.int32),
        }
        for _ in range(count)
    ]


def run(devices: int, data, norm_axis_name=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    mesh = data_mesh(jax.devices()[:devices])
    model = create_model("resnet8_cifar", 10, norm_axis_name=norm_axis_name)
    step, state = make_step(config, model, mesh, (8, 8, 3))
    rates = []
    for batch in data:
        state, metrics = step(state, shard_batch(batch, mesh))
        rates.append(float(metrics["learning_rate"]))
    assert step._cache_size() <= 1, "the step was compiled more than once"
    return jax.device_get(state), rates


@pytest.fixture(scope="module")
def one_device(resnet8):
    return run(1, batches(3, 8))


def test_the_step_counts_and_follows_the_schedule(one_device):
    state, rates = one_device
    assert state.step == 3
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005], rtol=1e-6)
    assert state.sums.count == 24


def test_the_state_depends_on_the_seed_alone(one_device):
    again, _ = run(1, batches(3, 8))
    for a, b in zip(jax.tree.leaves(one_device[0]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other, _ = run(1, batches(3, 8), seed=1)
    assert not np.array_equal(
        one_device[0].params["head"]["kernel"], other.params["head"]["kernel"]
    )


def test_shared_statistics_on_four_devices_are_one_devices():
    data = batches(3, 8)
    with jax.enable_x64(True):
        one, _ = run(1, data)
        four, _ = run(4, data, norm_axis_name="data")
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_statistics_of_their_own_are_averaged_over_devices():
    """Running statistics after a step: the mean of what each half of the batch alone gives."""
    (data,) = batches(1, 8)
    halves = [{name: array[part] for name, array in data.items()} for part in HALVES]
    both = run(2, [data])[0].batch_stats
    alone = [run(1, [half])[0].batch_stats for half in halves]
    means = jax.tree.map(lambda a, b: (a + b) / 2, *alone)
    for a, b in zip(jax.tree.leaves(means), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_accumulation_is_the_large_batch_where_statistics_are_frozen(monkeypatch):
    """Parts of a batch, summed up, against the whole; batch statistics would differ, so none."""
    monkeypatch.setattr(
        sys.modules[__name__], "create_model", partial(create_model, freeze_batch_norm=True)
    )
    data = batches(2, 8)
    with jax.enable_x64(True):
        whole, _ = run(2, data)
        parts, _ = run(2, data, accumulate_steps=4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_accumulated_statistics_move_once_a_part():
    """Running statistics after a step in two parts are those after one step on each part."""
    (data,) = batches(1, 8)
    parts, _ = run(1, [data], accumulate_steps=2)
    halves = [{name: array[part] for name, array in data.items()} for part in HALVES]
    apart, _ = run(1, halves, learning_rate=1e-30, weight_decay=0.0)
    for a, b in zip(
        jax.tree.leaves(parts.batch_stats), jax.tree.leaves(apart.batch_stats), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_moving_averages_of_weights_and_statistics():
    data = batches(3, 8)
    states = [run(1, data[:count], ema_decay=0.15)[0] for count in range(4)]
    average = {"params": states[0].params, "batch_stats": states[0].batch_stats}
    for count, state in enumerate(states[1:], start=1):
        decay = min(0.15, (1 + count) / (10 + count))
        new = {"params": state.params, "batch_stats": state.batch_stats}
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, average, new)
        assert state.variables is state.average
        for a, b in zip(jax.tree.leaves(average), jax.tree.leaves(state.average), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_colour_shifts_do_not_depend_on_the_number_of_devices():
    data = batches(2, 8)
    with jax.enable_x64(True):
        plain, _ = run(1, data, norm_axis_name="data")
        one, _ = run(1, data, norm_axis_name="data", color_augmentation="pca")
        four, _ = run(4, data, norm_axis_name="data", color_augmentation="pca")
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    kernel = plain.params["stem"]["conv"]["kernel"]
    assert np.abs(one.params["stem"]["conv"]["kernel"] - kernel).max() > 1e-4
