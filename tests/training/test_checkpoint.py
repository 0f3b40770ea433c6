"""Which checkpoints are kept."""

import jax
import pytest

from resnet_jax.runtime.devices import data_mesh, replicate
from resnet_jax.training.checkpoint import (
    SUMS,
    Checkpoints,
    best_step,
    find_damage,
    set_damaged_aside,
)
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


@pytest.mark.parametrize("name", [".DS_Store", "@eaDir/x", "Thumbs.db", "state/._manifest.ocdbt"])
def test_what_a_system_leaves_in_a_checkpoint_is_no_damage(tmp_path, state, name):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(10, state, {}, None)
    written = {path for path in (tmp_path / "10").rglob("*") if path.is_file()}
    assert not [path for path in written if path.name.startswith(".")]
    for folder in (tmp_path, tmp_path / "10"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert find_damage(tmp_path / "10") is None and set_damaged_aside(tmp_path) == []
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step() == 10
        checkpoints.restore(10, state)
    # What belongs to the checkpoint is still guarded, and so is what else is added.
    (tmp_path / "10" / "other").touch()
    assert find_damage(tmp_path / "10") == f"other is not in its {SUMS}"


def test_digests_of_what_a_system_left_earlier_are_not_missed(tmp_path, state):
    """It was there while the digests were written by an older version, and is removed now."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(10, state, {}, None)
    with open(tmp_path / "10" / SUMS, "a", encoding="utf-8") as file:
        file.write(f"{'0' * 64}  .DS_Store\n")
    assert find_damage(tmp_path / "10") is None
