"""The command `python train.py` from outside: bad input and a run that is taken up again."""

import subprocess
import sys
from pathlib import Path

import pytest

from resnet_jax.training.records import read_metrics

ROOT = Path(__file__).parents[1]
DEMO = "configs/fashion_mnist_demo.py"


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.model=resnet51"], ["resnet51", "resnet50"]),
        (["--config.model_options.shortcut=D"], ["shortcut", "'D'", "A, B, C"]),
        (["--config.dataset=cifar1"], ["cifar1", "resnet_jax prepare cifar1"]),
        (["--config.augmentation=cifer"], ["cifer", "'cifar'"]),
        (["--config.preprocess=torchvision"], ["torchvision", "channels"]),
        (["--config.batchsize=3"], ["--config.batchsize", "--config.batch_size"]),
        (["--config.batch_size=abc"], ["batch_size", "abc"]),
        (["--config.batch_size=12"], ["batch_size=12", "8 devices"]),
        (["--config.eval_split=validation"], ["validation", "train", "test"]),
        (["--config.num_classes=3"], ["10 classes", "3"]),
        (["--config.seed=99999999999999999999999"], ["seed"]),
        (["--config.num_steps=5", "--config.num_epochs=2"], ["num_steps", "num_epochs"]),
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(tmp_path, arguments, words):
    result = start("--config", DEMO, "--workdir", str(tmp_path / "run"), *arguments)
    check_refused(result, words)
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file(tmp_path):
    check_refused(start("--config", "configs/nope.py", "--workdir", str(tmp_path)), ["nope.py"])


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    workdir = str(tmp_path / "file" / "run")
    check_refused(start("--config", DEMO, "--workdir", workdir), [workdir, "--workdir"])


def check_refused(result, words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 300, result.stderr
    for word in words:
        assert word in result.stderr


def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    def go(num_steps):
        arguments = [f"--config.num_steps={num_steps}", "--config.log_every=2"]
        result = start("--config", DEMO, "--workdir", str(tmp_path), *arguments)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return result.stdout.splitlines()

    first, second = go(4), go(6)
    assert first[0].startswith("first step after")
    assert [line.split("  ")[0] for line in first[1:3]] == ["step 2/4", "step 4/4"]
    assert second[1].startswith("step 6/6")
    assert second[-1] == f"curves: {tmp_path / 'curves.png'}"
    steps = [record["step"] for record in read_metrics(tmp_path) if record["split"] == "train"]
    assert steps == [2, 4, 6]
