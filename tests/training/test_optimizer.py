"""SGD and the schedules against `torch.optim`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from resnet_jax.training.config import TrainConfig
from resnet_jax.training.lengths import lengths, unfitted_schedule
from resnet_jax.training.optimizer import make_optimizer, make_schedule

RECIPE = TrainConfig(num_steps=100, schedule_steps=100, batch_size=10)


def rates(config: TrainConfig, count: int, train_size: int = 1000) -> np.ndarray:
    schedule = make_schedule(config, train_size)
    return np.asarray([schedule(jnp.asarray(k)) for k in range(count)])


def torch_rates(make, count: int, peak: float) -> np.ndarray:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    schedule = make(optimizer)
    values = []
    for _ in range(count):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.asarray(values)


def test_constant():
    config = dataclasses.replace(RECIPE, schedule="constant", learning_rate=0.3)
    np.testing.assert_allclose(rates(config, 5), 0.3)


def test_step_is_torch_multistep():
    config = dataclasses.replace(RECIPE, schedule="step", boundaries=(3, 7), decay_factor=0.2)
    expected = torch_rates(
        lambda sgd: torch.optim.lr_scheduler.MultiStepLR(sgd, [3, 7], gamma=0.2), 12, 0.1
    )
    np.testing.assert_allclose(rates(config, 12), expected, rtol=1e-6)


def test_cosine_is_torch_cosine():
    config = dataclasses.replace(RECIPE, schedule="cosine", schedule_steps=20)
    expected = torch_rates(lambda sgd: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 20), 20, 0.1)
    np.testing.assert_allclose(rates(config, 20), expected, rtol=1e-5, atol=1e-9)
    assert rates(config, 25)[-1] == 0


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_warmup_rises_linearly_to_the_peak_and_leaves_the_rest_alone(schedule):
    config = dataclasses.replace(RECIPE, schedule=schedule, boundaries=(50,), warmup_steps=4)
    values = rates(config, 60)
    np.testing.assert_allclose(values[:4], [0.025, 0.05, 0.075, 0.1], rtol=1e-6)
    np.testing.assert_allclose(values[4], 0.1, rtol=1e-6)
    if schedule == "cosine":
        left = 0.5 * (1 + np.cos(np.pi * (np.arange(4, 60) - 4) / 96)) * 0.1
        np.testing.assert_allclose(values[4:], left, rtol=1e-4)


def test_lengths_in_epochs_and_linear_scaling():
    config = dataclasses.replace(
        RECIPE,
        num_steps=None,
        num_epochs=2.0,
        schedule_steps=None,
        schedule_epochs=2.0,
        warmup_epochs=0.5,
        batch_size=50,
        learning_rate_batch_size=25,
    )
    values = rates(config, 41)  # 20 steps an epoch.
    assert values.argmax() in (9, 10)
    np.testing.assert_allclose(values.max(), 0.2, rtol=1e-6)
    assert values[40] == 0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_are_torch_sgd(momentum):
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    grads = [{k: rng.normal(size=v.shape) for k, v in start.items()} for _ in range(12)]
    config = dataclasses.replace(
        RECIPE, schedule="step", boundaries=(6,), momentum=momentum, weight_decay=0.03
    )

    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in start.items()}
    sgd = torch.optim.SGD(tensors.values(), lr=0.1, momentum=momentum, weight_decay=0.03)
    decay = torch.optim.lr_scheduler.MultiStepLR(sgd, [6])
    for grad in grads:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grad[name])
        sgd.step()
        decay.step()

    with jax.enable_x64(True):
        optimizer, schedule = make_optimizer(config), make_schedule(config, 1000)
        params = jax.tree.map(jnp.asarray, start)
        state = optimizer(0.0).init(params)
        for count, grad in enumerate(grads):
            rate = schedule(count)
            update = optimizer(rate).update
            updates, state = update(jax.tree.map(jnp.asarray, grad), state, params)
            params = optax.apply_updates(params, updates)
        for name, tensor in tensors.items():
            # The learning rate is float32's nearest to 0.1 and 0.01.
            np.testing.assert_allclose(params[name], tensor.detach(), rtol=0, atol=1e-7)


def test_a_longer_or_shorter_run_can_stretch_the_schedule():
    config = dataclasses.replace(
        RECIPE, schedule="step", boundaries=(50, 75), warmup_steps=8, num_steps=20
    )
    assert rates(config, 20).min() == pytest.approx(0.1 / 8)
    stretched = rates(dataclasses.replace(config, scale_schedule=True), 20)
    np.testing.assert_allclose(stretched[2:10], 0.1, rtol=1e-6)
    np.testing.assert_allclose(stretched[10:15], 0.01, rtol=1e-6)
    np.testing.assert_allclose(stretched[15:], 0.001, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule": "cosine"}, "cosine schedule is made for 100 steps, but the run ends"),
        ({"schedule": "cosine", "num_steps": 120}, "the run ends after 120"),
        ({"schedule": "cosine", "num_steps": 100}, None),
        ({"schedule": "cosine", "scale_schedule": True}, None),
        ({"schedule": "step", "boundaries": (40, 80)}, "step schedule is made for 100 steps"),
        ({"schedule": "step", "boundaries": (40, 79)}, None),
        ({"schedule": "constant"}, None),
        ({"schedule": "plateau"}, None),
        ({"num_steps": None, "num_epochs": 2.0}, "the run ends after 200"),
    ],
)
def test_a_schedule_of_another_length_than_the_runs_is_told(changes, said):
    config = dataclasses.replace(RECIPE, **{"num_steps": 80} | changes)
    lines = unfitted_schedule(config, 1000, lengths(config, 1000)[0])
    if said is None:
        assert lines == []
    else:
        [line] = lines
        assert said in line and "--config.scale_schedule=True" in line


def test_weight_decay_can_spare_all_but_kernels():
    params = {
        "stem": {
            "conv": {"kernel": jnp.ones(2)},
            "bn": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
        },
        "head": {"kernel": jnp.ones(2), "bias": jnp.ones(2)},
    }
    config = dataclasses.replace(RECIPE, weight_decay=0.5, decay_scales_and_biases=False)
    optimizer = make_optimizer(config)(0.1)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    decayed = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, update in jax.tree_util.tree_leaves_with_path(updates)
        if np.any(update)
    }
    assert decayed == {"stem/conv/kernel", "head/kernel"}
