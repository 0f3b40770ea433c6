import importlib.metadata
import os
import re

import jax
import pytest

from resnet_jax.commands import doctor


def report(capsys):
    doctor.main([])
    return capsys.readouterr().out


def test_versions_devices_and_settings(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    text = report(capsys)
    titles = ["Versions", "Devices", "Precision", "Memory and compilation", "Data", "Extras"]
    assert re.findall(r"^\w.*", text, re.MULTILINE) == titles
    for name in ("resnet-jax", "jax", "jaxlib", "flax", "orbax-checkpoint", "grain"):
        assert re.search(rf"^  {name} +{re.escape(importlib.metadata.version(name))}$", text, re.M)
    assert len(re.findall(r"^  cpu \d+ ", text, re.M)) == len(jax.devices())
    assert re.search(r"float64 +off; JAX_ENABLE_X64=1", text)
    assert re.search(r"XLA_PYTHON_CLIENT_MEM_FRACTION +\.5\n", text)
    assert re.search(r"XLA_PYTHON_CLIENT_PREALLOCATE +not set \(true", text)
    assert f"{tmp_path}: cifar10" in text


def test_what_is_missing_has_a_remedy(capsys, monkeypatch, tmp_path):
    version = importlib.metadata.version

    def without_some(name):
        if name in ("torch", "huggingface-hub", "flax"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_some)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    lines = report(capsys).splitlines()
    assert "! torch missing: python -m pip install 'resnet-jax[torch]'" in lines
    assert "! huggingface-hub missing: python -m pip install 'resnet-jax[hub]'" in lines
    assert "! flax is missing: python -m pip install resnet-jax" in lines
    assert "  keras      installed: weights in .h5 files" in lines
    prepare = f"! prepare one: python -m resnet_jax prepare cifar10 --data_dir {tmp_path / 'none'}"
    assert prepare in lines
    # Every extra of the package is accounted for.
    extras = importlib.metadata.metadata("resnet-jax").get_all("Provides-Extra")
    assert set(extras) == set(doctor._EXTRAS)
    for extra in extras:
        assert any(line.startswith(f"  {extra} ") for line in lines)


def test_an_unused_gpu_and_no_device_have_remedies(capsys, monkeypatch):
    monkeypatch.setattr(doctor.Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    assert "! JAX does not use the NVIDIA GPU" in report(capsys)

    def no_devices():
        raise RuntimeError("Unable to initialize backend 'tpu'\nmore")

    monkeypatch.setattr(jax, "devices", no_devices)
    text = report(capsys)
    assert "! JAX finds no device: Unable to initialize backend 'tpu'; check JAX_PLATFORMS" in text


def test_a_checkout_that_is_not_installed_is_said(capsys, monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.setattr(importlib.metadata, "requires", nothing)
    assert "! the package only runs from its folder: python -m pip" in report(capsys)


@pytest.mark.parametrize(("megabytes", "is_small"), [(64, True), (16_384, False)])
def test_shared_memory(capsys, monkeypatch, megabytes, is_small):
    blocks = megabytes * 256
    there = os.statvfs_result((4096, 4096, blocks, blocks, blocks - 256, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", {"/dev/shm": there}.get)
    text = report(capsys)
    assert re.search(rf"^  /dev/shm +{megabytes} MiB, {megabytes - 1} MiB free", text, re.M)
    assert ("--shm-size" in text) == is_small


def test_no_home_folder(capsys, monkeypatch, no_home):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    text = report(capsys)
    assert "no home folder" in text and "! set TFDS_DATA_DIR" in text and "~" not in text
