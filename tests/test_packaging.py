"""What a user gets: the wheel, its metadata, what an import costs, and the Makefile."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_the_whole_package(wheel):
    package = ROOT / "resnet_jax"
    files = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    bundled = {name for name in files if name.startswith("resnet_jax/data/bundled/")}
    assert any(".array_record" in name for name in bundled)
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == files


def test_the_wheel_says_what_it_is_and_needs(wheel):
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(metadata))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"cuda", "cuda13", "torch", "dev"} <= set(metadata.get_all("Provides-Extra"))
    needed = metadata.get_all("Requires-Dist")
    assert "jax[cuda]; extra == 'cuda'" in needed
    assert "jax[cuda13]; extra == 'cuda13'" in needed
    assert not [
        name for name in needed if name.lower().startswith(("tensorflow>", "tensorflow-cpu", "tf-"))
    ]
    [scripts] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "resnet-jax = resnet_jax.__main__:main" in wheel.read(scripts).decode()


def test_importing_the_library_imports_nothing_heavy():
    program = """
import sys
import resnet_jax
model = resnet_jax.create_model("resnet18")
heavy = ["torch", "tensorflow", "tensorflow_datasets", "grain", "matplotlib"]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


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
    assert called[2].endswith("install --editable .")
    assert make(clone, "install")[1] == []

    # The test extra holds what the package needs, but not the other way round.
    assert make(clone, "test")[1][0].endswith("install --editable .[test]")
    [tests] = make(clone, "test")[1]
    assert tests.startswith("-m pytest")

    os.utime(clone / "pyproject.toml", (2**31, 2**31))
    assert make(clone, "install")[1][0].endswith("install --editable .")


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
    assert names == set(phony[1].split()) >= {"demo", "test", "faults", "bench"}
