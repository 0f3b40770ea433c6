"""Weights files as they lie on disk: what they hold by name, or one clear error."""

import os
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import WeightsError

MAX_BYTES = 2**32
"""Bytes of arrays above which a file is no ResNet's; the largest here have 0.4 GB."""

TORCH_ENDINGS = (".pth", ".th", ".pt", ".bin", ".ckpt", ".tar")


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path if there is such a file that can be read.

    Raises:
      WeightsError: there is none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "is a folder, not a weights file" if path.is_dir() else "is not there"
        raise WeightsError(f"{path} {kind}; give the path of a weights file")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path} may not be read; change its permissions")
    return path


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
      WeightsError: there is no such folder, or it cannot be written to.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise WeightsError(f"there is no folder {path.parent}; make it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"cannot write {path}: {error.strerror}; choose another path") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a .safetensors file and its metadata.

    Raises:
      WeightsError: the file is damaged, or no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged, or no safetensors file"
            f" ({first_line(error)}); fetch it again"
        ) from error


def read_torch(path: Path) -> Any:
    """Returns what a file of `torch.save` holds, if that is tensors, numbers and text alone.

    Raises:
      WeightsError: the file is damaged, is no such file, or holds other objects, which might run
        code and are not loaded; or PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"reading {path.name} takes PyTorch: python -m pip install 'resnet-jax[torch]';"
            " .safetensors files need nothing more"
        ) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file ends in an exception of almost any kind.
        if what := _other_than_tensors(path, error):
            raise WeightsError(
                f"{path.name} {what}: it is refused, as loading it might run code, and nothing of"
                " it was run; save a state_dict() alone, or .safetensors"
            ) from None
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged, or no file of torch.save"
            f" ({first_line(error)}); fetch it again"
        ) from error


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .h5, .weights.h5 or .npz file by ".../LAYER/WEIGHT".

    Raises:
      WeightsError: the file is damaged, or no such file; or h5py is not installed.
    """
    try:
        return _read_npz(path) if path.suffix == ".npz" else _read_h5(path)
    except ImportError as error:
        raise WeightsError(
            f"reading {path.name} takes h5py: python -m pip install 'resnet-jax[keras]'"
        ) from error
    except WeightsError:
        raise
    except Exception as error:
        kind = "archive of numpy.savez" if path.suffix == ".npz" else "HDF5 file"
        raise WeightsError(
            f"{path.name} cannot be read: it is damaged, or no {kind}"
            f" ({first_line(error)}); fetch it again"
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # NumPy takes whatever else for a pickle, and leaves a damaged file open that it opened itself.
    if not zipfile.is_zipfile(path):
        raise ValueError("File is not a zip file")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        _check_size(sum(member.file_size for member in archive.zip.infolist()))
        return dict(archive)


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    arrays: dict[str, np.ndarray] = {}
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
    """Raises a `ValueError` before memory is taken for what a small file claims to hold."""
    if size > MAX_BYTES:
        raise ValueError(f"it claims to hold {size} bytes, more than {MAX_BYTES}")


def _with_own_name(name: str, item: Any) -> str:
    """Returns a weight's name; Keras 3 files it under the class, its layer's name an attribute."""
    layer, _, weight = name.rpartition("/vars/")
    own = item.parent.attrs.get("name") if layer else None
    return f"{layer if own is None else own}/{weight}" if layer else name


def _other_than_tensors(path: Path, error: Exception) -> str:
    """Returns what makes PyTorch refuse a file, nothing if it is not what the file holds."""
    if "TorchScript" in str(error):
        return "holds a TorchScript program"
    found = re.search(r"GLOBAL (\S+)", str(error))
    name = found[1] if found else _called_for(path)
    return f"holds {name}, which is no tensor" if name else ""


def _called_for(path: Path) -> str:
    """Returns the first function or class that a bare pickle calls for; it is read, not run.

    PyTorch knows the pickles of `torch.save` alone and takes others for damaged.
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
        # No pickle to its end, whatever it begins as.
        return ""
    return names[0] if names else ""


def first_line(error: Exception) -> str:
    """Returns what an exception says, in less than 80 characters."""
    # PyTorch's own advice for pickles is to load them without a check.
    is_pickle = isinstance(error, pickle.UnpicklingError)
    text = "File is not a pickle of tensors" if is_pickle else str(error).strip()
    line = (text or type(error).__name__).splitlines()[0]
    return line if len(line) < 80 else line[:77] + "..."
