"""What a user gets: the wheel, its metadata, what runs without an extra, and the Makefile."""

import email
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import resnet_jax
from resnet_jax import errors

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {"flatbuffers", "flax", "jax", "jaxtyping", "numpy", "optax", "safetensors"}
# Optax imports absl and Flax imports etils, so that every installation has them.
ABSENT = sorted({*errors._EXTRAS, "tensorflow"} - {"absl", "etils"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_of(folder):
    found = (path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in found if path.is_file()}


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_the_wheel_holds_the_whole_package_and_the_recipes(wheel):
    package, recipes = files_of("resnet_jax"), files_of("configs")
    bundled = {name for name in package if name.startswith("resnet_jax/data/bundled/")}
    assert any(".array_record" in name for name in bundled)
    assert {"configs/fashion_mnist_demo.py", "configs/recipes/cifar10_paper.py"} <= recipes
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == package | {f"resnet_jax/{name}" for name in recipes}


def test_the_wheel_says_what_it_is_and_needs(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(metadata))
    assert metadata["Version"] == resnet_jax.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    needed = metadata.get_all("Requires-Dist")
    assert {name_of(line) for line in needed if "extra ==" not in line} == CORE
    for extra in ("train", "test", "dev"):
        packages = {name_of(line) for line in needed if f"extra == '{extra}'" in line}
        assert {"grain", "pydantic", "tensorflow-datasets"} <= packages
    assert "jax[cuda]; extra == 'cuda'" in needed
    assert "jax[cuda13]; extra == 'cuda13'" in needed
    assert not {"tensorflow", "tensorflow-cpu"} & set(map(name_of, needed))
    [scripts] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "resnet-jax = resnet_jax.__main__:main" in wheel.read(scripts).decode()


def test_the_version_is_that_of_the_citation_and_the_changelog():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {resnet_jax.__version__}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## ([\d.]+)", changes, re.MULTILINE)[1] == resnet_jax.__version__


def run_python(program, folder, path=ROOT):
    environment = os.environ | {"PYTHONPATH": str(path), "XLA_FLAGS": ""}  # One device.
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


WITHOUT_EXTRAS = f"""
import sys
sys.modules.update(dict.fromkeys({ABSENT}))  # None: an import fails, as if it were not installed.
"""


def test_models_and_weights_need_no_extra(tmp_path):
    program = f"""{WITHOUT_EXTRAS}
import numpy as np
import resnet_jax
from resnet_jax import errors
from safetensors.numpy import save_file

model, variables = resnet_jax.load_pretrained("resnet20_cifar10")
model = resnet_jax.create_model("resnet20_cifar", num_classes=10)
state_dict = resnet_jax.to_torch(model, variables)
save_file({{name: np.ascontiguousarray(a) for name, a in state_dict.items()}}, "t.safetensors")
variables = resnet_jax.from_torch(model, "t.safetensors")
resnet_jax.save_weights("own.safetensors", variables, model)
resnet_jax.load_weights("own.safetensors", model)
resnet_jax.export(*resnet_jax.fold_batch_norm(model, variables), "folded.jax", image_size=8)
"""
    done = run_python(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("t.safetensors", "own.safetensors", "folded.jax")
    }


def test_a_command_without_its_extra_says_which(tmp_path):
    program = f"""{WITHOUT_EXTRAS}
from resnet_jax.__main__ import main

for command in [
    ["summary", "resnet20_cifar"],
    ["train", "--config", "fashion_mnist_demo", "--workdir", "w"],
    ["evaluate", "--workdir", "w"],
    ["predict", "--model", "resnet20_cifar", "--weights", "w.safetensors", "cat.jpg"],
    ["prepare", "cifar10", "--data_dir", "w"],
    ["plot", "w", "--output", "w.png"],
]:
    try:
        main(command)
    except SystemExit as end:
        print(command[0], end.code or 0, file=sys.stderr)
"""
    done = run_python(program, tmp_path)
    lines = iter(done.stderr.splitlines())
    assert next(lines) == "summary 0"
    for command in ("train", "evaluate", "predict", "prepare", "plot"):
        assert re.fullmatch(
            r"resnet_jax: error: this needs the package [\w-]+: "
            r"python -m pip install 'resnet-jax\[train\]'",
            next(lines),
        )
        assert next(lines) == f"{command} 2"


def test_every_package_of_an_extra_is_known_to_the_commands():
    for extra in set(errors._EXTRAS.values()):
        modules = [module for module, its in errors._EXTRAS.items() if its == extra]
        packages = {name_of(errors._PACKAGES.get(module, module)) for module in modules}
        assert packages == set(map(name_of, PROJECT["optional-dependencies"][extra]))
    assert (
        errors.missing_package(ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    )


def test_the_wheel_trains_in_an_empty_folder(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (tmp_path / "empty").mkdir()
    program = """
import resnet_jax
from resnet_jax import errors
from resnet_jax.__main__ import main

print(resnet_jax.__file__)
main({arguments})
"""
    train = ["train", "--config", "fashion_mnist_demo", "--workdir", "w"]
    train += ["--config.num_steps=4", "--config.batch_size=16"]
    done = run_python(program.format(arguments=train), tmp_path / "empty", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert (tmp_path / "empty" / "w" / "curves.png").is_file()
    # Its configuration imports another file of the folder.
    schedule = ["schedule", "--config", "cifar10_resnet20"]
    done = run_python(program.format(arguments=schedule), tmp_path / "empty", tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    assert "64000" in done.stdout


FAKE_PYTHON = """#!/bin/sh
echo "$@" >> calls
case "$*" in
    -c*) exit {old} ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


def make(folder, *arguments):
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", "PYTHON=./python", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    calls = folder / "calls"
    called = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return done, called


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "python").write_text(FAKE_PYTHON.format(old=0))
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def test_make_installs_once_and_again_when_the_requirements_change(clone):
    done, called = make(clone, "install")
    assert done.returncode == 0
    assert called[1] == "-m venv .venv"
    assert called[2].endswith("install --editable .[train]")
    assert make(clone, "install")[1] == []

    # The test extra holds what the package needs, but not the other way round.
    assert make(clone, "test")[1][0].endswith("install --editable .[test]")
    [tests] = make(clone, "test")[1]
    assert tests.startswith("-m pytest")

    os.utime(clone / "pyproject.toml", (2**31, 2**31))
    assert make(clone, "install")[1][0].endswith("install --editable .[train]")


def test_make_refuses_an_old_python_in_one_line(clone):
    (clone / "python").write_text(FAKE_PYTHON.format(old=1))
    done, _ = make(clone, "test")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == (
        "resnet_jax needs Python 3.11 or newer: make test PYTHON=python3.11"
    )
    assert not (clone / ".venv").exists()


def test_make_help_names_every_target():
    done, _ = make(ROOT, "help")
    names = {line.split()[0] for line in done.stdout.splitlines()}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert names == set(phony[1].split()) >= {"demo", "test", "faults", "bench", "docs"}


def test_what_contributing_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    targets = " ".join(re.findall(r"^make ([a-z ]+?) *(?:#|$)", text, re.MULTILINE)).split()
    assert {"install", "test", "docs"} <= set(targets) <= set(phony)
    paths = re.findall(r"\b(?:resnet_jax|tests|configs|docs|benchmarks)/[\w/]+\.\w+", text)
    assert len(paths) >= 6 and all((ROOT / path).is_file() for path in paths)
