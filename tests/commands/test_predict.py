"""The command on images whose scores are computed from the parts."""

import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import resnet_jax
from resnet_jax import data
from resnet_jax.commands import predict
from resnet_jax.data.sources.class_names import imagenet_class_names
from resnet_jax.errors import UsageError
from tests import torch_twins
from tests.quick import init
from tests.training.runs import make_run

FASHION = "T-shirt/top"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    return str(workdir), make_run(workdir)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two coloured images of different sizes, lossless."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for name, size in [("a.png", (300, 280)), ("b.png", (40, 51))]:
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        paths.append(str(folder / name))
    return paths


@pytest.fixture(scope="module")
def twin():
    return torch_twins.randomise(torch_twins.make_twin("resnet18"), seed=1).eval()


@pytest.fixture(scope="module")
def weights(twin, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(twin.state_dict(), path)
    return str(path)


@pytest.fixture
def predictions(capsys):
    def run_command(*argv):
        predict.main([*argv, "--json"])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run_command


def check(predicted, scores, names):
    labels = np.argsort(-scores)[:5]
    assert [one["label"] for one in predicted] == labels.tolist()
    assert [one["name"] for one in predicted] == [names[label] for label in labels]
    np.testing.assert_allclose([one["score"] for one in predicted], scores[labels], rtol=1e-3)


def test_imagenet_weights_name_imagenets_classes(predictions, photos, weights, twin):
    results = predictions("--model", "resnet18", "--weights", weights, *photos)
    assert [result["image"] for result in results] == photos
    names = list(imagenet_class_names().values())
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    crop = data.eval_transform("imagenet", 224, 256)
    for path, result in zip(photos, results, strict=True):
        with open(path, "rb") as file:
            pixels = crop(file.read())
        images = torch.tensor((pixels / 255 - mean) / deviation).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            scores = twin(images).softmax(1)[0].numpy()
        check(result["predictions"], scores, names)


def test_another_preprocessing_and_size_give_other_scores(predictions, photos, weights):
    first = ["--model", "resnet18", "--weights", weights, photos[0]]
    results = [
        predictions(*first, "--image_size", "64", "--preprocess", name)
        for name in ("torchvision", "caffe", "none")
    ]
    assert len({result[0]["predictions"][0]["score"] for result in results}) == 3


def test_a_run_names_its_data_sets_classes(predictions, run, tmp_path):
    workdir, states = run
    source = data.open_source("fashion_mnist_mini", "test[:40]")
    paths = []
    for index in range(40):  # More than a batch.
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(source.images[index, :, :, 0]).save(paths[-1])
    results = predictions("--workdir", workdir, *paths)
    model = resnet_jax.create_model("resnet20_cifar", 10)
    images = states[30].normalization(jnp.asarray(source.images))
    logits = jax.jit(lambda *args: model.apply(*args))(states[30].variables, images)
    scores = np.asarray(jax.nn.softmax(logits))
    assert source.class_names[0] == FASHION
    for result, row in zip(results, scores, strict=True):
        check(result["predictions"], row, source.class_names)
    best = predictions("--workdir", workdir, "--checkpoint", "best", paths[0])
    assert best[0]["predictions"] != results[0]["predictions"]


def test_a_photo_is_cut_to_the_runs_size(predictions, run, photos):
    [result] = predictions("--workdir", run[0], photos[0])
    assert len(result["predictions"]) == 5


def test_own_weights_say_their_model(predictions, photos, tmp_path):
    model = resnet_jax.create_model("resnet20_cifar", 7)
    variables = init(model, jnp.zeros((1, 32, 32, 3)))
    path = tmp_path / "net.safetensors"
    resnet_jax.save_weights(path, variables, model)
    [result] = predictions("--weights", str(path), "--preprocess", "none", photos[0])
    assert all(one["name"] == f"class {one['label']}" for one in result["predictions"])


def test_a_table_with_a_bar_for_each(capsys, monkeypatch, run, photos):
    def shown(encoding):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        predict.main(["--workdir", run[0], *photos])
        stream.flush()
        return stream.buffer.getvalue().decode(encoding).splitlines()

    for encoding, block in [("utf-8", "█"), ("ascii", "#")]:
        lines = shown(encoding)
        assert [lines[0], lines[7]] == photos
        assert lines[6] == ""
        percentages = [float(line.split("%")[0].split()[-1]) for line in lines[1:6]]
        assert percentages == sorted(percentages, reverse=True)
        bars = [line.split("%")[1].count(block) for line in lines[1:6]]
        for percentage, bar in zip(percentages, bars, strict=True):
            assert abs(bar - 30 * percentage / 100) <= 1


def test_wrong_usage_answers_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "resnet_jax.evaluation", None)
    with pytest.raises(UsageError):
        predict.main(["x.png"])
