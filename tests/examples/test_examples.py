"""Each script of examples/, at a size that takes a moment, and what it computes."""

import ast
import math
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax
from resnet_jax import data, evaluation, training
from resnet_jax.evaluation import Network
from resnet_jax.runtime.devices import data_mesh
from tests.examples import page
from tests.faults import processes

EXAMPLES = sorted((page.ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_docstring_is_the_command_and_its_result(path):
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert re.search(rf"(python|--import) examples/{path.name}", docstring)
    assert "Expect " in docstring or path.stem == "onnx_export"
    assert 'if __name__ == "__main__":' in text
    assert len(text.splitlines()) <= 75


def test_the_page_names_every_example():
    named = set(re.findall(r"examples/(\w+\.\w+)", page.TEXT))
    assert named == {path.name for path in EXAMPLES} | {"notebook.ipynb"}


@pytest.fixture
def deep_stem(example):
    """The network of `own_model.py` with one block per stage, and random variables, for grey."""
    model = example("own_model").resnet20d_cifar(10).clone(stage_sizes=(1, 1, 1))
    rng = np.random.default_rng(0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros([1, 12, 12, 1]))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf
            if path[-1].key == "kernel"
            else rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        ),
        variables,
    )
    return model, variables


def test_own_model_recomputes_statistics(deep_stem):
    """They are what the definition says: the statistics of one batch of all images."""
    model, variables = deep_stem
    images = np.random.default_rng(1).integers(0, 256, (24, 12, 12, 1), dtype=np.uint8)
    network = Network(model, variables, data.make_normalization("none", 1))
    recomputed = evaluation.recompute_batch_statistics(
        network, images, data_mesh(jax.devices()[:2]), batch_size=10
    )
    _, moved = jax.jit(lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]))(
        images / np.float32(255)
    )
    # The running statistics move by a tenth of the way to the batch's.
    batch = jax.tree.map(
        lambda new, old: (new - 0.9 * old) / 0.1, moved["batch_stats"], variables["batch_stats"]
    )
    assert set(batch["stem"]) == {"bn1", "bn2", "bn3"}
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4),
        recomputed.variables["batch_stats"],
        batch,
    )


def test_own_model_folds(deep_stem):
    model, variables = deep_stem
    images = np.random.default_rng(1).normal(size=(4, 12, 12, 1)).astype(np.float32)
    folded, folded_variables = resnet_jax.fold_batch_norm(model, variables)
    assert set(folded_variables) == {"params"}
    ours, theirs = folded.apply(folded_variables, images), model.apply(variables, images)
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_own_model_goes_to_pytorch_or_says_that_it_cannot(deep_stem):
    """A name such as `conv11`, which no implementation has, would be neither."""
    with pytest.raises(resnet_jax.WeightsError) as error:
        resnet_jax.to_torch(*deep_stem)
    assert "stem" in str(error.value) and "PyTorch" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_own_loss_mixes_images_and_targets_alike(example):
    """Where an image is the one-hot label, the mixed images are the mixed targets."""
    own_loss = example("own_loss")
    labels = jnp.asarray([3, 1, 4, 1, 5, 9, 2, 6])
    images = jax.nn.one_hot(labels, 10)[:, None, None, :]
    seen = set()
    for seed in range(5):
        mixed, targets = jax.jit(own_loss.mixup)(jax.random.key(seed), images, labels)
        np.testing.assert_array_equal(mixed[:, 0, 0, :], targets)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        seen |= set(np.round(np.asarray(targets).max(axis=1), 3).tolist())
    assert len(seen) > 3


def test_own_loss_is_the_focal_loss(example):
    focal = example("own_loss").focal
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 10)).astype(np.float32), rng.integers(10, size=6)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    terms = -((1 - scores) ** 2) * np.log(scores)
    np.testing.assert_allclose(focal(logits, labels), terms[range(6), labels], rtol=1e-5)
    soft = rng.dirichlet(np.ones(10), size=6).astype(np.float32)
    np.testing.assert_allclose(focal(logits, soft), (soft * terms).sum(axis=1), rtol=1e-5)


def test_own_loss_by_name(example):
    """The task of a recipe that names them has soft targets, and their focal loss."""
    own_loss = example("own_loss")
    config = page.demo(loss="focal", batch_augmentation="mixup", train_split="train[:8]")
    experiment = training.open_experiment(config)
    assert experiment.loss is own_loss.focal
    source = experiment.train_source
    batch = {"image": jnp.asarray(source.images), "label": jnp.asarray(source.labels)}
    identity = data.make_normalization("none", 1)
    task = experiment.make_task()
    images, targets = task.inputs(identity, batch, jax.random.key(1), jnp.int32(0), 1)
    assert images.shape == (8, 28, 28, 1) and targets.shape == (8, 10)
    assert 0.01 < float(targets.max(axis=1).min()) < 0.99


def test_own_loss_program(run):
    out = run("examples/own_loss.py")
    assert np.fromstring(out.splitlines()[-1].strip("[]"), sep=" ") == pytest.approx(
        [0.81 * math.log(10)] * 4, rel=1e-6
    )


def test_own_optimizer_by_name(example):
    """Lion's first step by hand: the sign of the gradient, and the decay."""
    example("own_optimizer")
    config = page.demo(optimizer="clipped_lion", weight_decay=0.5, train_split="train[:8]")
    optimizer = training.open_experiment(config).optimizer(0.25)
    params = {"kernel": jnp.asarray([2.0, -4.0])}
    grads = {"kernel": jnp.asarray([-30.0, 40.0])}
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-0.25 * (-1 + 1), -0.25 * (1 - 2)])
    [momentum] = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
    # A hundredth of the gradient, whose norm of 50 was cut to 1.
    np.testing.assert_allclose(momentum, [-0.006, 0.008], rtol=1e-5)


def test_own_data_table_holds_the_arrays(example):
    own_data = example("own_data")
    own_data.SIZES = {"train": 12, "test": 8}
    own_data.main("images")
    for split in own_data.SIZES:
        arrays = data.open_source("patterns", split)
        files = data.open_source("table", split, "images")
        assert sorted(files.class_names) == sorted(arrays.class_names)
        for one, other in zip(arrays, files, strict=True):
            pixels = data.AsIs(channels=1)(other["image"])
            np.testing.assert_array_equal(pixels, one["image"])
            assert files.class_names[other["label"]] == arrays.class_names[one["label"]]
    with pytest.raises(data.DataError, match="no split 'val' in 'patterns'"):
        data.open_source("patterns", "val")


def test_observers_program(example, one_device, monkeypatch):
    """Early stopping over a run in two parts, both of which Weights & Biases is told of."""
    logged, calls = [], []
    wandb = types.ModuleType("wandb")
    web_page = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, sorted(values)[0])),
        finish=lambda: calls.append("finish"),
    )
    wandb.init = lambda **options: calls.append(options["id"]) or web_page
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    observers = example("observers")
    small = page.SMALL | {"eval_every": 1, "log_every": 1, "checkpoint_every": 1}
    observers.main("runs/observed", patience=3, **small, num_steps=3, schedule_steps=40)
    observers.main("runs/observed", patience=3, **small, num_steps=40, schedule_steps=40)
    records = processes.records(page.Path("runs/observed"))
    errors = [r["top1_error"] for r in records if r["split"] != "train"]
    best = min(range(len(errors)), key=errors.__getitem__)
    assert len(errors) == best + 4 < 40
    assert calls == ["observed", "finish"] * 2
    expected = [(r["step"], "train" if r["split"] == "train" else "eval") for r in records]
    assert [(step, name.partition("/")[0]) for step, name in logged] == expected

    stopping = observers.EarlyStopping(patience=3)
    path = page.Path("runs/observed").absolute()
    start = training.RunStart(path, {}, len(errors), 40, small["eval_split"], True)
    stopping.on_start(start)
    assert (stopping.best, stopping.stale) == (min(errors), 3)


def test_features_program(example):
    assert example("features").main(num_images=500) < 0.35  # Of ten classes: 90 % by chance.


def test_plain_loop_program(example):
    assert example("plain_loop").main(40, 16, "resnet8_cifar") < 0.75


def test_nnx_bridge_program(example):
    losses = example("nnx_bridge").main(num_steps=4, batch_size=8)
    assert losses[-1] < 0.8 * losses[0]


def test_checkpoint_inference_program(example, capsys):
    """A run of two devices, on eight and on one."""
    checkpoint_inference = example("checkpoint_inference")
    config = page.demo(**page.SMALL, num_steps=2)
    training.train(config, "runs/two", data_mesh(jax.devices()[:2]))
    capsys.readouterr()
    scores = checkpoint_inference.main("runs/two")
    error = processes.records(page.Path("runs/two"))[-1]["top1_error"]
    assert capsys.readouterr().out == f"step 2: test error {error:.2%} by 8 device(s)\n"
    test = data.open_source("fashion_mnist_mini", page.SMALL["eval_split"])
    alone = training.open_run("runs/two").network.logits(jnp.asarray(test.images))
    np.testing.assert_allclose(scores, alone, rtol=1e-4, atol=1e-4)
    assert example("features").main("runs/two", num_images=500) < 0.6
