"""What a newcomer wants of a trainer, with no file of the package changed.

Every command is one of docs/extending.md. A run of each is stopped, resumed, compared bit for bit
with one that was not, and evaluated.
"""

import importlib
import json
import operator
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_jax
from resnet_jax import models, training
from resnet_jax.errors import InputError
from resnet_jax.models import ResNet
from resnet_jax.training.report import Observers
from resnet_jax.training.restore import read_config
from tests.examples import page
from tests.faults import processes
from tests.resnet8 import environment

TRAIN = {
    Path(page.workdir(command)).name: command
    for command in page.commands()
    if command[0] == "train.py" and page.workdir(command) != "runs/handed_in"
}


REFUSED = page.commands("What is imported")


def evaluations(name):
    return [
        command
        for command in page.commands()
        if command[2:3] == ["evaluate"] and page.workdir(command) == f"runs/{name}"
        if command not in REFUSED
    ]


def without_import(command):
    index = command.index("--import")
    return command[:index] + command[index + 2 :]


def test_the_tasks_are_on_the_page():
    assert {"adamw", "lars", "own_loss", "own_data", "own_model"} < set(TRAIN)
    for name, command in TRAIN.items():
        evaluate, *_ = evaluations(name)
        # Only the network and the data are needed then.
        is_needed = any(key in " ".join(command) for key in (".model=", ".dataset="))
        assert ("--import" in evaluate) == is_needed


def check_that_each_part_matters(command, run, folder, lines):
    """Without a part that the command names, the training's losses are others."""
    for key in page.parts(command):
        run(*page.shortened(page.without(command, key), num_steps=6))
        other = (folder / page.workdir(command)).rename(folder / f"without_{key}")
        records = [record for record in processes.records(other) if record["split"] == "train"]
        [loss] = [line["loss"] for line in lines if line["step"] == 6]
        assert records[-1]["loss"] != pytest.approx(loss, rel=1e-3), key


@pytest.fixture
def shallow(monkeypatch):
    """One block per stage for the network of `own_model.py`: three times as fast."""

    def build(**options):
        return ResNet(**options | {"stage_sizes": (1, 1, 1)})

    importlib.import_module("resnet_jax.commands._subjects")  # Its annotations name the class.
    monkeypatch.setattr(models, "ResNet", build)


# That of `own_loss` is killed below.
@pytest.mark.parametrize("name", [name for name in TRAIN if name != "own_loss"])
def test_a_stopped_run_resumes_bit_for_bit_and_is_evaluated(name, run, folder, one_device, shallow):
    command, workdir = TRAIN[name], folder / "runs" / name
    if name == "table":
        run("examples/own_data.py", "data/patterns")
    run(*page.shortened(command, num_steps=6))
    workdir.rename(folder / "whole")
    run(*page.shortened(command, num_steps=4))
    if "--import" in command:
        with pytest.raises(InputError, match="--import"):
            run(*page.shortened(without_import(command), num_steps=6))
    run(*page.shortened(command, num_steps=6))
    page.assert_same_run(workdir, folder / "whole", 6)

    config, parts = read_config(workdir)
    assert not parts
    *_, last = records = processes.records(workdir)
    lines = [record for record in records if record["split"] == "train"]
    for line in lines:
        rate = training.learning_rate(config, line["step"])
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)  # Rounded by two programs.
    for command in evaluations(name):
        result = json.loads(run(*("40" if word == "2000" else word for word in command)))
        assert result["num_examples"] == last["num_examples"]
        if "--recompute_batch_norm" in command:
            assert result["loss"] != pytest.approx(last["loss"])
        else:
            assert result["top1_error"] == last["top1_error"]
            assert result["loss"] == pytest.approx(last["loss"], rel=1e-4)
    if name == "own_model":
        folded, torch = run("examples/own_model.py", "runs/own_model").splitlines()
        assert float(folded.removeprefix("folded: no logit differs by more than ")) < 1e-4
        assert "stem" in torch and "PyTorch" in torch
    workdir.rename(folder / "resumed")
    check_that_each_part_matters(TRAIN[name], run, folder, lines)


def test_a_killed_process_resumes_bit_for_bit(folder, run, one_device):
    """By real processes, with a loss, mixup and their file."""
    (folder / "small.py").write_text("from tests import resnet8; resnet8.add()")
    file, *arguments = page.shortened(TRAIN["own_loss"], num_steps=24, eval_every=12)

    def start():
        return subprocess.Popen(
            [sys.executable, page.ROOT / file, *arguments, "--import", "small.py"],
            env=environment() | {"PYTHONPATH": str(page.ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish():
        process = start()
        _, err = process.communicate(timeout=300)
        assert (process.returncode, err) == (0, ""), err

    finish()
    workdir = folder / "runs" / "own_loss"
    workdir.rename(folder / "whole")
    process = start()
    assert processes.wait_until((workdir / "checkpoints" / "4").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert processes.steps(workdir)[-1] < 24
    with pytest.raises(InputError, match="--import"):
        run(*without_import([file, *arguments]))
    finish()
    page.assert_same_run(workdir, folder / "whole", 24)
    *lines, last = processes.records(workdir)
    [command] = evaluations("own_loss")
    assert json.loads(run(*command))["top1_error"] == last["top1_error"]
    workdir.rename(folder / "killed")
    check_that_each_part_matters(TRAIN["own_loss"], run, folder, lines)


def test_an_unknown_name_says_import_and_nothing_is_imported(
    run, folder, forget, one_device, shallow
):
    """Also where the file lies beside the run, and its name is that of the model."""
    run(*page.shortened(TRAIN["own_model"], num_steps=2))
    workdir = folder / "runs" / "own_model"
    (workdir / "resnet20d_cifar.py").write_text("raise SystemExit('run')")
    [*_, refusal] = page.blocks("text", "What is imported")
    [command] = REFUSED
    with pytest.raises(InputError) as error:
        run(*command)
    assert refusal == f"resnet_jax: error: {error.value}\n"
    assert "own_model" not in sys.modules


def test_the_learning_rate_of_any_step(run):
    heading = "The learning rate of any step"
    [command], [shown] = page.commands(heading), page.blocks("text", heading)
    assert run(*command) == shown
    config = page.demo()
    for step, rate in re.findall(r"^step +(\d+)/560  (.*)$", shown, re.MULTILINE):
        assert f"{training.learning_rate(config, int(step)):.6g}" == rate
    picture = run(*command, "--output", "schedule.png").splitlines()[-1]
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_parts_handed_in(run, example, folder, one_device, capsys):
    """The page's program is the example; its run is resumed, refused without them, evaluated."""
    program, *_ = page.blocks("python", "Parts handed in")
    recipe = "config = runpy.run_path"
    assert recipe in program
    lines = program.splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith(recipe))

    small = page.SMALL | {"schedule_steps": 6}

    def execute(num_steps):
        changes = small | {"num_steps": num_steps}
        changed = [*lines[: index + 1], f"config.update({changes})", *lines[index + 1 :]]
        names = {}
        text = "\n".join(changed).replace("=experiment.num_steps", "=6")
        exec(text.replace('"test"', '"test[:60]"'), names)
        return names

    example("own_optimizer").main("whole", **small, num_steps=6)
    execute(4)
    names = execute(6)
    workdir = folder / "runs" / "handed_in"
    page.assert_same_run(workdir, folder / "whole", 6)
    parts = json.loads((workdir / "config.json").read_text())["parts"]
    assert parts["optimizer"] == "lamb" and set(parts) == {"optimizer", "schedule"}
    assert any("'nu'" in leaf for leaf in processes.state(workdir, 6))  # LAMB's second moments.
    rates = [r["learning_rate"] for r in processes.records(workdir) if "learning_rate" in r]
    schedule = names["experiment"].schedule
    assert rates == pytest.approx([float(schedule(step - 1)) for step in (2, 4, 6)], rel=1e-5)

    [command], [refusal] = page.commands("Parts handed in"), page.blocks("text", "Parts handed in")
    with pytest.raises(InputError) as error:
        run(*command)
    message = str(error.value).replace(f"{folder}/", "")
    assert refusal == f"resnet_jax: error: {message}\n"
    result = json.loads(run("-m", "resnet_jax", "evaluate", "--workdir", "runs/handed_in"))
    assert result["top1_error"] == names["records"]["test[:60]"]["top1_error"]

    [early] = page.blocks("python", "Observers")
    names["config"].update(num_steps=40, eval_every=1, log_every=1)
    capsys.readouterr()
    exec(early.replace("patience=4", "patience=1"), names)
    errors = [r["top1_error"] for r in processes.records(folder / "runs" / "early")][1::2]
    best = min(range(len(errors)), key=errors.__getitem__)
    assert len(errors) < 40 and best == len(errors) - 2
    assert "EarlyStopping ended the run: saved at step" in capsys.readouterr().out


def test_the_tables_names_are_there():
    names = re.findall(r"^\| `([\w.]*register_\w+)` \|", page.TEXT, re.MULTILINE)
    assert len(names) == 8
    assert all(callable(operator.attrgetter(name)(resnet_jax)) for name in names)
    methods = re.findall(r"^\| `(on_\w+)\(", page.TEXT, re.MULTILINE)
    assert methods == re.findall(r"`(on_\w+)\(", Observers.__doc__)
