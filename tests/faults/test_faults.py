"""Harm done to real training processes; docs/reliability.md names these tests.

`make test` does each fault a few times, `make faults` often.
"""

import collections
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from resnet_jax.training.checkpoint import find_damage
from tests.faults import processes
from tests.faults.conftest import FULL
from tests.training.test_damaged_checkpoints import HARMS

LONG = 280 if FULL else processes.SETTINGS["num_steps"]
"""Steps of the run that is killed."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing disturbed."""
    return undisturbed(tmp_path_factory)


@pytest.fixture(scope="module")
def long_reference(tmp_path_factory, reference):
    return undisturbed(tmp_path_factory, num_steps=LONG) if FULL else reference


def undisturbed(tmp_path_factory, **changes):
    workdir = tmp_path_factory.mktemp("reference")
    _, err = processes.run(workdir, **changes)
    assert err == ""
    return workdir


class Watch:
    """Where a run is, as seen from outside."""

    def __init__(self, workdir):
        self.workdir = workdir
        self.began = self.lines()

    def lines(self):
        return len(processes.records(self.workdir))

    def has_gone_on(self):
        return self.lines() > self.began

    def is_writing(self):
        return bool(list((self.workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")))

    def is_evaluating(self):
        *_, last = processes.records(self.workdir)
        return last["split"] == "train" and last["step"] % processes.SETTINGS["eval_every"] == 0

    def is_stepping(self):
        return not self.is_writing() and not self.is_evaluating()


MOMENTS = {
    "while a checkpoint is written": Watch.is_writing,
    "during an evaluation": Watch.is_evaluating,
    "during a step": Watch.is_stepping,
}


def test_killed_anywhere_resumed_exactly(tmp_path, long_reference, times, outcome):
    kills, rng = times(3, 20), random.Random(0)
    moments = [*MOMENTS, "at a random time"][: times(3, 4)]
    done = collections.Counter()
    while sum(done.values()) < kills:
        moment = moments[sum(done.values()) % len(moments)]
        watch, process = Watch(tmp_path), processes.start(tmp_path, num_steps=LONG)
        if moment in MOMENTS:
            # Not what the life before has left.
            processes.wait_until(watch.has_gone_on, process)
            processes.wait_until(lambda w=watch, m=moment: MOMENTS[m](w), process)
            time.sleep(rng.uniform(0, 0.02))
        else:
            time.sleep(rng.uniform(0.5, 4))
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == -signal.SIGKILL and err == "", (done, err)
        done[moment] += moment not in MOMENTS or MOMENTS[moment](watch)
    processes.run(tmp_path, num_steps=LONG)
    processes.check_same(tmp_path, long_reference, LONG)
    for moment, count in done.items():
        outcome(f"SIGKILL {moment}", count, "resumed; bit for bit the undisturbed run")


@pytest.mark.parametrize("harm", HARMS if FULL else ["bit flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, reference, harm, outcome):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    HARMS[harm](workdir / "checkpoints" / "30")
    out, err = processes.run(workdir)
    assert err == "" and "checkpoint 30 is damaged (" in out and "latest intact one is 28" in out
    assert (workdir / "checkpoints" / "30.damaged").exists()
    processes.check_same(workdir, reference, 30)
    outcome(f"checkpoint: {harm}", 1, "named; the one before it leads to the same end")


def test_without_a_good_checkpoint_nothing_is_deleted(tmp_path, reference, outcome):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    for step in processes.steps(workdir):
        HARMS["truncated"](workdir / "checkpoints" / str(step))
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    _, err = processes.run(workdir, status=2)
    processes.one_line(err, "all checkpoints in", "damaged: 30", "nothing was changed")
    after = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    after[workdir / ".lock"] = before[workdir / ".lock"]  # Its holder.
    assert after == before
    outcome("all checkpoints damaged", 1, "status 2, one line, nothing deleted")


def has_namespaces():
    """Whether a test may mount a small disk, as root or in a namespace of its own."""
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


def check_last_good(workdir):
    """The newest complete checkpoint is whole, and no line of the metrics is torn."""
    newest = processes.steps(workdir)[-1]
    assert find_damage(workdir / "checkpoints" / str(newest)) is None
    assert [record["step"] for record in processes.records(workdir)]


def test_a_disk_that_is_full_then_read_only(tmp_path, reference, outcome):
    if not has_namespaces():
        pytest.skip("this machine lets nobody mount a disk of its own")
    disk, left = tmp_path / "disk", tmp_path / "left"
    disk.mkdir(), left.mkdir()
    script = ["unshare", "-rm", "sh", "tests/faults/small_disk.sh"]
    subprocess.run(
        [*script, disk, "6m", left, "100m" if FULL else "", *processes.command(disk)],
        cwd=processes.ROOT,
        env=processes.environment(),
        check=not FULL,
        timeout=240,  # A process that has failed ends at once, whatever its threads wait for.
    )

    def status_and_error(name):
        return int((left / f"{name}.status").read_text()), (left / f"{name}.err").read_text()

    status, err = status_and_error("full")
    assert status == 1, err
    processes.one_line(err, "failed: No space left on device", str(disk))
    check_last_good(left / "full")
    outcome("disk full", 1, "status 1, one line; the last good checkpoint is whole")
    status, err = status_and_error("read-only")
    assert status == 2, err
    processes.one_line(err, "Read-only file system", str(disk))
    outcome("directory read-only", 1, "status 2, one line")
    if FULL:
        assert status_and_error("room") == (0, "")
        processes.check_same(left / "room", reference, 30)
        outcome("room on the disk again", 1, "resumed; bit for bit the undisturbed run")
        status, err = status_and_error("gone")
        assert status == 1, err
        processes.one_line(err, "failed: Read-only file system", str(disk))
        check_last_good(left / "gone")
        assert processes.steps(left / "gone")[-1] < 30
        outcome("gone read-only during a run", 1, "status 1, one line; the last good one is whole")


def test_a_quota(tmp_path, reference, outcome):
    """Files may grow to 200 kB, less than a checkpoint has; what was there stays whole."""
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    process = subprocess.run(
        ["prlimit", "--fsize=200000", *processes.command(workdir, num_steps=40)],
        cwd=processes.ROOT,
        env=processes.environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1, process.stderr
    processes.one_line(process.stderr, "failed: File too large")
    check_last_good(workdir)
    outcome("quota on the size of files", 1, "status 1, one line; the last good one is whole")


def test_a_diverging_run(tmp_path, outcome):
    changes = {"weight_decay": 60.0, "schedule": "constant", "warmup_steps": 0, "log_every": 5}
    _, err = processes.run(tmp_path, status=1, **changes)
    line = processes.one_line(err, "failed: training diverged at step", "learning rate 0.1")
    assert "gradient norm" in line and "on_nan=rollback" in line
    for step in processes.steps(tmp_path):
        assert find_damage(tmp_path / "checkpoints" / str(step)) is None
    outcome("loss explodes", 1, "status 1; one line: step, rate, gradient norm, layer")
    if FULL:
        workdir = tmp_path / "rollback"
        changes |= {"on_nan": "rollback", "num_steps": 60, "checkpoint_every": 10}
        out, err = processes.run(workdir, **changes)
        assert "resuming from the last checkpoint" in out and err == ""
        found = [r["step"] for r in processes.records(workdir) if r["split"] == "train"]
        assert found == list(range(5, 61, 5))
        outcome("loss explodes, rollback", 1, "went on with half the learning rate")


def test_a_second_process_is_refused_and_a_second_signal_ends_at_once(tmp_path, outcome):
    process = processes.start(tmp_path, num_steps=10**6, checkpoint_every=10**6, eval_every=10**6)
    watch = Watch(tmp_path)
    assert processes.wait_until(watch.has_gone_on, process)
    _, err = processes.run(tmp_path, status=2)
    processes.one_line(err, f"in use by process {process.pid} on")
    outcome("second process", 1, "status 2, one line that names the first")

    process.send_signal(signal.SIGTERM)
    # Two at once would be one: this one has been heard.
    assert processes.wait_until(watch.is_writing, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGTERM and err == ""
    outcome("SIGTERM twice", 1, "ended at once")


def test_a_pipe_whose_reader_is_gone(tmp_path, reference, outcome):
    """As `train.py ... | head -1`."""
    process = processes.start(tmp_path)
    assert process.stdout.readline()
    process.stdout.close()
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    processes.check_same(tmp_path, reference, 30)
    outcome("closed pipe", 1, "went on silently; status 0")


def in_a_terminal(*command):
    """Starts a process in a terminal of its own; returns it and the other end of the terminal."""
    ours, its = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        cwd=processes.ROOT,
        env=processes.environment(TERM="xterm"),
        **dict.fromkeys(("stdin", "stdout", "stderr"), its),
    )
    os.close(its)
    return process, ours


@pytest.mark.parametrize("hangup", ["noticed", "ignored"] if FULL else ["noticed"])
def test_a_terminal_that_is_closed(tmp_path, reference, outcome, hangup):
    command = processes.command(tmp_path, loader_workers=1)
    if hangup == "ignored":  # As by `nohup`.
        command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
    watch = Watch(tmp_path)
    process, terminal = in_a_terminal(*command)
    assert processes.wait_until(watch.has_gone_on, process)
    os.close(terminal)
    assert process.wait(timeout=300) == 0
    if hangup == "noticed":
        assert processes.steps(tmp_path)[-1] < 30
        processes.run(tmp_path)
        outcome("terminal closed", 1, "saved; resumed; bit for bit the undisturbed run")
    else:
        outcome("terminal closed, with nohup", 1, "went on silently; status 0")
    processes.check_same(tmp_path, reference, 30)


def test_shared_memory_that_is_too_small(tmp_path, outcome):
    """As in a container of Docker's; and full during a run."""
    if not has_namespaces():
        pytest.skip("this machine lets nobody mount a disk of its own")

    def life(size, name, then="wait $!"):
        script = f'mount -t tmpfs -o size={size} none /dev/shm && {{ "$@" & {then}; }}'
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh"]
            + processes.command(tmp_path / name, loader_workers=1, num_steps=10**6),
            cwd=processes.ROOT,
            env=processes.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )

    early = life("64k", "small")
    assert early.returncode == 2 and not (tmp_path / "small").exists()
    processes.one_line(early.stderr, "/dev/shm has 0 MiB free", "--shm-size", "loader_workers=0")
    outcome("/dev/shm too small", 1, "status 2, one line, nothing begun")
    if not FULL:
        return
    fill = (
        f"while [ ! -e {tmp_path}/full/checkpoints/4 ]; do sleep 0.05; done; "
        "cat /dev/zero >/dev/shm/fill 2>/dev/null; wait $!"
    )
    late = life("1m", "full", fill)
    assert late.returncode == 1, late.stderr
    # Python's tracker of shared memory names the blocks that the dead process left, too.
    [line] = [line for line in late.stderr.splitlines(True) if line.startswith("resnet_jax: ")]
    processes.one_line(line, "failed: a loader process ended with SIGBUS", "--shm-size")
    check_last_good(tmp_path / "full")
    outcome(
        "/dev/shm full during a run", 1, "status 1, one line; the last good checkpoint is whole"
    )
