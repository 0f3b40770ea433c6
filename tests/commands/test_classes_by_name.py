"""Labels follow the classes' names: whichever of them a data set has, and in whatever order."""

import dataclasses
import json
import shutil
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import resnet_jax
from resnet_jax import data
from resnet_jax.commands import evaluate, predict, prepare
from resnet_jax.errors import ConfigError, DataError, UsageError
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import train
from resnet_jax.training.initial import load_initial, open_initial
from resnet_jax.training.restore import open_run
from tests.quick import init
from tests.training.runs import CONFIG, make_run

NAMES = ("ape", "bee", "café", "dog")
IMAGENET = ("n01440764", "n01443537", "n02124075", "n03888257")


def write_folder(folder, names, split="val"):
    """Twelve small images of each class, the same ones for the same place of a name in `names`."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / split / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 256, (16, 16, 1), dtype=np.uint8) // (2 + 3 * number % 5)
            Image.fromarray(pixels[:, :, 0]).save(folder / split / name / f"{number}.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all") / "animals"
    write_folder(folder, NAMES)
    shutil.copytree(folder / "val", folder / "train")
    return folder


@pytest.fixture(scope="module")
def run(resnet8, folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "run"
    options = {"dataset": str(folder), "train_split": "train", "eval_split": "val"}
    make_run(workdir, [(1, 0.5)], model="resnet8_cifar", channels=1, **options)
    return str(workdir)


@pytest.fixture(scope="module")
def weights(resnet8, tmp_path_factory):
    """A file that names its classes, and one for ImageNet's 1,000 that does not."""
    found = {}
    for count, names in ((4, NAMES), (1000, ())):
        model = resnet_jax.create_model("resnet8_cifar", count)
        variables = init(model, jnp.zeros((1, 16, 16, 1)))
        rng = np.random.default_rng(1)
        head = {"bias": np.zeros(count, np.float32)}
        head["kernel"] = rng.normal(size=(64, count)).astype(np.float32)
        variables = {**variables, "params": {**variables["params"], "head": head}}
        plain = data.Preprocessing(
            image_size=(16, 16), crop_share=1.0, mean=(0.5,), std=(1.0,), class_names=names
        )
        path = tmp_path_factory.mktemp("weights") / f"{count}.safetensors"
        resnet_jax.save_weights(path, variables, model, preprocessing=plain)
        found[count] = str(path), model, variables
    return found


@pytest.fixture
def evaluated(capsys, tmp_path):
    """Evaluates; returns the result, and (true class, predicted class) for each file's name."""

    def run_command(*argv):
        scores = tmp_path / "scores.parquet"
        evaluate.main([str(argument) for argument in (*argv, "--predictions", scores)])
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        table = parquet.read_table(scores)
        names = table.schema.metadata[b"class_names"].decode().split("\n")
        rows = zip(table["file"], table["label"], table["prediction"], strict=True)
        return result, {
            str(file): (names[label.as_py()], names[prediction.as_py()])
            for file, label, prediction in rows
        }

    return run_command


def copied(folder, target, classes):
    """A folder with some of the classes, new name → old name."""
    for new, old in classes.items():
        shutil.copytree(folder / "val" / old, target / "val" / new)
    return target


SUBSETS = {
    "one class is missing": {"ape": "ape", "café": "café", "dog": "dog"},
    "only the last one": {"dog": "dog"},
    "another spelling, in another order": {unicodedata.normalize("NFD", "café"): "café"},
}


def check_subset(evaluated, all_argv, argv, classes):
    """Each image's class and prediction are those that it has among all classes."""
    _, everything = evaluated(*all_argv)
    result, found = evaluated(*argv)
    assert result["num_examples"] == 12 * len(classes) == len(found)
    wrong = 0
    for file, (label, prediction) in found.items():
        name, number = file.split("/")[-2:]
        same = everything[f"val/{classes[name]}/{number}"]
        assert (unicodedata.normalize("NFC", label), prediction) == (classes[name], same[1])
        wrong += label != prediction
    assert result["top1_error"] == pytest.approx(wrong / len(found))


@pytest.mark.parametrize("classes", SUBSETS.values(), ids=SUBSETS)
def test_a_run_knows_its_classes(evaluated, run, folder, tmp_path, classes):
    field = copied(folder, tmp_path / "field", classes)
    argv = ["--workdir", run, "--split", "val", "--dataset"]
    check_subset(evaluated, [*argv, folder], [*argv, field], classes)


@pytest.mark.parametrize("classes", SUBSETS.values(), ids=SUBSETS)
def test_weights_know_their_classes(evaluated, weights, folder, tmp_path, classes):
    field = copied(folder, tmp_path / "field", classes)
    argv = ["--weights", weights[4][0], "--split", "val", "--dataset"]
    check_subset(evaluated, [*argv, folder], [*argv, field], classes)


def test_a_prepared_set_has_the_folders_names(evaluated, run, folder, tmp_path):
    field = copied(folder, tmp_path / "field", {"bee": "bee", "dog": "dog"})
    (field / "val").rename(field / "train")
    prepare.main([str(field), "--data_dir", str(tmp_path / "data")])
    argv = ["--workdir", run, "--split"]
    result, _ = evaluated(*argv, "train", "--dataset", "field", "--data_dir", tmp_path / "data")
    same, _ = evaluated(*argv, "train", "--dataset", field)
    for key in ("loss", "top1_error", "num_examples"):
        assert result[key] == pytest.approx(same[key])
    assert result["num_examples"] == 24


def test_wordnet_ids_are_imagenets_classes(evaluated, weights, folder, tmp_path):
    """Four folders named by ids, and by words, with a network of a thousand unnamed classes."""
    path, model, variables = weights[1000]
    by_id = copied(folder, tmp_path / "ids", dict(zip(IMAGENET, NAMES, strict=True)))
    words = [data.sources.class_names.imagenet_class_names()[wordnet_id] for wordnet_id in IMAGENET]
    by_word = copied(folder, tmp_path / "words", dict(zip(words, NAMES, strict=True)))
    labels = [list(data.sources.class_names.imagenet_class_names()).index(i) for i in IMAGENET]
    source = data.open_source(str(folder), "val")
    images = (source.images.astype(np.float32).mean(-1, keepdims=True) / 255 - 0.5).astype(
        np.float32
    )
    logits = jax.jit(model.apply)(variables, images)
    truth = np.array(labels)[source.labels]
    expected = np.mean(np.asarray(logits).argmax(1) != truth)
    for dataset in (by_id, by_word):
        result, _ = evaluated("--weights", path, "--dataset", dataset)
        assert result["top1_error"] == pytest.approx(expected)
        loss = -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(len(truth)), truth])
        assert result["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("names", [("ape", "bee", "cat", "dog"), ("elk",)])
def test_a_renamed_class_is_refused(run, weights, folder, tmp_path, names):
    field = copied(folder, tmp_path / "field", dict(zip(names, NAMES, strict=False)))
    unknown = next(name for name in names if name not in NAMES)
    for subject in (["--workdir", run], ["--weights", weights[4][0]]):
        with pytest.raises(DataError, match=f"does not know 1 of .*'{unknown}'"):
            evaluate.main([*subject, "--split", "val", "--dataset", str(field)])


def test_an_ensemble_has_its_classes_in_one_order(resnet8, weights, folder, tmp_path):
    path, model, variables = weights[4]
    other = data.Preprocessing(
        image_size=(16, 16), crop_share=1.0, mean=(0.5,), std=(1.0,), class_names=NAMES[::-1]
    )
    turned = tmp_path / "turned.safetensors"
    resnet_jax.save_weights(turned, variables, model, preprocessing=other)
    with pytest.raises(UsageError, match="their classes in different orders"):
        evaluate.main(["--weights", path, str(turned), "--dataset", str(folder), "--split", "val"])


def test_predictions_have_the_names_of_the_weights(weights, folder, capsys):
    predict.main(["--weights", weights[4][0], "--json", str(folder / "val" / "ape" / "0.png")])
    [line] = capsys.readouterr().out.splitlines()
    for one in json.loads(line)["predictions"]:
        assert one["name"] == NAMES[one["label"]]


def started(weights, model, class_names, skip_head=False):
    """What a run on a data set of these classes starts from."""
    opened = open_initial(str(weights), 0)
    return load_initial(opened, model, 1, skip_head=skip_head, class_names=class_names)


def of_head(variables):
    head = variables["params"]["head"]
    return np.asarray(head["kernel"]), np.asarray(head["bias"])


@pytest.mark.parametrize(
    ("count", "names", "outputs"),
    [
        (4, ("ape", "bee", "café", "dog"), (0, 1, 2, 3)),
        (4, ("dog", "ape"), (3, 0)),
        (1000, IMAGENET[:2], (0, 1)),
        (1000, ("Egyptian cat",), (285,)),
    ],
)
def test_a_kept_head_has_the_outputs_of_the_classes(weights, count, names, outputs):
    """A subset of the classes selects their rows of the classifier, in the data set's order."""
    path, _, variables = weights[count]
    model = resnet_jax.create_model("resnet8_cifar", len(names))
    found = started(path, model, names)
    for new, old in zip(of_head(found), of_head(variables), strict=True):
        np.testing.assert_array_equal(new, old[..., list(outputs)])
    trunk = found["params"]["stem"]
    jax.tree.map(np.testing.assert_array_equal, trunk, variables["params"]["stem"])


def test_a_head_of_all_classes_keeps_the_rest(weights):
    """The data set's classes come first, as its labels do."""
    path, model, variables = weights[4]
    found = started(path, model, ("dog", "bee"))
    for new, old in zip(of_head(found), of_head(variables), strict=True):
        np.testing.assert_array_equal(new, old[..., [3, 1, 0, 2]])


def test_a_kept_head_of_a_run(run, folder):
    model = resnet_jax.create_model("resnet8_cifar", 2)
    found = started(run, model, ("dog", "bee"))
    for new, old in zip(of_head(found), of_head(open_run(run).network.variables), strict=True):
        np.testing.assert_array_equal(new, old[..., [3, 1]])


def test_a_kept_head_of_a_run_with_more_outputs_than_classes(resnet8, folder, tmp_path):
    options = {"dataset": str(folder), "train_split": "train", "eval_split": "val"}
    workdir = tmp_path / "wide"
    make_run(workdir, [(1, 0.5)], model="resnet8_cifar", channels=1, num_classes=6, **options)
    found = started(workdir, resnet_jax.create_model("resnet8_cifar", 2), ("dog", "bee"))
    for new, old in zip(of_head(found), of_head(open_run(workdir).network.variables), strict=True):
        assert old.shape[-1] == 6
        np.testing.assert_array_equal(new, old[..., [3, 1]])


def test_a_run_starts_from_the_outputs_of_its_classes(resnet8, weights, folder, tmp_path):
    """Through the trainer, whose one step changes nothing."""
    field = copied(folder, tmp_path / "field", {"dog": "dog", "bee": "bee"})
    (field / "val").rename(field / "train")
    path, _, variables = weights[4]
    config = dataclasses.replace(
        CONFIG,
        model="resnet8_cifar",
        dataset=str(field),
        train_split="train",
        eval_split="train[:50%]",
        channels=1,
        augmentation="none",
        preprocess="none",
        init_from=path,
        num_steps=1,
        learning_rate=1e-30,
        weight_decay=0.0,
    )
    train(config, tmp_path / "run", data_mesh(jax.devices()[:1]))
    found = open_run(tmp_path / "run").network.variables
    for new, old in zip(of_head(found), of_head(variables), strict=True):
        np.testing.assert_allclose(new, old[..., [1, 3]], rtol=1e-6, atol=1e-20)


def test_a_kept_head_that_lacks_a_class(weights):
    model = resnet_jax.create_model("resnet8_cifar", 2)
    with pytest.raises(ConfigError, match="'cow'.*set config.skip_head=True"):
        started(weights[4][0], model, ("cow", "dog"))
    started(weights[4][0], model, ("cow", "dog"), skip_head=True)
