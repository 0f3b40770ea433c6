"""What the hosts of a run tell each other at its start; `tests/faults` has real processes."""

import collections
import types

import jax
import pytest

from resnet_jax.errors import ConfigError, DataError
from resnet_jax.runtime import agreement
from resnet_jax.runtime.agreement import check_shared, leave_token, on_all_hosts
from resnet_jax.runtime.hosts import HostDied

FACTS = {"config.seed": "0", "files of the train split": "a" * 64}


@pytest.fixture
def others(monkeypatch):
    """What the other hosts have sent; this one is process 0 of two."""
    sent = collections.deque()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    devices = [types.SimpleNamespace(process_index=index) for index in (0, 0, 1, 1)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(agreement, "gather", lambda own: [own, own | sent.popleft()])
    monkeypatch.setattr(agreement, "from_first_host", lambda text: text)
    monkeypatch.setattr(agreement, "_PATIENCE", 0.0)
    return types.SimpleNamespace(send=sent.append, devices=devices)


def start(error=None):
    def prepare():
        if error is not None:
            raise error
        return "prepared"

    return on_all_hosts(prepare, lambda made: FACTS)


def test_equal_hosts_start(others):
    others.send({"host": "node7"})
    assert start() == "prepared"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"config.seed": "1"},
            "process 1 on node7 differs from process 0: config.seed is 1, not 0;",
        ),
        ({"files of the train split": "b" * 64}, "0: different files of the train split; start"),
        ({"the loss handed in": "mine"}, "the loss handed in is mine, not missing;"),
    ],
)
def test_a_difference_is_named(others, facts, words):
    others.send({"host": "node7", "facts": FACTS | facts})
    with pytest.raises(ConfigError) as error:
        start()
    assert words in str(error.value)


@pytest.mark.parametrize(("bad_input", "kind"), [(True, ConfigError), (False, HostDied)])
def test_the_error_of_another_host_ends_this_one(others, bad_input, kind):
    others.send({"host": "node7", "error": "no data", "bad_input": bad_input, "facts": {}})
    with pytest.raises(kind, match="^process 1 on node7: no data$"):
        start()


def test_this_hosts_own_error_stays(others):
    others.send({"host": "node7", "error": ""})
    with pytest.raises(DataError, match="mine"):
        start(DataError("mine"))


def test_hosts_with_other_numbers_of_devices(others):
    others.devices.pop()
    with pytest.raises(ConfigError, match="process 1 has 1 devices, process 0 has 2"):
        start()


def test_a_work_directory_that_is_not_shared(others, tmp_path):
    token = leave_token(tmp_path)
    others.send({"host": "node7"})
    check_shared(tmp_path, token)
    others.send({"host": "node7", "sees": False})
    with pytest.raises(ConfigError, match="process 1 on node7 does not see the work directory /"):
        check_shared(tmp_path, token)
    others.send({})
    with pytest.raises(ConfigError, match="process 0 on"):
        check_shared(tmp_path, "another run's")
