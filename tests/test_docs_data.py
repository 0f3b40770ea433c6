"""The commands of docs/data.md under "Your own photographs" run, in the order of the page."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from resnet_jax.commands import evaluate, predict, train
from tests import torch_twins

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## ")[1]
BLOCKS = "".join(re.findall(r"^```sh\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE))
COMMANDS = [shlex.split(line) for line in BLOCKS.replace("\\\n", " ").splitlines()]
CLASSES = ("cat", "dog", "fox")
SMALL = {"batch_size": 8, "num_steps": 2, "log_every": 1}
"""Keys of a run that takes a moment."""


def draw(path, label, rng):
    """A circle, a square or a triangle, somewhere."""
    picture = Image.new("RGB", (40, 36), tuple(rng.integers(0, 90, 3).tolist()))
    left, top = rng.integers(2, 16, 2).tolist()
    box, color = (left, top, left + 18, top + 16), tuple(rng.integers(150, 256, 3).tolist())
    pen = ImageDraw.Draw(picture)
    if label == 2:
        pen.polygon([(left, top + 16), (left + 18, top + 16), (left + 9, top)], fill=color)
    else:
        (pen.ellipse if label else pen.rectangle)(box, fill=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's photographs in all three layouts, those from elsewhere, and weights."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for number in range(8):
            draw(folder / "photos" / "train" / name / f"{number}.jpg", label, rng)
        for number in range(4):
            draw(folder / "photos" / "val" / name / f"{number}.png", label, rng)
    shutil.copytree(folder / "photos" / "train", folder / "by_class")
    for name in ("fox", "cat"):
        shutil.copytree(folder / "photos" / "val" / name, folder / "field" / name)
    draw(folder / "new_photos" / "1.jpg", 0, rng)
    with open(folder / "photos.csv", "w", newline="") as file:
        rows = [(path, path.parent.name) for path in sorted((folder / "by_class").rglob("*.jpg"))]
        csv.writer(file).writerows([("file", "label"), *rows])
    twin = torch_twins.make_twin("resnet18")
    torch.save(twin.state_dict(), folder / "resnet50-11ad3fa6.pth")
    return folder


def shortened(command):
    """A training command with a small network, in place of those that take long."""
    said = " ".join(command)
    keys = dict(SMALL) | ({} if "image_size" in said else {"image_size": 32})
    if ".pth" in said:
        keys["model"] = "resnet18"  # Of which the file is, whatever its name.
    elif "folder.py" in said and ".model=" not in said:
        keys["model"] = "resnet8_cifar"
        keys["model_options.zero_init_residual"] = False
    return [*command, *(f"--config.{key}={value}" for key, value in keys.items())]


def test_every_command_runs(resnet8, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    ran = []
    for python, *command in COMMANDS:
        assert python == "python"
        if command[0] == "train.py":
            train.main(shortened(command[1:]))
            out = capsys.readouterr().out
            assert "top-1 error" in out and "top-5" not in out
            ran.append("train")
        else:
            _, module, name, *arguments = command
            assert module == "resnet_jax"
            status = {"evaluate": evaluate, "predict": predict}[name].main(arguments)
            assert not status
            out = capsys.readouterr().out
            ran.append(name)
        if ran[-1] == "evaluate":
            result = json.loads(out.splitlines()[-1])
            assert result["num_examples"] == (12 if "--per_class" in command else 8)
        if ran[-1] == "evaluate" and "--per_class" in command:
            assert "AUC" in out and "top-5" not in out
            assert {row["name"] for row in result["per_class"]} <= set(CLASSES)
        if name_of(command) == "predict":
            assert "new_photos/1.jpg" in out and all(name in out for name in CLASSES)
    assert ran == ["train"] * 5 + ["evaluate"] * 2 + ["predict"]
    with open("scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and set(CLASSES) < set(rows[0])
    assert Path("confusion.png").stat().st_size > 1000
    for run in ("photos", "by_class", "table", "tuned", "small"):
        config = json.loads((folder / "runs" / run / "config.json").read_text())
        assert config["num_steps"] == 2


def name_of(command):
    return command[2] if command[0] == "-m" else "train"
