"""A run refuses a data set that is no longer what it was trained on."""

import dataclasses
import json

import pytest

from resnet_jax.errors import ConfigError
from resnet_jax.training.experiment import open_experiment
from resnet_jax.training.loop import train
from resnet_jax.training.workdir import keep_dataset, read_dataset
from tests.data.sources.test_fingerprints import make_folder
from tests.training.runs import CONFIG


def sources(config):
    experiment = open_experiment(config)
    return {"train": experiment.train_source, "eval": experiment.eval_source}


@pytest.fixture
def run(tmp_path):
    """The configuration of a run on a folder of images, and its work directory."""
    config = dataclasses.replace(
        CONFIG,
        dataset=make_folder(tmp_path / "photos"),
        train_split="train",
        eval_split="val",
        augmentation="imagenet",
        image_size=8,
        preprocess="none",
    )
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "10").mkdir(parents=True)
    return config, workdir


def test_what_changed_is_named_before_the_first_step(run, tmp_path):
    config, workdir = run
    keep_dataset(workdir, sources(config))
    keep_dataset(workdir, sources(config))
    assert read_dataset(workdir)["eval"]["classes"] == ["cat", "dog"]
    kept = (workdir / "dataset.json").read_bytes()
    (tmp_path / "photos" / "val" / "cat" / "0.jpg").unlink()
    with pytest.raises(ConfigError, match="split 'val' of .*: images, labels, files differ; rest"):
        keep_dataset(workdir, sources(config))
    assert (workdir / "dataset.json").read_bytes() == kept


def test_it_may_change_until_there_is_a_checkpoint(run, tmp_path):
    config, workdir = run
    keep_dataset(workdir, sources(config))
    (tmp_path / "photos" / "val" / "cat" / "0.jpg").unlink()
    (workdir / "checkpoints" / "10").rmdir()
    keep_dataset(workdir, sources(config))
    assert read_dataset(workdir)["eval"]["images"] == 5


def test_a_run_of_an_older_version_has_none(run):
    config, workdir = run
    assert read_dataset(workdir) == {}
    keep_dataset(workdir, sources(config))
    assert set(read_dataset(workdir)) == {"train", "eval"}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"train": 1, "eval": 2}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ConfigError, match="dataset.json is damaged; delete it"):
        read_dataset(tmp_path)


def test_training_looks_at_it(tmp_path):
    config = dataclasses.replace(CONFIG, num_steps=1)
    train(config, tmp_path)
    known = json.loads((tmp_path / "dataset.json").read_text())
    known["train"]["files"] = "other"
    (tmp_path / "dataset.json").write_text(json.dumps(known))
    with pytest.raises(ConfigError, match=r"split 'train\[:100\]' of 'fashion_mnist_mini' is not"):
        train(dataclasses.replace(config, num_steps=2), tmp_path)
