"""Training processes that are small enough to be killed often, and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from resnet_jax.training.records import read_metrics

ROOT = Path(__file__).parents[2]

SETTINGS = {
    "batch_size": 8,
    "num_steps": 30,
    "schedule_steps": 30,
    "log_every": 2,
    "eval_every": 10,
    "eval_split": "test[:256]",
    "eval_batch_size": 16,
    "checkpoint_every": 4,
}
EVAL_SPLIT = SETTINGS["eval_split"]


def command(workdir, **changes):
    flags = [f"--config.{key}={value}" for key, value in (SETTINGS | changes).items()]
    recipe = ["--config", "configs/fashion_mnist_demo.py", "--workdir", str(workdir)]
    return [sys.executable, "train.py", *recipe, *flags]


def environment(**variables):
    # One device, as outside of the tests.
    return os.environ | {"XLA_FLAGS": ""} | variables


def start(workdir, **changes):
    return subprocess.Popen(
        command(workdir, **changes),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(workdir, status=0, timeout=600, **changes):
    """Runs to the end; returns what it printed on standard output and on standard error."""
    process = start(workdir, **changes)
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == status, (process.returncode, out, err)
    return out, err


def one_line(err, *words):
    """Checks that an error is one line that names what it is about, and returns it."""
    assert err.count("\n") == 1 and len(err) < 300 and err.startswith("resnet_jax: "), err
    for word in words:
        assert word in err, err
    return err


def wait_until(condition, process, seconds=300):
    """Waits for a condition, closely; false if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end
        time.sleep(0.002)
    return True


def records(workdir):
    """The lines of `metrics.jsonl` without those that tell of time."""
    if not (workdir / "metrics.jsonl").exists():
        return []
    return [
        {key: value for key, value in record.items() if "second" not in key}
        for record in read_metrics(workdir)
    ]


def steps(workdir):
    """The steps of the complete checkpoints."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def state(workdir, step):
    """Everything in a checkpoint but the digests, read by Orbax alone: names and arrays."""
    checkpoint = workdir / "checkpoints" / str(step)
    tree = ocp.StandardCheckpointer().restore(checkpoint / "state")
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return leaves | {"data": json.loads((checkpoint / "data" / "metadata").read_text())}


def check_same(workdir, reference, step):
    """Bit for bit the same parameters, statistics, momenta, position and metrics."""
    ours, expected = state(workdir, step), state(reference, step)
    assert ours.keys() == expected.keys() and len(ours) > 100
    assert ours["data"] == expected["data"]
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert records(workdir) == records(reference)
    for split in ("train", EVAL_SPLIT):
        of_split = [record["step"] for record in records(workdir) if record["split"] == split]
        assert of_split == sorted(set(of_split)) and of_split
