"""The learning rate that listens to errors, against PyTorch and by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.training.config import TrainConfig
from resnet_jax.training.optimizer import make_learning_rate

PLATEAU = TrainConfig(num_steps=1, schedule="plateau", plateau_patience=2, decay_factor=0.1)
WARMUP = TrainConfig(num_steps=1, warmup_until_error=0.8, warmup_learning_rate=0.01)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_plateau_is_torchs(patience):
    config = dataclasses.replace(PLATEAU, plateau_patience=patience)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(sgd, patience=patience, eps=0)
    rate = make_learning_rate(config, 100)
    feedback = rate.start()
    errors = np.random.default_rng(1).uniform(0.2, 0.3, 30) + np.linspace(0.5, 0, 30).round(1)
    scales = []
    for error in errors.astype(np.float32).tolist():
        reference.step(error)
        feedback = rate.after_evaluation(feedback, error)
        scales.append(sgd.param_groups[0]["lr"])
        assert float(feedback.scale) == pytest.approx(scales[-1], rel=1e-5)
    assert len(set(scales)) > 2


def test_other_schedules_do_not_listen_to_evaluations():
    config = dataclasses.replace(PLATEAU, schedule="cosine", plateau_patience=0)
    rate = make_learning_rate(config, 100)
    feedback = rate.start()
    for _ in range(5):
        feedback = rate.after_evaluation(feedback, 0.5)
    assert feedback.scale == 1


def test_warm_up_ends_once_the_training_error_is_low_and_for_good():
    rate = make_learning_rate(WARMUP, 100)
    feedback, rates = rate.start(), []
    average = 1.0
    for error in [0.9] * 60 + [0.5] * 60 + [1.0] * 60:
        feedback = rate.after_step(feedback, jnp.float32(error))
        average = 0.98 * average + 0.02 * error
        rates.append(float(rate(0, feedback)))
        assert float(feedback.train_error) == pytest.approx(average, rel=1e-4)
    first = rates.index(pytest.approx(0.1))
    assert 60 < first < 120
    np.testing.assert_allclose(rates[:first], 0.01, rtol=1e-6)
    np.testing.assert_allclose(rates[first:], 0.1, rtol=1e-6)


def test_without_warm_up_by_error_the_schedule_holds_from_the_start():
    rate = make_learning_rate(dataclasses.replace(PLATEAU, learning_rate=0.3), 100)
    assert rate(0, rate.start()) == jnp.float32(0.3)
