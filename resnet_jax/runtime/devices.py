"""Devices: the mesh, replicated and split arrays, compiler options and the compilation cache."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from resnet_jax.runtime.files import expanded, has_home

DATA_AXIS = "data"
"""Name of the one mesh axis: the batch is split over it, everything else is replicated."""


HEARTBEAT_SECONDS = 30
"""Seconds of silence after which a host is considered dead and the others end."""


def start_hosts(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects this process to those of the other hosts; call it before any other use of JAX.

    Without arguments, SLURM, Open MPI, Kubernetes or a TPU pod provide the values. A process that
    is alone on its node uses all of the node's devices (of `CUDA_VISIBLE_DEVICES`, if set). Several
    processes on a node have one device each, as JAX chooses it for SLURM and Open MPI.

    Args:
      coordinator: `HOST:PORT` of process 0.
      num_processes: number of processes.
      process_id: index of this process, from 0.
    """
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        local_device_ids=() if _is_alone_on_node() else None,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def _is_alone_on_node() -> bool:
    """Whether SLURM or Open MPI started no other process of this run on this node.

    JAX takes the process's number on the node, here 0, for the number of its one device, unless it
    is given the devices' numbers; an empty list of them leaves all visible.
    """
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return False
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in os.environ:
        return os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    # Tasks per node, such as "2(x3),1": of the step if srun started it, else of the job.
    counts = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get("SLURM_TASKS_PER_NODE")
    return counts is not None and re.fullmatch(r"1(\(x\d+\))?", counts) is not None


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `"data"`, over `devices`, by default those of all hosts."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that each device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of each array of `tree`, equal on all hosts, on each device of `mesh`.

    A single host does not wait for the arrays to be computed; several hosts do.
    """
    if jax.process_count() > 1:
        # Via the host: an array put from a local device onto several hosts' cannot be saved.
        tree = jax.device_get(tree)
    return jax.device_put(tree, replicated(mesh), may_alias=False)


def from_first_host(text: str) -> str:
    """Returns the first host's `text`, of at most 400 bytes, on all hosts."""
    if jax.process_count() == 1:
        return text
    padded = np.zeros(400, np.uint8)
    encoded = np.frombuffer(text.encode()[: padded.size], np.uint8)
    padded[: encoded.size] = encoded
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return received.tobytes().rstrip(b"\0").decode(errors="ignore")


def shard_batch(batch: Mapping[str, Any], mesh: Mesh, steps: bool = False) -> dict[str, jax.Array]:
    """Splits this host's part of a batch over this host's devices.

    Args:
      batch: arrays `[n, ...]`, with equal `n` on all hosts, a multiple of the host's device count.
      mesh: the mesh of all hosts.
      steps: whether arrays are `[steps, n, ...]`, the batches of several steps.

    Returns:
      Global arrays `[n * hosts, ...]`, split along that axis; copying to the devices is
      asynchronous.
    """
    spec = PartitionSpec(None, DATA_AXIS) if steps else PartitionSpec(DATA_AXIS)
    sharding = NamedSharding(mesh, spec)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


_LIBRARY = "xla_cpu_experimental_ynn_fusion_type"
_SUMS_AND_PRODUCTS = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


@functools.cache
def compiler_options(backend: str | None = None) -> dict[str, str]:
    """Returns XLA's options for networks on this processor, for `jax.jit(compiler_options=...)`.

    On an x86-64 CPU they select the operations that XLA delegates to its library YNNPACK: sums and
    matrix products with AVX-512, nothing without it. XLA runs convolutions itself, on all cores.
    The options are empty for other processors and platforms, and if this JAX rejects them.

    Args:
      backend: "cpu" or another JAX platform; by default that of the default device.
    """
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    if not is_x86 or (backend or jax.default_backend()) != "cpu":
        return {}
    options = {_LIBRARY: _SUMS_AND_PRODUCTS if _has_avx512() else ""}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def _has_avx512() -> bool:
    try:
        return " avx512f " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def jit(function: Callable[..., Any], **arguments: Any) -> Callable[..., Any]:
    """Returns `jax.jit(function, ...)` with `compiler_options()`, chosen at the first call.

    A decorator must not choose them: importing a module must not start JAX's devices. The result
    cannot be called inside another `jax.jit`.
    """
    compiled = functools.cache(
        lambda: jax.jit(function, compiler_options=compiler_options(), **arguments)
    )
    return functools.wraps(function)(lambda *args, **kwargs: compiled()(*args, **kwargs))


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that a step frees, for the next step.

    Call it before JAX starts threads. Otherwise, on the CPU, XLA returns hundreds of MB of
    temporary memory to the system after each step and allocates them again: 75,000 page faults and
    a quarter of a step of ResNet-20 at batch 128. In exchange, the process keeps its peak memory.
    It has no effect with another C library, or if `MALLOC_*` or `GLIBC_TUNABLES` is set.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ
    ):
        return
    # M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD of <malloc.h>.
    for parameter, value in ((-8, 1), (-4, 0), (-1, -1)):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(parameter, value)


def enable_compilation_cache(directory: str) -> None:
    """Keeps compiled programs on disk, so that a second start does not compile again.

    Args:
      directory: the folder; `auto` for JAX's own setting (`JAX_COMPILATION_CACHE_DIR`) if any, else
        a folder in the user's cache for this processor model (CPU programs are specific to it),
        or none for a user without a home folder; `none` keeps nothing.

    Raises:
      UsageError: the folder is given with `~`, and there is no home folder.
    """
    if directory == "none" or (
        directory == "auto" and jax.config.values["jax_compilation_cache_dir"]
    ):
        return
    if directory == "auto":
        root = os.environ.get("XDG_CACHE_HOME") or (expanded("~/.cache") if has_home() else None)
        if root is None:
            return
        directory = os.path.join(root, "resnet_jax", "compiled", _processor())
    jax.config.update("jax_compilation_cache_dir", expanded(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _processor() -> str:
    """Returns a short identifier of this machine's processor model."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("model name", "flags", "Features"))]
    except OSError:
        lines = [platform.processor()]
    return hashlib.sha256("".join(sorted(set(lines))).encode()).hexdigest()[:12]
