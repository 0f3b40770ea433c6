"""Several processes as several hosts: the same run as one process with as many devices."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.runtime import hosts as hosts_module
from resnet_jax.runtime.hosts import HostDied, watched_hosts
from resnet_jax.training.records import read_metrics
from tests.resnet8 import environment

ROOT = Path(__file__).parents[2]
STEPS = 12


def start(workdir, devices=1, processes=1, index=0, port=0, **changes):
    settings = {
        "batch_size": 16,
        "num_steps": STEPS,
        "log_every": 2,
        "eval_every": 1000,
        "eval_split": "test[:101]",
        "eval_batch_size": 32,
        "checkpoint_every": 4,
        "learning_rate": 0.01,
    }
    command = [sys.executable, "train.py", "--config", "tests/resnet8.py"]
    command += ["--workdir", str(workdir)]
    command += [f"--config.{key}={value}" for key, value in (settings | changes).items()]
    if processes > 1:
        command += ["--distributed", "--coordinator", f"localhost:{port}"]
        command += ["--num_processes", str(processes), "--process_id", str(index)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_hosts(workdir, processes, **changes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        start(workdir, processes=processes, index=index, port=port, **changes)
        for index in range(processes)
    ]


def finish(*processes):
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err


def curve(workdir):
    return [
        {key: value for key, value in record.items() if "second" not in key}
        for record in read_metrics(workdir)
    ]


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two-devices")
    finish(start(workdir, devices=2))
    return curve(workdir)


def check_close(records, expected):
    assert [(r["step"], r["split"]) for r in records] == [(r["step"], r["split"]) for r in expected]
    assert records[-1]["num_examples"] == 101
    for record, reference in zip(records, expected, strict=True):
        assert record["loss"] == pytest.approx(reference["loss"], rel=2e-3)


def test_two_hosts_are_two_devices_also_after_one_died(tmp_path, two_devices):
    # A checkpoint a step: there is time to die before the last one.
    hosts = start_hosts(tmp_path, 2, checkpoint_every=1)
    while not (tmp_path / "checkpoints" / "2").exists():
        assert all(host.poll() is None for host in hosts), hosts[0].stderr.read()
        time.sleep(0.02)
    hosts[1].send_signal(signal.SIGKILL)
    hosts[1].communicate()
    out, err = hosts[0].communicate(timeout=90)
    assert hosts[0].returncode == 1, err
    lines = [line for line in err.splitlines() if line.startswith("resnet_jax")]
    assert len(lines) == 1 and f"process 1 ({hosts[1].pid} on " in lines[0], err
    finish(start(tmp_path, devices=2))
    check_close(curve(tmp_path), two_devices)


def test_four_hosts_and_a_signal_to_one_of_them(tmp_path):
    hosts = start_hosts(tmp_path / "four", 4, num_steps=100000, checkpoint_every=100000)
    for line in hosts[0].stdout:
        if line.startswith("step"):
            break
    hosts[2].send_signal(signal.SIGTERM)
    out, err = hosts[0].communicate(timeout=120)
    assert hosts[0].returncode == 0, err
    finish(*hosts[1:])
    saved = int(out.split("another host: saved at step ")[1].split(";")[0])
    assert (tmp_path / "four" / "checkpoints" / str(saved)).is_dir()
    finish(start(tmp_path / "four", devices=4, num_steps=saved + 2))
    finish(start(tmp_path / "one", devices=4, num_steps=saved + 2, checkpoint_every=100000))
    four, one = curve(tmp_path / "four")[-1], curve(tmp_path / "one")[-1]
    assert four["num_examples"] == one["num_examples"] == 101
    assert four["loss"] == pytest.approx(one["loss"], rel=2e-2)


@pytest.fixture
def with_a_dead_host(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts_module, "from_first_host", lambda value: value)
    (tmp_path / ".hosts").mkdir()
    (tmp_path / ".hosts" / "1").write_text(json.dumps({"host": "node7", "process": 4321}))
    return tmp_path


LOST = "UNKNOWN: Gloo AllGather failed: [pair.cc:538] Read error: Connection reset by peer"


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError(LOST), ValueError(LOST)])
def test_a_dead_host_is_named_whatever_jax_raises(with_a_dead_host, error):
    with pytest.raises(HostDied, match=r"^process 1 \(4321 on node7\) died; the same command"):
        with watched_hosts(with_a_dead_host):
            raise error


@pytest.mark.parametrize("error", [ConfigError("num_steps: 0"), ValueError("too many values")])
def test_an_error_of_this_host_blames_no_other(with_a_dead_host, error):
    with pytest.raises(type(error), match=str(error)), watched_hosts(with_a_dead_host):
        raise error


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coordinator=localhost:1"], ["--coordinator", "--distributed"]),
        (["--distributed", "--num_processes=2"], ["--coordinator", "missing"]),
        (
            ["--distributed", "--coordinator=h:1", "--num_processes=2", "--process_id=2"],
            ["--process_id=2", "2 processes"],
        ),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, words):
    command = [sys.executable, "train.py", "--config", "configs/fashion_mnist_demo.py"]
    command += ["--workdir", str(tmp_path / "run"), *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
