"""Which checkpoints are kept."""

import jax
import pytest

from resnet_jax.runtime.devices import data_mesh, replicate
from resnet_jax.training.checkpoint import Checkpoints, best_step
from tests.training.runs import first_state


@pytest.fixture
def state():
    return replicate(first_state(), data_mesh(jax.devices()[:1]))


def test_the_best_is_kept_though_its_error_came_after_it(tmp_path, state):
    """As where a signal ends the evaluation, and the next process does it."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(10, state, {}, None)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        _, position = checkpoints.restore(10, state)
        assert position["errors"] == {}
        for step, error in ((10, 0.1), (20, 0.3), (30, 0.4)):
            checkpoints.save(step, state, {}, error)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.restore(30, state)
        for step in (40, 50):
            checkpoints.save(step, state, {}, None)
        checkpoints.wait()
        assert {int(path.name) for path in tmp_path.iterdir()} == {10, 40, 50}
        _, position = checkpoints.restore(50, state)
        assert position["errors"]["10"] == 0.1


def test_the_best_is_the_last_of_the_lowest_errors():
    assert best_step([10, 20, 30, 40], {10: 0.2, 20: 0.1, 30: 0.1, 50: 0.0}) == 30
    assert best_step([10], {50: 0.0}) is None
