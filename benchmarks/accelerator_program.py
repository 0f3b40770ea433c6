"""Training steps compiled for H100s, without one: the bytes and multiplications of their kernels.

    pip install jax-cuda13-plugin==0.10.2 jax-cuda13-pjrt==0.10.2    # JAX's own version
    python benchmarks/accelerator_program.py [--kernels gpu] [--json FILE]

Nothing runs and nothing is timed. Ours are the trainer's steps in bfloat16: ResNet-50 with 256
images per device, and ResNet-20 with the data set on the device and 50 steps per dispatch. The peer
is the plain Flax twin's step on images already on the device; on several devices, it normalises
over the whole batch. The bound is the sum over kernels of the longer of two times: that of the
products at the chip's rate, and that of the bytes at the memory's rate. The script takes about five
minutes on two cores.
"""

import argparse
import dataclasses
import importlib.metadata
from typing import Any

import common
import hlo
import jax
import numpy as np
from bare_step import random_experiment, state_and_step
from flax_peer import flax_peer
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from train_step import training_step

from configs.cifar10_resnet20 import get_config
from resnet_jax import data
from resnet_jax.runtime.devices import DATA_AXIS
from resnet_jax.training.config import TrainConfig, resolve
from resnet_jax.training.experiment import train_iterator

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
FLOPS_PER_SECOND = 989.4e12
"""Peak rate of bfloat16 matrix products."""
BYTES_PER_SECOND = 3.352e12

IMAGES = 256
"""ResNet-50's images per device."""
STEPS = 50
"""ResNet-20's steps per dispatch."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """The work of a device in one step.

    Attributes:
      images: number of images.
      flops: floating-point operations of matrix products and convolutions.
      bytes: bytes that kernels read and write.
      kernels: number of kernels.
      peak: maximum number of bytes in use.
      all_reduces: number of all-reduces.
      bound: seconds, if each kernel reached the chip's rates.
    """

    images: int
    flops: float
    bytes: float
    kernels: float
    peak: float
    all_reduces: float
    bound: float


def figures(compiled: jax.stages.Compiled, images: int, steps: int = 1) -> Figures:
    """Counts the work in a program of `steps` steps of `images` images per device."""
    kernels, memory = hlo.kernels(compiled.as_text() or ""), compiled.memory_analysis()
    assert memory
    return Figures(
        images,
        sum(kernel.runs * kernel.flops for kernel in kernels) / steps,
        sum(kernel.runs * kernel.bytes for kernel in kernels) / steps,
        sum(kernel.runs for kernel in kernels) / steps,
        memory.peak_memory_in_bytes,
        sum(k.runs for k in kernels if k.instruction.opcode.startswith("all-reduce")) / steps,
        sum(
            kernel.runs * max(kernel.flops / FLOPS_PER_SECOND, kernel.bytes / BYTES_PER_SECOND)
            for kernel in kernels
        )
        / steps,
    )


def h100_mesh(devices: int) -> Mesh:
    """Returns a mesh of H100s to compile for."""
    topology = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology=f"1x1x{devices}"
    )
    return Mesh(np.array(topology.devices), (DATA_AXIS,))


def trainer_step(mesh: Mesh, kernels: str) -> Figures:
    """Compiles the trainer's step of ResNet-50."""
    batch_size = IMAGES * mesh.size
    config = TrainConfig(
        model="resnet50",
        batch_size=batch_size,
        dtype="bfloat16",
        augmentation="none",
        model_options={"kernels": kernels},
    )
    state, step = state_and_step(random_experiment(config, 1, 224, 1000), mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, 224, 224, 3), np.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }
    arguments = _on(mesh, state), _on(mesh, batch, DATA_AXIS)
    return figures(step.lower(*arguments).compile(), IMAGES)


def resident_step(mesh: Mesh, kernels: str) -> Figures:
    """Compiles the trainer's steps of ResNet-20 on images that stay on the device."""
    config = dataclasses.replace(
        resolve(get_config()), dtype="bfloat16", model_options={"kernels": kernels}
    )
    experiment = random_experiment(config, 50_000, 32, 10)
    batches = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((STEPS, *np.shape(leaf)), np.asarray(leaf).dtype),
        next(train_iterator(experiment, pixels=False)),
    )
    state, step = state_and_step(experiment, mesh)
    resident = data.resident_arrays(experiment.train_source, experiment.train_transform)
    arguments = _on(mesh, state), _on(mesh, batches, None, DATA_AXIS), _on(mesh, resident)
    compiled = step.lower(*arguments).compile()
    return figures(compiled, config.batch_size, STEPS)


def flax_step(mesh: Mesh, name: str, images: int) -> Figures:
    """Compiles the Flax twin's step on `images` images per device."""
    size, classes = (32, 10) if name.endswith("_cifar") else (224, 1000)
    model = flax_peer(name, classes, "bfloat16")
    x = jax.ShapeDtypeStruct((images * mesh.size, size, size, 3), np.float32)
    y = jax.ShapeDtypeStruct((images * mesh.size,), np.int32)
    optimizer, step = training_step(model)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros(x.shape[1:])[None], False)
    )
    momenta = jax.eval_shape(optimizer.init, variables["params"])
    arguments = *_on(mesh, (variables, momenta)), *_on(mesh, (x, y), DATA_AXIS)
    return figures(step.lower(*arguments).compile(), images)


def _on(mesh: Mesh, tree: Any, *axes: str | None) -> Any:
    """Returns the shapes of arrays that are split over a mesh, or replicated without axes."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def ratios(case: str, ours: Figures, peer: Figures) -> list[common.Ratio]:
    """Returns the peer's figures divided by ours: more is better for us."""
    found = []
    for name in ("bytes", "kernels", "peak", "all_reduces", "bound"):
        a, b = getattr(ours, name), getattr(peer, name)
        if a and b:
            found.append(common.Ratio(f"{case}/{name}", a, b, b / a, b / a, b / a, None))
    return found


def row(name: str, found: Figures) -> str:
    """Returns a line of the table."""
    return (
        f"| {name} | {found.flops / found.images / 1e9:.2f} | "
        f"{found.bytes / found.images / 1e6:.1f} | {found.kernels:,.0f} | "
        f"{found.peak / 2**30:.2f} | {found.all_reduces:.0f} | {found.bound * 1e3:.2f} | "
        f"{found.images / found.bound:,.0f} |"
    )


def check_packages() -> None:
    """Exits with an installation hint if a package is missing."""
    for name in ("jax-cuda13-plugin", "jax-cuda13-pjrt"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages = f"jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
            raise SystemExit(f"{name} is missing: pip install {packages}") from None


def main() -> None:
    """Compiles all cases, prints a table and writes the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernels", default="gpu", help="ours: gpu (default) or stock")
    parser.add_argument("--json", metavar="FILE", help="also write the ratios to this file")
    arguments = parser.parse_args()
    check_packages()
    jax.config.update("jax_platforms", "cpu")  # The states are made there.
    print(
        "| | GFLOP per image | MB per image | kernels per step | peak GiB | all-reduces | bound ms "
        "| images/s per device |\n| --- | --- | --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    found: list[common.Ratio] = []
    for name, devices in (("resnet50", 1), ("resnet50", 4), ("resnet20", 1)):
        mesh = h100_mesh(devices)
        case = f"{name}/{devices} H100"
        ours = (trainer_step if name == "resnet50" else resident_step)(mesh, arguments.kernels)
        print(row(f"{case}, ours, {arguments.kernels}", ours), flush=True)
        twin = name if name == "resnet50" else "resnet20_cifar"
        peer = flax_step(mesh, twin, ours.images)
        print(row(f"{case}, Flax twin", peer), flush=True)
        if name == "resnet20":  # Our peak includes the data set.
            ours = dataclasses.replace(ours, peak=0)
        found += ratios(f"accelerator_program/{case}", ours, peer)
    if arguments.json:
        device = {"device": "NVIDIA H100 80GB HBM3, only compiled for"}
        common.write(arguments.json, found, [], common.machine() | device)


if __name__ == "__main__":
    main()
