"""Commands and examples as they run in a process of their own, without the seconds to start one."""

import importlib
import runpy
import sys
import warnings
from pathlib import Path

import jax
import pytest

from resnet_jax.commands import train
from resnet_jax.data import AUGMENTATIONS, DATASETS, PREPROCESSES
from resnet_jax.models import MODELS
from resnet_jax.registry import import_parts
from resnet_jax.runtime import devices
from resnet_jax.training import loop
from resnet_jax.training.optimizer import OPTIMIZERS, SCHEDULES
from resnet_jax.training.task import BATCH_AUGMENTATIONS, LOSSES
from tests.examples.page import ROOT

REGISTRIES = (
    AUGMENTATIONS,
    BATCH_AUGMENTATIONS,
    DATASETS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    PREPROCESSES,
    SCHEDULES,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which the repository's paths hold, and which is the current one."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forget(resnet8):
    """A function that forgets what `--import` has registered, as a new process knows none of it."""
    before = [dict(registry._makers) for registry in REGISTRIES]
    path, modules = list(sys.path), set(sys.modules)

    def forget():
        for registry, makers in zip(REGISTRIES, before, strict=True):
            registry._makers = dict(makers)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent.name == "examples":
                del sys.modules[name]

    yield forget
    forget()


@pytest.fixture
def example(forget, folder):
    """A function that imports an example as `--import` does, and returns the module."""

    def load(name):
        forget()
        import_parts(f"examples/{name}.py")
        return sys.modules[name]

    return load


@pytest.fixture
def one_device(monkeypatch):
    """One device for every run, which compiles faster than the tests' eight."""
    make = devices.data_mesh

    def mesh(of=None):
        return make(jax.devices()[:1] if of is None else of)

    for module in (devices, loop):
        monkeypatch.setattr(module, "data_mesh", mesh)


@pytest.fixture
def run(forget, folder, monkeypatch, capsys):
    """A function that runs `python ARGUMENTS` and returns what it prints on standard output."""
    monkeypatch.setattr(train, "keep_freed_memory", lambda: None)  # It is the tests' memory.

    def run(file, *arguments):
        forget()
        capsys.readouterr()
        with warnings.catch_warnings():
            # ml_collections loads a configuration file in a way that Python will drop.
            warnings.filterwarnings("ignore", r"the load_module\(\)", DeprecationWarning)
            if file == "train.py":
                train.main([*arguments])
            elif file == "-m":
                package, command, *arguments = arguments
                assert package == "resnet_jax"
                importlib.import_module(f"resnet_jax.commands.{command}").main(arguments)
            else:
                monkeypatch.setattr(sys, "argv", [file, *arguments])
                runpy.run_path(file, run_name="__main__")
        return capsys.readouterr().out

    return run
