"""The command on images whose scores are computed from the parts."""

import io
import json
import shutil
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


def test_a_batch_is_no_larger_than_its_images(run, photos, monkeypatch):
    """One photograph costs one, and more batches than one compile one program."""
    shapes = []
    real = predict._scores

    def scores(trained, images, batch_size):
        shapes.append((len(images), batch_size))
        return real(trained, images, batch_size)

    monkeypatch.setattr(predict, "_scores", scores)
    monkeypatch.setattr(predict, "_BATCH_SIZE", 2)
    predict.main(["--workdir", run[0], photos[0]])
    predict.main(["--workdir", run[0], *photos, photos[0]])
    assert shapes == [(1, 1), (2, 2), (1, 2)]


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


@pytest.fixture
def called(capsys, run):
    """Runs the command on a run; returns the status, the paths predicted, and standard error."""

    def run_command(*argv):
        status = predict.main(["--workdir", run[0], "--json", *map(str, argv)])
        out, err = capsys.readouterr()
        return status, [json.loads(line)["image"] for line in out.splitlines()], err.splitlines()

    return run_command


def test_a_folder_is_all_its_images(called, photos, tmp_path):
    """In subfolders, too, but not what systems put there, nor other files."""
    names = ["b/2.png", "b/1.PNG", "a.png"]
    for name in (*names, "@eaDir/a.png", "._a.png", "notes.txt", ".hidden/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos[1], tmp_path / name)
    status, found, err = called(tmp_path)
    assert (status, len(err)) == (0, 1)
    assert found == [str(tmp_path / name) for name in sorted(names)]


def test_what_can_be_predicted_is_and_the_rest_is_named(called, photos, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    status, found, err = called(
        photos[0], bad, tmp_path / "none.jpg", tmp_path / "empty", photos[1]
    )
    assert status == 2 and found == photos
    assert [line for line in err if "error" in line] == [
        f"resnet_jax: error: cannot use {bad}: it is not an image in a format that Pillow reads; "
        "give image files",
        f"resnet_jax: error: cannot read {tmp_path / 'none.jpg'}: No such file or directory; "
        "give image files",
        f"resnet_jax: error: there is no image in the folder {tmp_path / 'empty'}; "
        "give image files",
    ]


def test_a_turned_photograph_is_said_and_turned(called, tmp_path, run):
    upright = Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter to the left: viewers turn it to the right.
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)
    read = predict._Photographs(data.eval_transform("none", channels=1), exif=True)
    [(_, images)] = read.batches([str(tmp_path / "upright.png"), str(tmp_path / "turned.png")])
    np.testing.assert_array_equal(images[0], images[1])

    _, _, err = called(tmp_path / "upright.png", tmp_path / "turned.png")
    assert err[0].endswith(f"from the run in {run[0]}")
    assert err[1:] == [
        f"resnet_jax: {tmp_path / 'turned.png'} is rotated (EXIF orientation); --exif turns "
        "it upright"
    ]
    _, _, err = called("--exif", tmp_path / "turned.png")
    assert err[1:] == []


GREYS = np.linspace(0, 1, 28 * 28).reshape(28, 28)


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        ((GREYS * 65535).round().astype(np.uint16), "png"),
        ((GREYS * 1000).round().astype(np.int32), "tif"),
        (GREYS.astype(np.float32), "tif"),
        ((GREYS * 255).astype(np.float32), "tif"),
    ],
    ids=["16 bits", "32 bits", "up to 1", "up to 255"],
)
def test_deep_pixels_are_scaled_to_8_bits(called, tmp_path, pixels, ending):
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(pixels).save(path)
    read = predict._Photographs(data.eval_transform("none", channels=1), exif=False)
    [(_, [image])] = read.batches([str(path)])
    white = 65535 if ending == "png" or pixels.max() == 1000 else pixels.max()
    np.testing.assert_array_equal(image[..., 0], np.round(pixels / white * 255))
    _, _, err = called(path)
    assert err[1] == (
        f"resnet_jax: {path} is scaled to 8 bits; training and evaluate clip such pixels at 255"
    )


def test_a_truncated_deep_image_is_bad(called, tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray((GREYS * 65535).astype(np.uint16)).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    status, found, err = called(path)
    assert (status, found, len(err)) == (2, [], 1) and "cannot be decoded" in err[0]
