"""Report versions, devices, precision and memory settings, and missing packages."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from resnet_jax.commands import _cli
from resnet_jax.runtime.files import expanded, has_home

_PACKAGE = "resnet-jax"

_EXTRAS = {
    "train": "data, training and most commands",
    "cuda": "NVIDIA GPUs through CUDA 12",
    "cuda13": "NVIDIA GPUs through CUDA 13",
    "torch": "weights in .pth, .th and .pt files",
    "keras": "weights in .h5 files",
    "hub": "weights from the Hugging Face Hub",
    "parquet": "predictions as Parquet files",
    "detection": "COCO's numbers for detectors",
    "test": "running the tests",
    "docs": "building the documentation",
    "dev": "working on the code",
}

# JAX's CUDA extras are separate distributions.
_CUDA_PLUGINS = {"cuda": "jax-cuda12-plugin", "cuda13": "jax-cuda13-plugin"}

_SHARED_MEMORY_FOR_LOADERS = 1140
"""MiB that four loader processes may need for ImageNet's batches of 256."""

_MEMORY_SETTINGS = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "true: JAX reserves a GPU's memory at start-up",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": ".75, the fraction of a GPU's memory to reserve",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "default; platform frees memory, but is slow",
    "XLA_FLAGS": "none",
    "JAX_COMPILATION_CACHE_DIR": "each process compiles again; train.py has its own cache",
}


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax doctor`.

    A line that starts with "!" reports a problem and its remedy.

    Args:
      argv: the arguments after `doctor`: only `--import` and `--help`.
    """
    parser = _cli.ArgumentParser(prog="python -m resnet_jax doctor", description=__doc__)
    parser.parse_args(argv)
    for title, lines in (
        ("Versions", _versions()),
        ("Devices", _devices()),
        ("Precision", _precision()),
        ("Memory and compilation", _memory()),
        ("Data", _data()),
        ("Extras", _extras()),
    ):
        print("\n".join([title, *(f"{_margin(line)}{line}" for line in lines), ""]))


def _margin(line: str) -> str:
    return "" if line.startswith("!") else "  "


def _versions() -> Iterator[str]:
    yield f"{'Python':28} {platform.python_version()} on {platform.platform(terse=True)}"
    yield f"{_PACKAGE:28} {_version(_PACKAGE) or 'not installed'}"
    if _version(_PACKAGE) is None:
        yield "! the package only runs from its folder: python -m pip install --editable ."
    for name, extra in _requirements():
        if extra in (None, "train"):
            yield f"{name:28} {_version(name) or 'missing'}"
            if extra is None and _version(name) is None:
                yield f"! {name} is missing: python -m pip install {_PACKAGE}"
    yield f"{'jaxlib':28} {_version('jaxlib') or 'missing'}"


def _devices() -> Iterator[str]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield f"! JAX finds no device: {str(error).splitlines()[0]}; check JAX_PLATFORMS"
        return
    yield f"{'processors':28} {os.cpu_count()}, {_main_memory()}"
    for device in devices:
        stats = device.memory_stats() if device.platform != "cpu" else None
        memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB for JAX" if stats else ""
        yield f"{device.platform + ' ' + str(device.id):28} {device.device_kind}{memory}"
    if devices[0].platform == "cpu" and Path("/dev/nvidiactl").exists():
        yield (
            f"! JAX does not use the NVIDIA GPU: python -m pip install "
            f"'{_PACKAGE}[cuda13]' (CUDA 12: [cuda]), and leave JAX_PLATFORMS unset"
        )


def _precision() -> Iterator[str]:
    import jax

    float64 = (
        "on"
        if jax.config.values["jax_enable_x64"]
        else "off; JAX_ENABLE_X64=1 or jax.enable_x64(True)"
    )
    yield f"{'float64':28} {float64}"
    products = jax.config.values["jax_default_matmul_precision"]
    yield (
        f"{'matrix products':28} {products or 'default'}"
        "; on GPUs and TPUs, the default rounds float32 to fewer bits"
    )
    if products is None and jax.default_backend() != "cpu":
        yield "! for full float32, as on a CPU: JAX_DEFAULT_MATMUL_PRECISION=highest"
    yield f"{'bfloat16':28} --config.dtype=bfloat16 in training, dtype='bfloat16' for a model"


def _memory() -> Iterator[str]:
    for name, default in _MEMORY_SETTINGS.items():
        yield f"{name:32} {os.environ.get(name) or f'not set ({default})'}"


def _data() -> Iterator[str]:
    yield from _shared_memory()
    directory = os.environ.get("TFDS_DATA_DIR")
    if not directory and not has_home():
        yield f"{'data sets':28} no home folder, and TFDS_DATA_DIR is not set"
        yield "! set TFDS_DATA_DIR, or give each command its --data_dir"
        return
    path = Path(expanded(directory or "~/tensorflow_datasets"))
    where = f"{path}{'' if directory else ' (TFDS_DATA_DIR is not set)'}"
    if not path.is_dir():
        yield f"{'data sets':28} {where}: no such folder"
        yield f"! prepare one: python -m resnet_jax prepare cifar10 --data_dir {path}"
        return
    names = sorted(child.name for child in path.iterdir() if child.is_dir())
    yield f"{'data sets':28} {where}: {', '.join(names) or 'none yet'}"


def _shared_memory() -> Iterator[str]:
    try:
        there = os.statvfs("/dev/shm")
    except OSError:
        return  # A system without it, such as macOS.
    size, free = (n * there.f_frsize / 2**20 for n in (there.f_blocks, there.f_bavail))
    yield f"{'/dev/shm':28} {size:.0f} MiB, {free:.0f} MiB free, for config.loader_workers"
    if free < _SHARED_MEMORY_FOR_LOADERS:
        yield "! loader processes may need more: start the container with --shm-size=8g"


def _extras() -> Iterator[str]:
    missing: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra is not None:
            wanted = _CUDA_PLUGINS.get(extra, name)
            missing.setdefault(extra, [])
            if _version(wanted) is None:
                missing[extra].append(wanted)
    for extra, names in missing.items():
        purpose = _EXTRAS.get(extra, "")
        if not names:
            yield f"{extra:10} installed: {purpose}"
        else:
            yield f"{extra:10} not installed: {purpose}"
            listed = ", ".join(names)
            yield f"! {listed} missing: python -m pip install '{_PACKAGE}[{extra}]'"


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Yields the package's dependencies as (distribution, extra); extra is None for the core."""
    try:
        requirements = importlib.metadata.requires(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w.-]+)['"]""", requirement)
        if name is not None and name[0] != _PACKAGE:
            yield name[0], extra[1] if extra else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _main_memory() -> str:
    try:
        gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return "memory unknown"
    return f"{gibibytes:.1f} GiB of memory"
