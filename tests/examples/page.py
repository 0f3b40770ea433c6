"""docs/extending.md: its sections, and the commands and programs that it shows."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np

from tests.faults import processes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")

SMALL = {
    "model": "resnet8_cifar",
    "train_split": "train[:64]",
    "eval_split": "test[:60]",
    "batch_size": 8,
    "eval_batch_size": 20,
    "log_every": 2,
    "eval_every": 4,
    "checkpoint_every": 2,
}
"""Keys of a run that takes a moment."""


def blocks(language, heading=None):
    """The code blocks of a language, on the whole page or in one section."""
    text = TEXT if heading is None else TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(heading=None):
    """The commands, each the list of its arguments without `python`."""
    lines = "".join(blocks("sh", heading)).replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines]
    assert all(first == "python" for first, *_ in found)
    return [arguments for _, *arguments in found]


def shortened(command, **changes):
    """A command that trains, on fewer and smaller batches; what it says itself stays."""
    own = re.findall(r"--config\.(\w+)=", " ".join(command))
    keep = {"dataset": ("train_split", "eval_split")}
    kept = {name for key in own for name in (key, *keep.get(key, ()))}
    small = {key: value for key, value in SMALL.items() if key not in kept} | changes
    return [*command, *(f"--config.{key}={value}" for key, value in small.items())]


def parts(command):
    """The keys by which a command names parts."""
    kinds = ("optimizer", "loss", "batch_augmentation", "model", "dataset")
    return [key for key in kinds if f" --config.{key}=" in " ".join(command)]


def without(command, key):
    """The command with the recipe's own part for one that it names."""
    return [argument for argument in command if not argument.startswith(f"--config.{key}=")]


def workdir(command):
    """The folder in which a command trains, or whose run it evaluates."""
    return command[command.index("--workdir") + 1]


def assert_same_run(one, other, step):
    """Bit for bit the same checkpoint, position in the data included, and the same metrics."""
    ours, expected = processes.state(one, step), processes.state(other, step)
    assert ours.keys() == expected.keys() and len(ours) > 50
    assert ours.pop("data") == expected.pop("data")
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    assert processes.records(one) == processes.records(other)
    steps = [record["step"] for record in processes.records(one) if record["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == step


def demo(**changes):
    """The recipe that the commands name, with other values."""
    config = runpy.run_path(str(ROOT / "configs" / "fashion_mnist_demo.py"))["get_config"]()
    config.update(changes)
    return config
