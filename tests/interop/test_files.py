"""Bad weights files: one clear line each, and nothing in them is run."""

import argparse
import io
import os
import pickle
import re
import struct
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from resnet_jax import WeightsError, from_keras, from_torch, load_model, load_weights
from resnet_jax.interop import files, read_weights
from tests.interop.nets import assert_identical, small_pair

MODEL, TWIN = small_pair(stride_on_first=True)


def in_bytes(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def good_file(path):
    """Writes the twin's weights in the format that the ending names; they may be another net's."""
    state_dict = TWIN.state_dict()
    arrays = {name: value.numpy() for name, value in state_dict.items()}
    if path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file[f"{name}/kernel"] = value
    elif path.suffix == ".keras":
        good_file(path.with_suffix(".h5"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(path.with_suffix(".h5"), "model.weights.h5")
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        torch.save(state_dict, path, _use_new_zipfile_serialization=path.stem != "old")


def refused(read, *arguments):
    """Returns the message with which a reader refuses its arguments."""
    with pytest.raises(WeightsError) as info:
        read(*arguments)
    message = str(info.value)
    assert "\n" not in message and len(message) < 300
    return message


READERS = [
    ("new.pth", from_torch),
    ("old.pth", from_torch),
    ("weights.pt", from_torch),
    ("weights.safetensors", from_torch),
    ("weights.h5", from_keras),
    ("weights.weights.h5", from_keras),
    ("weights.keras", from_keras),
    ("weights.npz", from_keras),
]


@pytest.mark.parametrize("name, read", READERS)
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.95])
def test_truncated(name, read, part, tmp_path):
    path = tmp_path / name
    good_file(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    message = refused(read, MODEL, path)
    assert message.startswith(f"{name} cannot be read: it is damaged or not a")
    assert refused(read_weights, MODEL, path) == message


NOT_WEIGHTS = {
    "text": b"This is not a weights file at all.\n" * 50,
    "one byte": b"\x00",
    "image": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "web page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "other zip": None,
}


@pytest.mark.parametrize("name, read", READERS)
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_not_a_weights_file_at_all(name, read, kind, tmp_path):
    path = tmp_path / name
    if kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        path.write_bytes(NOT_WEIGHTS[kind])
    message = refused(read, MODEL, path)
    assert message.startswith(f"{name} ")


class Malicious:
    """Pickled, it is a call that writes a file; `marker` is its path."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("name, read", READERS)
@pytest.mark.parametrize("form", ["torch.save", "old torch.save", *range(6)])
def test_a_malicious_pickle_is_refused_and_not_run(name, read, form, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / name
    content = {"state_dict": {"conv1.weight": torch.ones(1)}, "epoch": Malicious(marker)}
    if isinstance(form, int):
        content = pickle.dumps({"epoch": Malicious(marker)}, protocol=form)
        pickle.loads(content)
    else:
        content = in_bytes(content, _use_new_zipfile_serialization=form == "torch.save")
        torch.load(io.BytesIO(content), weights_only=False)
    # It does what it says where nothing holds it back.
    assert marker.exists()
    marker.unlink()

    path.write_bytes(content)
    message = refused(read, MODEL, path)
    assert not marker.exists()
    if path.suffix in (".pth", ".pt"):
        what = "holds (posix|nt).system, which is not a tensor"
        sentence = r"it is refused because loading it might run code \(none was run\)"
        assert re.fullmatch(f"{name} {what}: {sentence}; save only .*", message), message


def test_a_model_of_keras_that_would_run_code(tmp_path):
    """Its weights alone are read: the configuration may name any function and hold bytecode."""
    path = tmp_path / "weights.keras"
    good_file(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", '{"module": "os", "class_name": "system"}')
        archive.writestr("metadata.json", "not JSON")
    assert set(files.read_keras(path)) == {f"{name}/kernel" for name in TWIN.state_dict()}


def test_a_malicious_array_of_objects_is_refused_and_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "weights.npz"
    np.savez(path, **{"conv1_conv/kernel": np.array([Malicious(marker)])})
    assert "Object arrays cannot be loaded" in refused(from_keras, MODEL, path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content, what",
    [
        ({"args": argparse.Namespace(lr=0.1)}, "holds argparse.Namespace, which is not a tensor"),
        (torch.nn.Linear(1, 1), "holds torch.nn.modules.linear.Linear, which is not a tensor"),
        ({"best": np.float64(1)}, "holds numpy"),
    ],
    ids=["arguments", "module", "numpy"],
)
def test_other_objects_than_tensors_are_refused(content, what, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    message = refused(from_torch, MODEL, path)
    assert message.startswith(f"weights.pth {what}")
    assert message.endswith("save only a state_dict(), or .safetensors")


def test_a_list_of_tensors_has_no_names(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save([torch.ones(1)], path)
    assert refused(from_torch, MODEL, path) == (
        "weights.pth holds a list, not tensors by name; save a state_dict()"
    )


@pytest.mark.parametrize("read", [from_torch, load_weights, load_model])
@pytest.mark.parametrize("length", [2 << 30, 90 << 20, 2**64 - 1])
def test_a_header_that_claims_to_be_huge(read, length, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    arguments = (MODEL, path) if read is from_torch else (path,)
    message = refused(read, *arguments)
    assert message.startswith("weights.safetensors cannot be read: it is damaged")


def test_a_tensor_that_claims_to_be_huge(tmp_path):
    path = tmp_path / "weights.safetensors"
    header = b'{"conv1.weight":{"dtype":"F32","shape":[1073741824],"data_offsets":[0,4294967296]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "it is damaged" in refused(from_torch, MODEL, path)


def test_a_small_file_that_claims_to_be_large(tmp_path):
    huge = 2**40
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({huge},), }}\n".encode()
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        archive.filelist[0].file_size = huge
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("conv1_conv/kernel", (huge,), "f4", chunks=(1024,))
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"")
        archive.filelist[0].file_size = huge
    with zipfile.ZipFile(tmp_path / "y.keras", "w") as archive:
        archive.write(tmp_path / "x.h5", "model.weights.h5")
    tensor = torch.ones(1, dtype=torch.half).expand(huge)
    state_dict = TWIN.state_dict() | {"conv1.weight": tensor}
    torch.save(state_dict, tmp_path / "x.pth")
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 2**20
    for name in ("x.npz", "x.h5", "x.keras", "y.keras"):
        assert "claims to hold" in refused(read_weights, MODEL, tmp_path / name)
    message = refused(read_weights, MODEL, tmp_path / "x.pth")
    assert f"conv1.weight [{huge}], not [" in message


@pytest.mark.parametrize("read", [from_torch, from_keras, read_weights, load_weights, load_model])
def test_no_such_file(read, tmp_path):
    first = () if read in (load_weights, load_model) else (MODEL,)
    missing = tmp_path / "none.safetensors"
    message = f"{missing} does not exist; give the path of a weights file"
    assert refused(read, *first, missing) == message
    message = "is a folder, not a weights file"
    if read in (read_weights, load_model):
        message = "has neither model.safetensors nor pytorch_model.bin"
    assert message in refused(read, *first, tmp_path)


@pytest.mark.parametrize("read", [from_torch, from_keras, read_weights, load_weights])
def test_other_endings(read, tmp_path):
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"1")
    assert "does not end" in refused(read, *(() if read is load_weights else (MODEL,)), path)


@pytest.mark.parametrize(
    "name, library, extra",
    [("weights.pth", "torch", "torch"), ("weights.h5", "h5py", "keras")],
)
def test_what_reads_it_is_not_installed(name, library, extra, tmp_path, monkeypatch):
    path = tmp_path / name
    good_file(path)
    monkeypatch.setitem(sys.modules, library, None)
    message = refused(read_weights, MODEL, path)
    assert f"python -m pip install 'resnet-jax[{extra}]'" in message


def test_safetensors_and_npz_need_neither(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    good_file(path)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert set(from_torch(MODEL, path)) == {"params", "batch_stats"}
    good_file(tmp_path / "weights.npz")
    assert "conv1.weight" in files.read_keras(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
)
def test_8_bit_floats_become_float32(name, tmp_path):
    dtype = getattr(torch, name)
    small = {
        key: value.to(dtype) if value.ndim == 4 else value
        for key, value in TWIN.state_dict().items()
    }
    save_torch_file(small, tmp_path / "weights.safetensors")
    expected = {key: value.float() for key, value in small.items()}
    assert_identical(
        from_torch(MODEL, tmp_path / "weights.safetensors"), from_torch(MODEL, expected)
    )
    # With scales of their own, the numbers alone are not the weights.
    scaled = small | {"conv1.weight_scale": torch.ones(())}
    save_torch_file(scaled, tmp_path / "weights.safetensors")
    message = refused(from_torch, MODEL, tmp_path / "weights.safetensors")
    assert message.endswith("1 unexpected (conv1.weight_scale)")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "weights"
    files.write_file(path, b"before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("os.replace", fail)
        files.write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    assert "there is no folder" in refused(files.write_file, tmp_path / "none" / "weights", b"")
    assert "cannot write" in refused(files.write_file, tmp_path, b"")
