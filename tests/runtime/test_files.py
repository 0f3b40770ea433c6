"""Paths as users write them: with `~`, in a bucket, without a home folder."""

from pathlib import Path

import jax
import pytest

from resnet_jax.data import open_source
from resnet_jax.errors import DataError, UsageError, WeightsError
from resnet_jax.interop import from_hub, save_weights
from resnet_jax.runtime.devices import enable_compilation_cache
from resnet_jax.runtime.files import expanded, has_home, local_path
from resnet_jax.training.curves import plot_curves, run_names
from resnet_jax.training.recipes import find_recipe
from resnet_jax.training.records import read_metrics


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "run").mkdir(parents=True)
    return tmp_path / "home"


def test_the_home_folder(home):
    assert has_home()
    assert local_path("~/x") == local_path(Path("~/x")) == home / "x"
    assert expanded("~") == str(home) and expanded("a/~") == "a/~"
    assert local_path("./~") == Path("~") and local_path("C:/x") == Path("C:/x")


REMOTE = ["gs://bucket/x", "s3://bucket/x", "hdfs://host/x", "file:///x", Path("gs://bucket/x")]


@pytest.mark.parametrize("path", REMOTE)
def test_a_remote_path_is_not_local(path):
    with pytest.raises(UsageError, match=r"gs:|s3:|hdfs:|file:.*give a local or mounted path"):
        local_path(path)
    assert expanded(path) == str(path)


def test_without_a_home_folder(no_home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not has_home()
    for path in ("~", "~/x", "~nobody-of-this-name/x"):
        with pytest.raises(UsageError, match=r"no home folder for ~.*set HOME"):
            local_path(path)
    assert local_path("x") == Path("x")


def write_metrics(workdir):
    line = '{"step": 1, "split": "test", "loss": 1.0, "top1_error": 0.5}\n'
    (workdir / "metrics.jsonl").write_text(line)


USES = {
    "metrics": lambda: len(read_metrics("~/run")) == 1,
    "names of runs": lambda: run_names(["~"]) == ["home"],
    "picture": lambda: plot_curves("~/run", "~/curves.png") and Path("home/curves.png").exists(),
    "recipe": lambda: find_recipe("~/mine.py:x") == f"{Path('home').resolve()}/mine.py:x",
    "weights": lambda: save_weights("~/w.safetensors", {}) or Path("home/w.safetensors").exists(),
}


@pytest.mark.parametrize("use", USES)
def test_uses_of_paths_know_the_home_folder(home, use):
    write_metrics(home / "run")
    assert USES[use]() and not Path("~").exists()


@pytest.fixture
def cache():
    """The folder of the compilation cache, by JAX's configuration."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update(names[0], None)
    yield lambda: jax.config.values[names[0]]
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_compilation_cache_in_the_home_folder(home, cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    enable_compilation_cache("auto")
    assert Path(cache()).parent == home / ".cache" / "resnet_jax" / "compiled"
    enable_compilation_cache("~/cache")
    assert cache() == str(home / "cache")


def test_no_compilation_cache_without_a_home_folder(no_home, cache, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    enable_compilation_cache("auto")
    assert cache() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    enable_compilation_cache("auto")
    assert Path(cache()).is_relative_to(tmp_path)


def test_data_sets_without_a_home_folder(no_home, monkeypatch):
    """Only TFDS's default folder is missing."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"'cifar10' has no default folder.*TFDS_DATA_DIR"):
        open_source("cifar10", "train")
    assert len(open_source("fashion_mnist_mini", "test[:3]")) == 3


def test_the_hub_without_a_home_folder(no_home, monkeypatch, tmp_path):
    """Its library would make a folder named `~`."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(WeightsError, match="no home folder; set HF_HOME"):
        from_hub("owner/name")
    assert not list(tmp_path.iterdir())
