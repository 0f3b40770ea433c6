"""A run of version 0.1 (commit e873b93) is restored and continues as that version did.

The file holds its work directory after 6 of 12 steps, and its state and records after all 12.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet_jax.models import MODELS, BasicBlock, ResNet
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import TrainConfig, open_run, read_metrics, train
from tests.training.test_loop import saved

CONFIG = TrainConfig(
    model="tiny",
    dataset="fashion_mnist_mini",
    train_split="train[:200]",
    eval_split="test[:64]",
    augmentation="cifar",
    preprocess="cifar",
    batch_size=8,
    num_steps=12,
    schedule_steps=12,
    warmup_steps=2,
    learning_rate=0.01,
    ema_decay=0.9,
    label_smoothing=0.1,
    log_every=3,
    eval_every=6,
    checkpoint_every=6,
    keep_checkpoints=5,
)


@pytest.fixture
def old(tmp_path, monkeypatch):
    makers = dict(MODELS._makers)
    monkeypatch.setattr(MODELS, "_makers", makers)
    makers["tiny"] = partial(
        ResNet,
        stage_sizes=(1, 1),
        block=BasicBlock,
        stage_widths=(4, 8),
        stem="cifar",
        shortcut="A",
    )
    shutil.unpack_archive(Path(__file__).parent / "data" / "run_of_0.1.zip", tmp_path)
    return tmp_path


def leaves(state):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def test_it_continues_as_it_did(old):
    workdir = old / "run"
    before = leaves(saved(workdir, 6)[0])
    position = saved(workdir, 6)[1]
    train(CONFIG, workdir, data_mesh(jax.devices()[:1]))

    # The checkpoint is kept as it was, and the run's next one has the same tree.
    after = leaves(saved(workdir, 6)[0])
    assert before.keys() == after.keys()
    state, next_position = saved(workdir, 12)
    with np.load(old / "step12.npz") as expected:
        assert leaves(state).keys() == set(expected)
        for name, leaf in leaves(state).items():
            exact = np.issubdtype(leaf.dtype, np.integer) or name.startswith("normalization")
            # Another processor, or XLA, rounds otherwise.
            tolerance = 0 if exact else 1e-4
            np.testing.assert_allclose(leaf, expected[name], tolerance, tolerance, err_msg=name)
    assert next_position["data"]["next_index"] == 2 * position["data"]["next_index"]

    lines = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    for record, expected in zip(read_metrics(workdir), lines, strict=True):
        for name in ("step", "split", "top1_error", "top5_error", "num_examples"):
            assert record.get(name) == expected.get(name)
        assert record["loss"] == pytest.approx(expected["loss"], rel=1e-4)


def test_it_is_opened_for_evaluation(old):
    run = open_run(old / "run")
    state = leaves(saved(old / "run", 6)[0]["average"])
    for name, leaf in leaves(run.network.variables).items():
        np.testing.assert_array_equal(leaf, state[name])
    assert (run.step, run.channels, run.network.num_classes) == (6, 1, 10)
