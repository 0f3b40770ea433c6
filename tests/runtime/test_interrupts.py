"""Runs that are asked to end: by a signal to a real process, or by a limit on their time."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from resnet_jax.runtime.devices import data_mesh
from resnet_jax.runtime.interrupts import SIGNALS, Stop, Stopped, parse_duration
from resnet_jax.runtime.profiler import Profile
from resnet_jax.training.loop import train
from resnet_jax.training.records import read_metrics
from tests.resnet8 import environment
from tests.training.test_experiment import SHORT

ROOT = Path(__file__).parents[2]
LONG_EVALUATION = ["--config.eval_batch_size=8", "--config.eval_split=train[:5000]"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("3h50m", 13800), ("1d", 86400), ("1h1s", 3601)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "h", "3m2h", "-1s", "1.5h"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_signal_is_noted_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        items = stop.unless_asked(iter([1, 2]))
        assert next(items) == 1 and not stop.asked()
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked() and stop.reason() == "SIGTERM"
        with pytest.raises(Stopped):
            next(items)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_is_no_second_signal(first):
    """A terminal that closes sends several."""
    with Stop() as stop:
        for number in (first, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.asked() and stop.reason() == first.name


def test_a_hangup_that_nohup_ignores():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_thread(tmp_path, resnet8):
    """With loader processes, checkpoints and an observer; signals stay the main thread's."""
    seen, records = [], []

    class Observer:
        def on_evaluation(self, step, metrics):
            seen.append((step, threading.current_thread().name))

        def on_checkpoint(self, step, path):
            seen.append((step, path.name))

    config = dataclasses.replace(
        SHORT, num_steps=4, eval_every=4, checkpoint_every=4, loader_workers=1
    )

    def run():
        records.append(train(config, tmp_path, data_mesh(jax.devices()[:1]), [Observer()]))

    thread = threading.Thread(target=run, name="own")
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    while thread.is_alive():
        assert signal.getsignal(signal.SIGTERM) is before
        thread.join(0.05)
    assert records[0]["train"]["step"] == 4 and seen == [(4, "own"), (4, "4")]


def start(workdir, *arguments):
    command = [sys.executable, "train.py", "--config", "tests/resnet8.py"]
    command += ["--workdir", str(workdir), "--config.log_every=5"]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


STARTED = []


@pytest.fixture(autouse=True)
def no_process_stays():
    """A test that fails leaves none to disturb others."""
    yield
    while STARTED:
        process = STARTED.pop()
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)]
)
def test_a_signal_saves_the_step_and_the_same_command_goes_on(tmp_path, number, status):
    process = start(tmp_path, "--config.num_steps=100000", "--config.eval_every=100000")
    wait_for(process, "first step")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert f"{number.name}: saved at step" in out
    saved = int(out.split("saved at step ")[1].split(";")[0])
    assert (tmp_path / "checkpoints" / str(saved)).is_dir()
    assert "Traceback" not in err
    if number != signal.SIGTERM:
        return  # What goes on after one goes on after the others.

    again = start(tmp_path, f"--config.num_steps={saved + 5}")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    steps = [r["step"] for r in read_metrics(tmp_path) if r["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == saved + 5


def stop_during_an_evaluation(workdir, step, *arguments):
    """Returns what a run prints that is asked to end while it evaluates the step."""
    process = start(workdir, *arguments)
    wait_for(process, f"step {step}")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_a_signal_during_an_evaluation(tmp_path):
    """The evaluation is given up, its step saved, and it is done first when the run goes on."""
    arguments = ["--config.num_steps=20", "--config.eval_every=10", *LONG_EVALUATION]
    assert "saved at step 10" in stop_during_an_evaluation(tmp_path, 10, *arguments)
    assert [r["split"] for r in read_metrics(tmp_path)] == ["train", "train"]

    again = start(tmp_path, *arguments)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    records = [(r["step"], r["split"]) for r in read_metrics(tmp_path)]
    evaluation = "train[:5000]"
    assert records == [
        *((5, "train"), (10, "train"), (10, evaluation)),
        *((15, "train"), (20, "train"), (20, evaluation)),
    ]


def test_a_limit_on_the_time(tmp_path):
    process = start(tmp_path, "--config.num_steps=100000", "--config.stop_after=1s")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "config.stop_after: saved at step" in out


def test_no_time_at_all(tmp_path):
    process = start(tmp_path, "--config.num_steps=100000", "--config.stop_after=0s")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert (
        "config.stop_after: nothing to save yet; the same command starts from the beginning" in out
    )


def test_a_signal_during_the_last_evaluation_is_not_the_end(tmp_path):
    out = stop_during_an_evaluation(tmp_path, 5, "--config.num_steps=5", *LONG_EVALUATION)
    assert "SIGTERM: saved at step 5; the same command resumes there" in out


def children(process):
    lists = Path(f"/proc/{process.pid}/task").glob("*/children")  # Of each of its threads.
    return [int(number) for path in lists for number in path.read_text().split()]


def commands(numbers):
    """What those that still run were started as."""
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{number}/cmdline").read_text())
    return [text for text in found if "spawn_main" in text]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_a_signal_to_the_whole_group_leaves_the_loaders_alone(tmp_path, number, status):
    """As Ctrl-C in a terminal, or its end; the run waits for its loader most of the time."""
    process = start(tmp_path, "--config.num_steps=100000", "--config.loader_workers=2")
    wait_for(process, "first step")
    workers = children(process)
    assert len(commands(workers)) == 2
    for worker in filter(lambda worker: commands([worker]), workers):
        status_lines = Path(f"/proc/{worker}/status").read_text()
        mask = int(re.search(r"SigIgn:\s+(\w+)", status_lines)[1], 16)
        assert all(mask >> (each - 1) & 1 for each in SIGNALS)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert f"{number.name}: saved at step" in out and "Traceback" not in err
    assert not commands(workers)


def test_loaders_end_with_a_run_that_is_killed(tmp_path):
    process = start(tmp_path, "--config.num_steps=100000", "--config.loader_workers=2")
    wait_for(process, "first step")
    workers = children(process)
    assert len(commands(workers)) == 2
    process.kill(), process.communicate(timeout=60)
    end = time.monotonic() + 30
    while commands(workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_trace_of_some_steps(tmp_path):
    process = start(tmp_path, "--config.num_steps=4", "--config.profile_steps=2,3")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(("start_step", "traced"), [(0, False), (40, True), (41, False)])
def test_a_trace_begins_where_its_first_step_is_to_come(tmp_path, monkeypatch, start_step, traced):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    metrics = {"learning_rate": jnp.zeros(())}
    with Profile(tmp_path, (41, 42), start_step) as profile:
        for step in range(start_step + 1, start_step + 4):
            profile.sent(step, metrics)
        assert calls == ["start", "stop"] * traced
