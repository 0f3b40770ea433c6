"""A run goes on where its folders have moved, and is found from any current folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import pytest

from resnet_jax import save_weights
from resnet_jax.commands import _recipes, evaluate, schedule
from resnet_jax.errors import ConfigError
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training import load_recipe, open_experiment, open_run, resolve, train
from resnet_jax.training.restore import read_config
from resnet_jax.training.workdir import keep_dataset, open_workdir
from tests.data.sources.test_fingerprints import make_folder
from tests.training.test_bad_images import CONFIG as SMALL

pytestmark = pytest.mark.usefixtures("resnet8")

CONFIG = dataclasses.replace(SMALL, num_steps=1, eval_every=1)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with photographs and a work directory that has a checkpoint."""
    make_folder(tmp_path / "project" / "pets")
    monkeypatch.chdir(tmp_path / "project")
    go("./pets")
    return tmp_path / "project"


def go(dataset, **changes):
    config = dataclasses.replace(CONFIG, dataset=dataset, **changes)
    return train(config, "run", data_mesh(jax.devices()[:1]))


def start(dataset):
    """Everything that may refuse a run."""
    experiment = open_experiment(dataclasses.replace(CONFIG, dataset=dataset))
    with open_workdir(Path("run").absolute(), experiment.config):
        return keep_dataset(Path("run"), experiment.sources)


@pytest.mark.parametrize("spelling", ["pets", "pets/", "../project/pets", "{}/pets"])
def test_another_spelling_of_the_folder(project, spelling):
    assert start(spelling.format(project)) == []
    saved = json.loads(Path("run/config.json").read_text())
    assert saved["dataset"] == spelling.format(project)
    assert saved["paths"] == {"dataset": str(project / "pets")}


def test_a_folder_that_has_moved_and_one_that_is_another(project, tmp_path):
    shutil.move("pets", tmp_path / "animals")
    assert start(str(tmp_path / "animals")) == []
    (tmp_path / "animals" / "train" / "cat" / "0.jpg").unlink()
    with pytest.raises(ConfigError, match="images, labels, files differ; restore it, set --conf"):
        start(str(tmp_path / "animals"))
    with pytest.raises(ConfigError, match=r"dataset \('.*imals', now 'fashion_mnist_mini'\)"):
        with open_workdir(project / "run", dataclasses.replace(CONFIG)):
            pass


def test_commands_find_the_data_from_any_folder(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    evaluate.main(["--workdir", "project/run", "--batch_size", "8"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["num_examples"] == 6
    assert open_run("project/run").config.dataset == str(project / "pets")


def test_a_project_that_has_moved_as_a_whole(project, tmp_path, monkeypatch):
    shutil.move(project, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert start("./pets") == []
    monkeypatch.chdir(tmp_path)
    shutil.copytree("new/pets", "project/pets")
    Path("pets").symlink_to("new/pets")
    # As typed where only that exists; an edited value is not overridden.
    saved = json.loads(Path("new/run/config.json").read_text())
    Path("new/run/config.json").write_text(json.dumps(saved | {"dataset": "./cats"}))
    assert read_config(Path("new/run"))[0].dataset == "./cats"
    paths = {"dataset": str(tmp_path / "nowhere" / "pets")}
    Path("new/run/config.json").write_text(json.dumps(saved | {"paths": paths}))
    assert read_config(Path("new/run"))[0].dataset == "./pets"


def test_weights_to_start_from_are_not_needed_after_the_first_step(project):
    run = open_run("run")
    save_weights("first.safetensors", run.network.variables, run.network.model)
    config = dataclasses.replace(CONFIG, dataset="pets", init_from="first.safetensors")

    def resume(**changes):
        changed = dataclasses.replace(config, **changes)
        return train(changed, "tuned", data_mesh(jax.devices()[:1]))

    resume()
    Path("first.safetensors").rename("moved.safetensors")
    assert resume(num_steps=2, init_from="moved.safetensors")["train"]["step"] == 2
    Path("moved.safetensors").unlink()
    assert resume(num_steps=3, init_from="moved.safetensors")["train"]["step"] == 3
    with pytest.raises(ConfigError, match=r"init_from \('moved.safetensors', now None\)"):
        resume(init_from=None)


def parsed(*argv):
    return _recipes.parse(_recipes.new_flags(), list(argv))[0]


def test_a_run_is_run_again_by_its_configuration(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    again = parsed("--config", "project/run/config.json", "--config.seed=3")
    expected = dataclasses.replace(CONFIG, dataset=str(project / "pets"), seed=3)
    assert again == expected
    assert resolve(load_recipe("project/run/config.json")) == dataclasses.replace(expected, seed=0)
    schedule.main(["--config", "project/run/config.json"])
    assert capsys.readouterr().out.startswith("step 1/1  0.02")
    longer = parsed("--config=project/run/config.json", "--config.num_steps=9")
    assert (longer.num_steps, longer.schedule_steps) == (9, CONFIG.schedule_steps)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parts": {"model": "Net"}}, "with model Net handed in; run it again from Python"),
        ({"bach_size": 8}, r"unknown key bach_size \(did you mean 'batch_size'\?\)"),
        ({"batch_size": "8"}, "config.json: config.batch_size='8'"),
    ],
)
def test_a_configuration_that_cannot_be_run_again(project, changes, words):
    saved = json.loads(Path("run/config.json").read_text())
    Path("other.json").write_text(json.dumps(saved | changes))
    with pytest.raises(ConfigError, match=words.replace("config.json", "other.json")):
        parsed("--config", "other.json")
