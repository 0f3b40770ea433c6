"""The examples of docs/pretrained.md run, on files of the names they use."""

import json
import re
from pathlib import Path

import h5py
import pytest
import torch
from PIL import Image

import resnet_jax
from tests import torch_twins
from tests.interop import keras_twins

PAGE = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    resnet18 = torch_twins.make_twin("resnet18")
    torch.save(resnet18.state_dict(), folder / "resnet18-f37072fd.pth")
    repository = folder / "timm" / "resnet50.a1_in1k"
    repository.mkdir(parents=True)
    torch.save(resnet18.state_dict(), repository / "pytorch_model.bin")
    own = {"crop_pct": 0.95, "interpolation": "bicubic"}
    config = {"architecture": "resnet18", "pretrained_cfg": own}
    (repository / "config.json").write_text(json.dumps(config))
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (50, 40)).save(folder / name)
    arrays = keras_twins.numbered_arrays((3, 4, 6, 3), 1000, keras_twins.old_names)
    with h5py.File(folder / "resnet50_weights_tf_dim_ordering_tf_kernels.h5", "w") as file:
        for name, value in arrays.items():
            layer, weight = name.split("/")
            file[f"{layer}/{layer}_{weight}_1:0"] = value
    return folder


# In one test, as the last example reads what the one before it wrote.
def test_examples_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert len(EXAMPLES) == 6
    for example in EXAMPLES:
        # The size of the images is what takes time.
        names = {}
        exec(example.replace("224", "32"), names)
        if "images" in names:
            assert names["images"].shape == (2, 224, 224, 3)
            line = " ".join(re.findall(r"^# (.*)$", example, re.MULTILINE))
            assert capsys.readouterr().out == f"{line}\n"
    assert names["logits"].shape == (8, 1000)


def test_names_are_those_there_are():
    for name in re.findall(r"resnet_jax\.(\w+)\(", PAGE):
        assert name in resnet_jax.__all__
    for name in re.findall(r"`(resnet\d+(?:_v1|_cifar)?)`", PAGE):
        assert name in resnet_jax.list_models()
