"""The commands use the preprocessing of a run or of weights, and options replace parts of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import resnet_jax
from resnet_jax import data
from resnet_jax.commands import evaluate, export, predict
from resnet_jax.errors import DataError, UsageError
from resnet_jax.training.restore import open_run
from tests.quick import init
from tests.training.runs import make_run

OWN = data.Preprocessing(
    image_size=(24, 24),
    crop_share=0.75,
    interpolation="bicubic",
    mean=(0.4, 0.5, 0.6),
    std=(0.3, 0.2, 0.1),
    class_names=("ape", "bee", "cow"),
)
CHANGES = {
    "nothing": ([], {}),
    "size": (["--image_size", "16"], {"image_size": (16, 16)}),
    "resize": (["--resize", "24"], {"crop_share": 1.0}),
    "filter": (["--interpolation", "bilinear"], {"interpolation": "bilinear"}),
    "mean": (["--mean", "0.1", "0.2", "0.3"], {"mean": (0.1, 0.2, 0.3)}),
    "one deviation": (["--std", "0.5"], {"std": (0.5,) * 3}),
    "a name": (["--preprocess", "none"], {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
    "a name and a mean": (
        ["--preprocess", "caffe", "--mean", "0.5"],
        {"mean": (0.5,) * 3, "std": (1 / 255,) * 3, "channel_order": "BGR"},
    ),
}


@pytest.fixture(scope="module")
def network(resnet8):
    model = resnet_jax.create_model("resnet8_cifar", 3)
    variables = init(model, jnp.zeros((1, 16, 16, 3)))
    head = {"kernel": np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)}
    head["bias"] = np.zeros(3, np.float32)
    return model, {**variables, "params": {**variables["params"], "head": head}}


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    resnet_jax.save_weights(path, network[1], network[0], preprocessing=OWN)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of a class each, with images of odd sizes."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name in OWN.class_names:
        (folder / "val" / name).mkdir(parents=True)
        for number, size in enumerate([(41, 30), (33, 57)]):
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize(size).save(folder / "val" / name / f"{number}.png")
    return folder


def expected_scores(network, preprocessing, paths):
    """By the record itself, whose images `tests/data/test_preprocessing.py` compares."""
    model, variables = network
    images = np.concatenate([np.asarray(preprocessing(str(path))) for path in paths])
    return np.asarray(jax.nn.softmax(jax.jit(model.apply)(variables, images)))


@pytest.mark.parametrize(("argv", "changes"), CHANGES.values(), ids=CHANGES)
def test_predict_uses_it(network, weights, photos, capsys, argv, changes):
    paths = sorted(photos.rglob("*.png"))[:3]
    predict.main(["--weights", weights, "--json", *argv, "--", *map(str, paths)])
    out, err = capsys.readouterr()
    wanted = dataclasses.replace(OWN, **changes)
    scores = expected_scores(network, wanted, paths)
    for line, row in zip(out.splitlines(), scores, strict=True):
        found = {one["label"]: one["score"] for one in json.loads(line)["predictions"]}
        np.testing.assert_allclose([found[label] for label in range(3)], row, rtol=1e-3)
    [line] = err.splitlines()
    assert line.startswith(f"resnet_jax: {weights} takes {wanted.describe()}"), line
    assert ("changed by options" in line) == bool(argv)


@pytest.mark.parametrize("name", ["nothing", "filter", "a name"])
def test_evaluate_uses_it(network, weights, photos, capsys, name):
    argv, changes = CHANGES[name]
    evaluate.main(["--weights", weights, "--dataset", str(photos), *argv])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    paths = sorted(photos.rglob("*.png"))
    scores = expected_scores(network, dataclasses.replace(OWN, **changes), paths)
    labels = [OWN.class_names.index(path.parent.name) for path in paths]
    loss = -np.log(scores[np.arange(len(paths)), labels]).mean()
    assert result["loss"] == pytest.approx(loss, rel=1e-3)


def test_export_describes_it(weights, tmp_path, capsys):
    export.main(["--weights", weights, "--output", str(tmp_path / "net"), "--std", "0.5"])
    described = json.loads(capsys.readouterr().out)
    assert described["input"] == ["n", 24, 24, 3] and described["resize"] == [32, 32]
    assert described["mean"] == pytest.approx(OWN.mean)
    assert described["deviation"] == [0.5] * 3
    assert described["interpolation"] == "bicubic"
    assert described["class_names"] == list(OWN.class_names)
    assert json.loads((tmp_path / "net.json").read_text()) == described


def test_weights_that_say_nothing_get_what_is_usual(network, tmp_path, capsys, photos):
    """That is said, and it is not called a choice of the options."""
    path = str(tmp_path / "net.safetensors")
    save_file(resnet_jax.to_torch(*network), path)
    named = ["--weights", path, "--model", "resnet8_cifar", "--num_classes", "3"]
    photo = str(next(photos.rglob("*.png")))
    for argv, mean, words in (
        ([], "mean (0.485, 0.456, 0.406)", "as the weights do not say it\n"),
        (["--preprocess", "none"], "mean (0, 0, 0)", "say it, changed by options\n"),
    ):
        predict.main([*named, photo, *argv])
        err = capsys.readouterr().err
        assert mean in err and err.endswith(words), err


def test_a_repository_needs_no_model(network, photos, tmp_path, capsys):
    """A folder as timm publishes one, whose `config.json` states network and preprocessing."""
    model = resnet_jax.create_model("resnet18", 3)
    variables = init(model, jnp.zeros((1, 32, 32, 3)))
    save_file(resnet_jax.to_torch(model, variables), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18",
        "num_classes": 3,
        "label_names": ["cow", "bee", "ape"],
        "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    evaluate.main(["--weights", str(tmp_path), "--dataset", str(photos)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = resnet_jax.preprocessing(tmp_path)
    assert (wanted.image_size, wanted.interpolation, wanted.mean) == (
        (32, 32),
        "bicubic",
        (0.5,) * 3,
    )
    paths = sorted(photos.rglob("*.png"))
    scores = expected_scores((model, variables), wanted, paths)
    labels = [wanted.class_names.index(path.parent.name) for path in paths]
    loss = -np.log(scores[np.arange(len(paths)), labels]).mean()
    assert result["loss"] == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        (["--resize", "20"], UsageError, "a crop of 24 does not fit"),
        (["--interpolation", "bicubc"], DataError, "did you mean 'bicubic'"),
        (["--mean", "1", "2"], UsageError, "--mean has 2 numbers; give 1 or 3"),
        (["--std", "0"], DataError, "std above 0"),
        (["--preprocess", "torchvison"], DataError, "did you mean 'torchvision'"),
    ],
)
def test_options_that_do_not_fit(weights, photos, argv, error, words):
    with pytest.raises(error, match=words):
        evaluate.main(["--weights", weights, "--dataset", str(photos), *argv])


@pytest.fixture(scope="module")
def run(resnet8, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    make_run(workdir, [(1, 0.5)], model="resnet8_cifar")
    return workdir


def test_a_work_directory_is_read_as_weights_are(run):
    """On one device here, though eight had the state."""
    trained = open_run(run)
    model, variables = resnet_jax.load_model(run)
    assert model == trained.network.model
    jax.tree.map(np.testing.assert_array_equal, variables, trained.network.variables)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(variables))

    wanted = resnet_jax.preprocessing(run)
    source = data.open_source("fashion_mnist_mini", "test[:3]")
    assert wanted.class_names == tuple(source.class_names)
    pictures = [Image.fromarray(pixels[:, :, 0]) for pixels in source.images]
    images = wanted(pictures)
    normalized = trained.network.normalization(source.images)
    np.testing.assert_allclose(images, normalized, atol=1e-6)
    logits = model.apply(variables, images)
    np.testing.assert_allclose(logits, trained.network.logits(source.images), atol=1e-4)


def test_saved_weights_say_what_their_run_says(run, tmp_path):
    model, variables = resnet_jax.load_model(run)
    own = resnet_jax.preprocessing(run)
    path = tmp_path / "net.safetensors"
    resnet_jax.save_weights(path, variables, model, preprocessing=own)
    assert resnet_jax.preprocessing(path) == own
    assert resnet_jax.preprocessing(tmp_path / "net.safetensors").class_names == own.class_names
