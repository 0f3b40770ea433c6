"""Damaged checkpoints of each kind: found by their digests, named, set aside; the newest good one.

What a training process makes of them is in tests/faults.
"""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training.checkpoint import SUMS, find_damage, set_damaged_aside
from resnet_jax.training.restore import open_run
from tests.training.runs import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("damage") / "run"
    return workdir, make_run(workdir, [(10, 0.4), (20, 0.3), (30, 0.35)])


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def largest(checkpoint):
    return max((checkpoint / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


HARMS = {
    "bit flipped": lambda checkpoint: flip_a_bit(largest(checkpoint)),
    "truncated": lambda checkpoint: truncate(largest(checkpoint)),
    "file missing": lambda checkpoint: (checkpoint / "state" / "manifest.ocdbt").unlink(),
    "position truncated": lambda checkpoint: truncate(checkpoint / "data" / "metadata"),
    "digests missing": lambda checkpoint: (checkpoint / SUMS).unlink(),
    "digests cut off": lambda checkpoint: truncate(checkpoint / SUMS),
    "digests shorter": lambda checkpoint: shorten(checkpoint / SUMS),
    "digests unreadable": lambda checkpoint: (checkpoint / SUMS).write_bytes(b"\xff\n"),
    "file put in": lambda checkpoint: (checkpoint / "state" / "d" / "other").write_text("x"),
    "empty directory": lambda checkpoint: (shutil.rmtree(checkpoint), checkpoint.mkdir()),
    "half-written": lambda checkpoint: shutil.rmtree(checkpoint / "state" / "d"),
    "a file in its place": lambda checkpoint: (
        shutil.rmtree(checkpoint),
        checkpoint.write_text(""),
    ),
}


def shorten(sums):
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))


def entries(workdir):
    return sorted(path.relative_to(workdir) for path in workdir.rglob("*"))


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_named_and_the_newest_good_checkpoint_read(run, copy, harm, capsys):
    newest = copy / "checkpoints" / "30"
    HARMS[harm](newest)
    before = entries(copy)
    opened = open_run(copy)
    assert opened.step == 20
    jax.tree.map(np.testing.assert_array_equal, opened.network.variables, run[1][20].variables)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "checkpoint 30 of" in said and "intact one, 20" in said
    with pytest.raises(ConfigError, match=r"checkpoint 30 of .* is damaged \("):
        open_run(copy, "30")
    assert entries(copy) == before

    [line] = set_damaged_aside(copy / "checkpoints")
    assert line.startswith(f"checkpoint 30 is damaged ({find_damage(newest.parent / '30.damaged')}")
    assert line.endswith("is now 30.damaged; the latest intact one is 20")
    assert open_run(copy).step == 20 and capsys.readouterr().err == ""


def test_nothing_is_changed_where_none_is_good(copy):
    for step in (10, 20, 30):
        HARMS["truncated"](copy / "checkpoints" / str(step))
    before = entries(copy)
    for act in (lambda: open_run(copy), lambda: set_damaged_aside(copy / "checkpoints")):
        with pytest.raises(ConfigError, match="all checkpoints in .* are damaged: 30 .*, 20, 10"):
            act()
    assert entries(copy) == before


def test_the_second_one_set_aside_has_another_name(copy):
    (copy / "checkpoints" / "30.damaged").mkdir()
    HARMS["truncated"](copy / "checkpoints" / "30")
    [line] = set_damaged_aside(copy / "checkpoints")
    assert "30.damaged2" in line


def test_a_checkpoint_of_a_version_without_digests_is_read(copy, run):
    newest = copy / "checkpoints" / "30"
    (newest / SUMS).unlink()
    (newest / "data" / "metadata").write_text(json.dumps({"data": {}}))
    assert find_damage(newest) is None
    assert open_run(copy).step == 30


def test_the_digests_are_those_of_sha256sum(copy):
    checkpoint = copy / "checkpoints" / "30"
    lines = (checkpoint / SUMS).read_text().splitlines()
    assert len(lines) > 5
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() == digest
