"""Reads weights files from disk: arrays by name, or one clear error."""

import contextlib
import io
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import WeightsError
from resnet_jax.runtime.files import local_path, write_atomically

MAX_BYTES = 2**32
"""Maximum number of bytes of arrays; the largest networks here have 0.4 GB."""

TORCH_ENDINGS = (".pth", ".th", ".pt", ".bin", ".ckpt", ".tar")

# The names of NumPy's types for those of safetensors.
_FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
_OTHER_TYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}


SHIPPED = Path(__file__).with_name("pretrained")
"""The folder of the weights that come with the package, `NAME.safetensors`."""


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path of an existing, readable file, or that of the shipped weights of a name.

    Raises:
      WeightsError: the file does not exist or is not readable.
    """
    path = local_path(path)
    shipped = SHIPPED / f"{path}.safetensors"
    if path.name == str(path) and not path.exists() and shipped.is_file():
        return shipped
    if not path.is_file():
        kind = "is a folder, not a weights file" if path.is_dir() else "does not exist"
        raise WeightsError(f"{path} {kind}; give the path of a weights file")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path} is not readable; change its permissions")
    return path


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file atomically.

    Raises:
      WeightsError: the folder does not exist, or cannot be written to.
    """
    path = local_path(path)
    if not path.parent.is_dir():
        raise WeightsError(f"there is no folder {path.parent}; create it first")
    try:
        write_atomically(path, content)
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"cannot write {path}: {error.strerror}; choose another path") from error


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a .safetensors file and its metadata; 8-bit floats become float32.

    Raises:
      WeightsError: the file is damaged or not a safetensors file.
    """
    with _open_safetensors(path) as file:
        types = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        if any(dtype in _FLOAT8 for dtype in types.values()):
            return _read_float8(path), file.metadata() or {}
        return {name: file.get_tensor(name) for name in types}, file.metadata() or {}


def safetensors_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the names of the arrays of a .safetensors file and its metadata.

    Raises:
      WeightsError: the file is damaged or not a safetensors file.
    """
    with _open_safetensors(path) as file:
        return list(file.keys()), file.metadata() or {}


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged or not a safetensors file"
            f" ({first_line(error)}); fetch it again"
        ) from error


def _read_float8(path: Path) -> dict[str, np.ndarray]:
    """Reads a file with 8-bit floats, for which the library has no NumPy type."""
    import ml_dtypes
    from safetensors import deserialize

    arrays = {}
    for name, entry in deserialize(path.read_bytes()):
        dtype = _FLOAT8.get(entry["dtype"]) or _OTHER_TYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{name} has the type {entry['dtype']}")
        flat = np.frombuffer(entry["data"], getattr(ml_dtypes, dtype, dtype))
        array = flat.reshape(entry["shape"])
        arrays[name] = array.astype(np.float32) if entry["dtype"] in _FLOAT8 else array
    return arrays


def read_torch(path: Path) -> Any:
    """Returns the content of a `torch.save` file if it holds only tensors, numbers and text.

    Raises:
      WeightsError: the file is damaged, is not a `torch.save` file, or holds other objects, which
        might run code and are not loaded; or PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"reading {path.name} needs PyTorch: python -m pip install 'resnet-jax[torch]';"
            " .safetensors files do not"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file can raise almost any exception.
        if what := _other_than_tensors(path, error):
            raise WeightsError(
                f"{path.name} {what}: it is refused because loading it might run code (none was"
                " run); save only a state_dict(), or .safetensors"
            ) from None
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged or not a file of torch.save"
            f" ({first_line(error)}); fetch it again"
        ) from error


def read_keras(path: Path) -> dict[str, Any]:
    """Returns the arrays of an .h5, .weights.h5, .keras or .npz file by ".../LAYER/WEIGHT".

    Raises:
      WeightsError: the file is damaged or has another format; or h5py is not installed.
    """
    try:
        if path.suffix == ".npz":
            return _read_npz(path)
        return _read_h5(_weights_in(path) if path.suffix == ".keras" else path)
    except ImportError as error:
        raise WeightsError(
            f"reading {path.name} needs h5py: python -m pip install 'resnet-jax[keras]'"
        ) from error
    except WeightsError:
        raise
    except Exception as error:
        kinds = {".npz": "an archive of numpy.savez", ".keras": "a model of Keras"}
        kind = kinds.get(path.suffix, "an HDF5 file")
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged or not {kind}"
            f" ({first_line(error)}); fetch it again"
        ) from error


def _read_npz(path: Path) -> dict[str, Any]:
    # NumPy treats any other file as a pickle, and does not close a damaged file that it opened.
    if not zipfile.is_zipfile(path):
        raise ValueError("File is not a zip file")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        _check_size(sum(member.file_size for member in archive.zip.infolist()))
        return dict(archive)


def _weights_in(path: Path) -> io.BytesIO:
    """Returns the HDF5 file inside a .keras file; its other parts, such as code, are not read."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("model.weights.h5")
        _check_size(member.file_size)
        return io.BytesIO(archive.read(member))


def _read_h5(path: Path | io.BytesIO) -> dict[str, Any]:
    import h5py

    arrays: dict[str, Any] = {}
    sizes = []

    def visit(name: str, item: Any) -> None:
        top, *_ = name.split("/")
        if isinstance(item, h5py.Dataset) and top not in ("optimizer", "optimizer_weights"):
            sizes.append(item.nbytes)
            _check_size(sum(sizes))
            arrays[_with_own_name(name, item)] = item[()]

    with h5py.File(path) as file:
        file.get("model_weights", file).visititems(visit)
    return arrays


def _check_size(size: int) -> None:
    """Raises a `ValueError` before memory is allocated for a size that a small file may claim."""
    if size > MAX_BYTES:
        raise ValueError(f"it claims to hold {size} bytes, more than {MAX_BYTES}")


def _with_own_name(name: str, item: Any) -> str:
    """Returns a weight's name; Keras 3 stores the layer's name as an attribute of its group."""
    layer, _, weight = name.rpartition("/vars/")
    own = item.parent.attrs.get("name") if layer else None
    if own is not None:
        # The groups around it keep two networks in one file apart.
        layer = f"{layer.rpartition('/')[0]}/{own}".lstrip("/")
    return f"{layer}/{weight}" if layer else name


def _other_than_tensors(path: Path, error: Exception) -> str:
    """Returns the content that makes PyTorch refuse a file, or "" if that is not the reason."""
    if "TorchScript" in str(error):
        return "holds a TorchScript program"
    found = re.search(r"GLOBAL (\S+)", str(error))
    name = found[1] if found else _called_for(path)
    return f"holds {name}, which is not a tensor" if name else ""


def _called_for(path: Path) -> str:
    """Returns the first function or class that a plain pickle calls, by reading, not running it.

    PyTorch accepts only the pickles of `torch.save` and reports others as damaged.
    """
    names: list[str] = []
    texts: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception:
        # Not a complete pickle, whatever its start.
        return ""
    return names[0] if names else ""


def first_line(error: Exception) -> str:
    """Returns the first line of an exception's message, in fewer than 80 characters."""
    # PyTorch's message for pickles recommends loading them unchecked.
    is_pickle = isinstance(error, pickle.UnpicklingError)
    text = "File is not a pickle of tensors" if is_pickle else str(error).strip()
    line = (text or type(error).__name__).splitlines()[0]
    return line if len(line) < 80 else line[:77] + "..."
