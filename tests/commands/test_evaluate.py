"""The command from its arguments to its last line, on work directories and weights files."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from matplotlib import image as matplotlib_image
from PIL import Image
from pyarrow import parquet

import resnet_jax
from resnet_jax import data
from resnet_jax.commands import evaluate
from resnet_jax.evaluation import (
    ClassErrors,
    Network,
    evaluate_as,
    make_protocol,
    recompute_batch_statistics,
    training_images,
)
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.runtime.pictures import NotDrawn
from tests.training.runs import CONFIG, make_run

SOURCE = data.open_source("fashion_mnist_mini", CONFIG.eval_split)
MODEL = resnet_jax.create_model("resnet20_cifar", 10)
WEIGHTS = ["--dataset", "fashion_mnist_mini", "--split", CONFIG.eval_split]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with random weights, and the states of their checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    workdirs = [folder / "a", folder / "b"]
    states = [make_run(workdir, seed=seed) for seed, workdir in enumerate(workdirs)]
    return [str(workdir) for workdir in workdirs], states


@pytest.fixture
def run_command(capsys):
    def run(*argv):
        evaluate.main([str(argument) for argument in argv])
        *lines, last = capsys.readouterr().out.splitlines()
        return json.loads(last), lines

    return run


def test_a_picture_that_fails_comes_after_the_figures(runs, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("no layout")

    monkeypatch.setattr(ClassErrors, "plot", fail)
    picture, predictions = tmp_path / "x.png", tmp_path / "x.parquet"
    files = ["--confusion", str(picture), "--predictions", str(predictions)]
    with pytest.raises(NotDrawn, match=f"{picture} was not drawn: no layout"):
        evaluate.main(["--workdir", runs[0][0], *files])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_examples"] == len(SOURCE)
    assert predictions.exists()


def scores_of(state):
    """Every image's softmax, by the network alone."""
    images = state.normalization(jnp.asarray(SOURCE.images))
    apply = jax.jit(MODEL.apply, compiler_options={"xla_backend_optimization_level": 0})
    return np.asarray(jax.nn.softmax(apply(state.variables, images)), np.float64)


def check(result, scores, **more):
    own = scores[np.arange(len(SOURCE)), SOURCE.labels]
    ranks = (scores > own[:, None]).sum(1)
    assert result == {
        "num_examples": len(SOURCE),
        "loss": pytest.approx(-np.log(own).mean(), rel=1e-4),
        "top1_error": pytest.approx(np.mean(ranks >= 1)),
        "top5_error": pytest.approx(np.mean(ranks >= 5)),
        "protocol": "center",
        "dataset": "fashion_mnist_mini",
        "split": CONFIG.eval_split,
        **more,
    }


@pytest.mark.parametrize(("checkpoint", "step"), [([], 30), (["--checkpoint", "best"], 20)])
def test_a_work_directory(runs, run_command, checkpoint, step):
    [workdir, _], [states, _] = runs
    result, lines = run_command("--workdir", workdir, *checkpoint)
    check(result, scores_of(states[step]), networks=[f"{workdir}/checkpoints/{step}"])
    assert not lines


def test_an_ensemble_with_all_its_results(runs, run_command, tmp_path):
    workdirs, (a, b) = runs
    files = [tmp_path / "confusion.png", tmp_path / "scores.parquet"]
    result, lines = run_command(
        *("--workdir", workdirs[0], "--workdir", workdirs[1], "--batch_size", 30),
        *("--per_class", "--confusion", files[0], "--predictions", files[1]),
    )
    scores = (scores_of(a[30]) + scores_of(b[30])) / 2
    rows = result.pop("per_class")
    for label in range(10):
        is_label = SOURCE.labels == label
        row = next(row for row in rows if row["label"] == label)
        assert (row["name"], row["images"]) == (SOURCE.class_names[label], is_label.sum())
        assert row["recall"] == pytest.approx(np.mean(scores.argmax(1)[is_label] == label))
    check(result, scores, networks=[f"{workdir}/checkpoints/30" for workdir in workdirs])

    table = parquet.read_table(files[1])
    assert table.schema.metadata[b"class_names"].decode().split("\n") == list(SOURCE.class_names)
    np.testing.assert_allclose(table["scores"].to_pylist(), scores, atol=2e-5)
    np.testing.assert_array_equal(table["label"], SOURCE.labels)
    assert table["file"].to_pylist()[3] == f"{CONFIG.eval_split}[3]"
    assert matplotlib_image.imread(files[0]).std() > 0.05
    assert lines[0].split()[:2] == ["class", "images"]
    assert len(lines) == 1 + len(set(SOURCE.labels.tolist()))
    wrong = np.mean(scores.argmax(1)[SOURCE.labels == 0] != 0)
    assert f"{wrong:.2%}" == lines[1].removeprefix(SOURCE.class_names[0]).split()[1]


def test_weights_files_of_every_origin_say_the_same(runs, run_command, tmp_path):
    _, [states, _] = runs
    state = states[30]
    mean = np.asarray(state.normalization.mean)
    variables = state.variables
    with_mean, without, pytorch = (
        str(tmp_path / name) for name in ("mean.safetensors", "none.safetensors", "torch.pth")
    )
    resnet_jax.save_weights(with_mean, variables, MODEL, pixel_mean=mean)
    resnet_jax.save_weights(without, variables)
    tensors = resnet_jax.to_torch(MODEL, variables)
    torch.save({name: torch.tensor(array) for name, array in tensors.items()}, pytorch)
    scores = scores_of(state)
    named = ["--model", "resnet20_cifar"]
    for argv in (
        [with_mean],
        [without, *named, "--train_split", CONFIG.train_split],
        [pytorch, *named, "--preprocess", "cifar", "--train_split", CONFIG.train_split],
    ):
        result, _ = run_command("--weights", *argv, *WEIGHTS)
        check(result, scores, networks=argv[:1])
    # The mean of another split is another one; the network's own is in the first file.
    [result, _] = run_command("--weights", without, *named, *WEIGHTS, "--train_split", "test")
    assert result["loss"] != pytest.approx(-np.log(scores).mean(), rel=1e-4)


def test_recomputed_statistics(runs, run_command):
    [workdir, _], [states, _] = runs
    result, _ = run_command("--workdir", workdir, "--recompute_batch_norm", 20)

    train_source = data.open_source(CONFIG.dataset, CONFIG.train_split)
    images = training_images(train_source, data.train_transform("cifar"), 20, CONFIG.seed)
    state = states[30]
    network = Network(MODEL, state.variables, state.normalization)
    mesh = data_mesh()
    network = recompute_batch_statistics(network, images, mesh, batch_size=128)
    protocol = make_protocol("center", data.eval_transform("none"))
    expected = evaluate_as(protocol, [network], SOURCE, mesh, batch_size=128)
    assert {key: result[key] for key in expected} == expected


def test_protocols_and_sizes(runs, run_command, tmp_path):
    """A folder of photographs, with a network that takes one channel.

    The run has lost the names of its classes, which are no names of folders.
    """
    rng = np.random.default_rng(0)
    for label in range(10):
        for number, size in enumerate([(40, 30), (30, 40), (50, 50)]):
            path = tmp_path / "val" / f"class{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    workdir, [states, _] = tmp_path / "run", runs[1]
    shutil.copytree(runs[0][0], workdir)
    (workdir / "dataset.json").unlink()
    source = data.open_source(str(tmp_path), "val")
    state = states[30]
    network = Network(MODEL, state.variables, state.normalization)
    transform = data.eval_transform("imagenet", 24, 28, channels=1)
    size = ["--image_size", 24, "--resize", 28, "--scales", 24]
    common = ["--workdir", workdir, "--dataset", tmp_path, "--split", "val", "--batch_size", 8]
    for name in ("ten_crop", "multi_scale"):
        result, _ = run_command(*common, "--protocol", name, *size)
        protocol = make_protocol(name, transform, (24,))
        expected = evaluate_as(protocol, [network], source, data_mesh(), batch_size=8)
        assert {key: result[key] for key in expected} == expected
        assert (result["protocol"], result["num_examples"]) == (name, 30)


def test_networks_that_do_not_go_together(runs, tmp_path):
    small = tmp_path / "small"
    make_run(small, [(1, 0.5)], channels=3)
    with pytest.raises(ValueError, match="take images of different sizes or channels"):
        evaluate.main(["--workdir", runs[0][0], str(small)])
    ten, eleven = (str(tmp_path / name) for name in ("10.safetensors", "11.safetensors"))
    variables = runs[1][0][30].variables
    resnet_jax.save_weights(ten, variables, MODEL)
    head = {"kernel": np.zeros((64, 11), np.float32), "bias": np.zeros(11, np.float32)}
    variables = variables | {"params": variables["params"] | {"head": head}}
    resnet_jax.save_weights(eleven, variables, resnet_jax.create_model("resnet20_cifar", 11))
    with pytest.raises(ValueError, match="the networks have 10 and 11 classes"):
        evaluate.main(["--weights", ten, eleven, *WEIGHTS])
