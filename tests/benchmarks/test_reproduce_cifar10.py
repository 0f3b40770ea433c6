"""The page of CIFAR-10 results, from summaries made here; no training."""

import importlib.util
import json
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

import resnet_jax
from resnet_jax import data
from resnet_jax.evaluation import Network
from resnet_jax.interop.native import read_pixel_mean
from resnet_jax.training import TrainConfig
from resnet_jax.training.restore import TrainedRun
from tests import quick

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reproduce_cifar10.py"
SUMMARIES = SCRIPT.parents[1] / "docs" / "results" / "cifar10"


@pytest.fixture
def script(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce_cifar10", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "reproduce_cifar10", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "SUMMARIES", tmp_path / "results" / "cifar10")
    return module


def line(step, split, error):
    return {"step": step, "split": split, "loss": 1.0, "top1_error": error}


def write_summary(script, net, num_steps, seed, test_error, validation_error=0.09):
    script.SUMMARIES.mkdir(parents=True, exist_ok=True)
    name = script.Run(net, num_steps, seed).name
    summary = {
        "net": net,
        "num_steps": num_steps,
        "seed": seed,
        "training_error": 0.01,
        "validation_error": validation_error,
        "test_error": test_error,
        "seconds": 600,
        "device": "1 x cpu",
        "responses": {"stem.conv": 1.0, "stage1.block1.conv1": 0.5},
    }
    (script.SUMMARIES / f"{name}.json").write_text(json.dumps(summary))
    curve = [line(num_steps // 2, "train", 0.2), line(num_steps, "train[45000:]", test_error)]
    text = "".join(json.dumps(record) + "\n" for record in curve)
    (script.SUMMARIES / f"{name}.jsonl").write_text(text)


def test_the_page(script, capsys):
    write_summary(script, "resnet20", 64_000, 0, 0.0850)
    write_summary(script, "resnet20", 64_000, 1, 0.0870)
    write_summary(script, "plain56", 6_400, 0, 0.2)
    write_summary(script, "plain20", 6_400, 0, 0.15)
    (script.SUMMARIES / "remarks.md").write_text("## What it shows\n")
    script.report()
    page = (script.RESULTS / "cifar10.md").read_text()
    errors = "8.75 | 8.60 ± 0.14 | 9.00 ± 0.00 | 1.00 ± 0.00"
    assert f"| resnet20 | {errors} | 0, 1 | 0.75 | 10 |" in page
    assert "schedule shortened by 10" in page and page.endswith("## What it shows\n")
    assert "\n\n\n" not in page
    assert page.index("| resnet20 ") < page.index("| plain20 | 15.00 ") < page.index("| plain56 ")
    assert "--nets plain20 plain56 --num_steps 6400" in page
    for name in ("curves", "responses"):
        for num_steps in (64000, 6400):
            picture = f"cifar10-{name}-{num_steps}.png"
            assert f"({picture})" in page and (script.RESULTS / picture).stat().st_size > 5_000


def test_what_the_committed_runs_show():
    """Depth hurts plain nets and helps residual ones, whose responses are smaller, too."""

    def run(net, num_steps):
        return json.loads((SUMMARIES / f"{net}-{num_steps}-seed0.json").read_text())

    def training_error(net, num_steps):
        return run(net, num_steps)["training_error"]

    def response(net, num_steps):
        return np.mean(list(run(net, num_steps)["responses"].values()))

    assert training_error("plain56", 6_400) > training_error("plain20", 6_400)
    assert training_error("resnet56", 6_400) < training_error("plain56", 6_400)
    assert training_error("resnet56", 16_000) < training_error("resnet20", 16_000)
    assert run("resnet56", 16_000)["test_error"] < run("resnet20", 16_000)["test_error"]
    for num_steps in (6_400, 16_000):
        assert response("resnet56", num_steps) < response("resnet20", num_steps)
    assert response("resnet56", 6_400) < response("plain56", 6_400)


def test_what_is_shipped(script, tmp_path, monkeypatch):
    """The weights of the run that validation prefers, not the test images."""
    write_summary(script, "resnet20", 64_000, 0, test_error=0.0840, validation_error=0.095)
    write_summary(script, "resnet20", 64_000, 1, test_error=0.0860, validation_error=0.085)
    write_summary(script, "resnet20", 6_400, 0, test_error=0.0800, validation_error=0.080)
    model = resnet_jax.create_model("resnet20_cifar", num_classes=10)
    variables = quick.init(model, np.zeros((1, 32, 32, 3), np.float32))
    mean = np.linspace(0, 1, 3072, dtype=np.float32).reshape(32, 32, 3)
    normalization = data.make_normalization("cifar", 3, mean)

    def open_run(workdir):
        assert workdir == tmp_path / "resnet20-64000-seed1"
        config = TrainConfig(model="resnet20_cifar", data_dir="/home/me", preprocess="cifar")
        network = Network(model, variables, normalization)
        return TrainedRun(workdir, config, 64_000, network, channels=3)

    monkeypatch.setattr(script, "open_run", open_run)
    monkeypatch.setattr(script, "PRETRAINED", tmp_path)
    script.ship("resnet20", tmp_path)
    path = tmp_path / "resnet20_cifar10.safetensors"
    assert path.stat().st_size < 1_500_000
    loaded, loaded_variables = resnet_jax.load_model(path)
    assert loaded == model
    jax.tree.map(np.testing.assert_array_equal, loaded_variables, variables)
    np.testing.assert_array_equal(read_pixel_mean(path), mean)
    with safe_open(path, "numpy") as file:
        notes = file.metadata()
    assert notes["test_error"] == "0.0860" and notes["validation_error"] == "0.0850"
    assert notes["configuration"] == "configs/cifar10_resnet20.py:45k, seed 1"
    assert "/home/me" not in str(notes)
    with pytest.raises(SystemExit, match="no run of resnet56 has finished 64000 steps"):
        script.ship("resnet56", tmp_path)


def test_curves_are_thinned_without_a_change_of_their_mean(script):
    training = [line(step, "train", step / 1000) for step in range(1, 1001)]
    evaluations = [line(500, "train[45000:]", 0.5), line(1000, "train[45000:]", 0.4)]
    thin = script.thinned(training + evaluations, points=100)
    assert [record for record in thin if record["split"] != "train"] == evaluations
    kept = [record for record in thin if record["split"] == "train"]
    assert len(kept) == 100 and kept[-1]["step"] == 1000
    mean = sum(record["top1_error"] for record in kept) / 100
    assert mean == pytest.approx(sum(record["top1_error"] for record in training) / 1000)


def test_seconds_are_those_of_the_training_lines(script):
    records = [
        {"split": "train", "step": 100, "seconds_per_step": 0.5},
        {"split": "test", "step": 100},
        {"split": "train", "step": 300, "seconds_per_step": 0.25},
    ]
    assert script.seconds_of(records) == 100


def test_the_list_is_fitted_to_the_time(script, tmp_path, monkeypatch, capsys):
    """Two minutes: a net of 20 layers takes one, one of 56 does not fit, another of 20 does."""
    clock, trained = [0.0], []

    def train(run, arguments, deadline):
        trained.append(run)
        clock[0] += 60
        workdir = arguments.runs_dir / run.name
        workdir.mkdir(parents=True)
        record = line(run.num_steps, "train", 0.1) | {"seconds_per_step": 60 / run.num_steps}
        (workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
        return True

    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script, "summarize", lambda run, arguments: None)
    monkeypatch.setattr(script, "report", lambda: None)
    command = ["reproduce_cifar10.py", "--data_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    command += ["--nets", "resnet20", "plain56", "plain20", "--budget", "2", "--num_steps", "640"]
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    assert [run.net for run in trained] == ["resnet20", "plain20"]
    assert "plain56-640-seed0: skipped, it needs about 3 minutes" in capsys.readouterr().out


def test_an_interrupt_is_left_to_the_training_which_saves(script, tmp_path, monkeypatch, capsys):
    saved, before = tmp_path / "saved", signal.getsignal(signal.SIGINT)
    child = f"""
import os, pathlib, signal, time
os.kill(os.getppid(), signal.SIGINT)
time.sleep(0.5)
pathlib.Path({str(saved)!r}).touch()
raise SystemExit(130)
"""
    monkeypatch.setattr(script.Run, "command", lambda run, arguments: [sys.executable, "-c", child])
    with pytest.raises(SystemExit) as end:
        script.train(script.Run("resnet20", 640, 0), None, float("inf"))
    assert end.value.code == 130 and saved.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_command_of_a_run(script, tmp_path):
    arguments = script.argparse.Namespace(runs_dir=tmp_path, data_dir=Path("data"))
    full = script.Run("resnet20", 64_000, 3).command(arguments)
    assert full[-1] == "--config.seed=3" and f"--workdir={tmp_path}/resnet20-64000-seed3" in full
    short = script.Run("plain56", 6_400, 0).command(arguments)
    assert short[-2:] == ["--config.num_steps=6400", "--config.scale_schedule=True"]
