"""What the README says to type works, and what it names is there."""

import re
from pathlib import Path

import torch
from PIL import Image

import resnet_jax
from resnet_jax.ops import stock
from tests import resnet8
from tests.torch_twins import make_twin

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_example_of_a_model_runs():
    _, example, _ = blocks("python")
    small = example.replace("resnet50", "resnet20_cifar").replace(
        "[8, 224, 224, 3]", "[2, 8, 8, 3]"
    )
    names = {}
    exec(small, names)
    assert names["logits"].shape == (2, 10) and names["logits"].dtype == "float32"
    assert set(names["updates"]) == {"batch_stats"}
    assert list(names["features"]) == ["stem", "stage1", "stage2", "stage3"]


def test_the_example_of_a_run_runs(tmp_path, monkeypatch):
    example, _, _ = blocks("python")
    monkeypatch.setattr("configs.fashion_mnist_demo.get_config", resnet8.get_config)
    monkeypatch.setattr(stock, "rectified", stock.rectified)  # The recipe replaces it.
    example = example.replace("runs/lamb", str(tmp_path)).replace(
        "experiment.replace(", "experiment.replace(num_steps=1, "
    )
    names = {}
    exec(example, names)
    assert names["records"]["test"]["step"] == 1


def test_the_example_of_weights_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(make_twin("resnet18").state_dict(), "resnet18-f37072fd.pth")
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (50, 40)).save(name)
    names = {}
    # A smaller network, which takes less time.
    exec(blocks("python")[2].replace("resnet50-11ad3fa6", "resnet18-f37072fd"), names)
    assert names["logits"].shape == (2, 1000)
    assert names["preprocessing"].describe().startswith("224x224 from 256, bilinear, mean")


def test_configurations_named_are_those_there_are():
    rows = re.findall(r"^\| (`[\w*]+\.py`.*?) \|", README, re.MULTILINE)
    patterns = re.findall(r"`([\w*]+\.py)`", "".join(rows))
    found = [set((ROOT / "configs").glob(pattern)) for pattern in patterns]
    assert all(found)
    assert set.union(*found) == set((ROOT / "configs").glob("*.py"))


def test_make_targets_named_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "help", "lint"} <= named <= targets


def test_models_named_exist():
    names = resnet_jax.list_models()
    for name in re.findall(r"`((?:plain|resnet)\d+(?:_cifar)?)`", README):
        assert name in names
