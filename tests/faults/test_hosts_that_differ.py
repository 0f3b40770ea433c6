"""Processes of one run that were not started alike: all end at the start, with one line each."""

import shutil
import socket
import subprocess
import sys

import pytest

from tests.data.sources.test_fingerprints import make_folder
from tests.faults import processes
from tests.faults.conftest import FULL
from tests.resnet8 import environment

FLAGS = ["--config.num_steps=2", "--config.batch_size=2", "--config.eval_batch_size=2"]
FOLDER = ["--config.augmentation=imagenet", "--config.image_size=8", "--config.eval_split=val"]

DIFFERENCES = {
    "another learning rate": (
        [],
        ["--config.learning_rate=0.2", "--config.seed=1"],
        ["process 1 on ", "config.learning_rate is 0.2, not 0.1, config.seed is 1, not 0; start"],
    ),
    "no data": (
        [*FOLDER, "--config.dataset={}/pets"],
        [*FOLDER, "--config.dataset={}/nowhere"],
        ["/nowhere"],
    ),
    "a misspelt key": ([], ["--config.bach_size=8"], ["--config.bach_size (did you mean"]),
    "a work directory of its own": (
        ["--workdir={}/one"],
        ["--workdir={}/two"],
        ["process 1 on ", "does not see the work directory", "/one of process 0"],
    ),
    "other data": (
        [*FOLDER, "--config.dataset={}/pets"],
        [*FOLDER, "--config.dataset={}/others"],
        [
            "process 1 on ",
            "different labels of the train split, different files of the train split",
        ],
    ),
    "other code": ([], [], ["process 1 on ", "the code of resnet_jax is "]),
}
"""The flags of process 0 and of process 1, and what both say."""


def start(index, port, root, flags):
    command = [sys.executable, "train.py", "--config", "tests/resnet8.py", *FLAGS, *flags]
    command += ["--distributed", "--coordinator", f"localhost:{port}"]
    command += ["--num_processes", "2", "--process_id", str(index)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=root, env=environment(), text=True, **pipes)


@pytest.mark.parametrize("difference", list(DIFFERENCES)[: None if FULL else 2])
def test_hosts_that_differ(tmp_path, difference, outcome):
    make_folder(tmp_path / "pets")
    make_folder(tmp_path / "others")
    other = tmp_path / "others" / "train" / "cat" / "2.jpg"
    other.rename(other.parents[1] / "dog" / "9.jpg")
    *flags, words = DIFFERENCES[difference]
    roots = [processes.ROOT, processes.ROOT]
    if difference == "other code":
        roots[1] = tmp_path / "code"
        for name in ("resnet_jax", "configs", "tests"):
            shutil.copytree(processes.ROOT / name, roots[1] / name)
        shutil.copy(processes.ROOT / "train.py", roots[1])
        with open(roots[1] / "resnet_jax" / "errors.py", "a") as file:
            file.write("# Another version.\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = [
        start(index, port, root, [f"--workdir={tmp_path}/run", *(f.format(tmp_path) for f in own)])
        for index, (root, own) in enumerate(zip(roots, flags, strict=True))
    ]
    for host in hosts:
        _, err = host.communicate(timeout=200)
        assert host.returncode == 2, err
        processes.one_line(err, *words)
    assert not list(tmp_path.glob("*/checkpoints/*"))
    outcome(f"hosts: {difference}", 1, "status 2, one line on each that names it")
