"""Memory of a training step, with and without rematerialisation.

    python benchmarks/memory.py [--model resnet50] [--batch_size 16] [--dtype float32]

Each case is a process of its own. "Temporary" and "arguments" are what the compiled step asks for
(activations and gradients; parameters, momenta and images); "peak" is the most that the process, or
the accelerator, has held: on the CPU it contains what compiling took.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

GIB = 2**30


def measure(model_name: str, batch_size: int, dtype: str, remat: bool) -> dict[str, float]:
    """Returns GiB and seconds of one training step in this process."""
    import jax
    import numpy as np

    from resnet_jax import create_model
    from resnet_jax.data import make_normalization
    from resnet_jax.parallel import data_mesh, replicate, shard_batch
    from resnet_jax.training.config import TrainConfig
    from resnet_jax.training.optimizer import make_optimizer, make_schedule
    from resnet_jax.training.state import create_state
    from resnet_jax.training.step import make_train_step

    size, num_classes = (32, 10) if model_name.endswith("_cifar") else (224, 1000)
    config = TrainConfig(model=model_name, batch_size=batch_size, dtype=dtype, remat=remat)
    model = create_model(model_name, num_classes, dtype=dtype, remat=remat, kernels="auto")
    mesh = data_mesh(jax.devices()[:1])
    optimizer = make_optimizer(config)
    normalization = make_normalization("torchvision", 3)
    state = create_state(config, model, optimizer, normalization, (size, size, 3))
    state = replicate(state, mesh)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, num_classes, batch_size, dtype=np.int32),
    }
    device_batch = shard_batch(batch, mesh)
    step: Any = make_train_step(config, model, optimizer, make_schedule(config, 1), mesh)
    start = time.monotonic()
    compiled = step.lower(state, device_batch).compile()
    compile_seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    state, _ = compiled(state, device_batch)
    jax.block_until_ready(state)
    start = time.monotonic()
    jax.block_until_ready(compiled(state, device_batch))
    on_device = jax.devices()[0].memory_stats() or {}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "temporary": memory.temp_size_in_bytes / GIB,
        "arguments": memory.argument_size_in_bytes / GIB,
        "peak": on_device.get("peak_bytes_in_use", own) / GIB,
        "compiling": compile_seconds,
        "step": time.monotonic() - start,
    }


def main() -> None:
    """Measures both and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--measure", choices=("keep", "remat"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asked = (arguments.model, arguments.batch_size, arguments.dtype)
    if arguments.measure:
        print(json.dumps(measure(*asked, remat=arguments.measure == "remat")))
        return
    print(f"{arguments.model}, batch {arguments.batch_size}, {arguments.dtype}")
    print(f"{'':10}{'temporary':>12}{'arguments':>12}{'peak':>9}{'compiling':>12}{'step':>10}")
    for case in ("keep", "remat"):
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", case]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{case:10}{found['temporary']:8.2f} GiB{found['arguments']:8.2f} GiB"
            f"{found['peak']:5.1f} GiB{found['compiling']:10.0f} s{found['step']:8.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
