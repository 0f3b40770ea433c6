"""Memory of a training step, with and without rematerialisation.

    python benchmarks/memory.py [--model resnet50] [--batch_size 16] [--dtype float32]

Each case is a separate process. "Temporary" and "arguments" are the sizes in the compiled step
(activations and gradients; parameters, momenta and images). "Peak" is the maximum of the process or
the accelerator; on the CPU, it includes compilation.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

GIB = 2**30


def measure(model_name: str, batch_size: int, dtype: str, remat: bool) -> dict[str, float]:
    """Measures one training step in this process, in GiB and seconds."""
    import jax
    from bare_step import random_experiment, state_and_step

    from resnet_jax.runtime.devices import data_mesh, replicate, shard_batch
    from resnet_jax.training.config import TrainConfig
    from resnet_jax.training.experiment import train_iterator

    size, num_classes = (32, 10) if model_name.endswith("_cifar") else (224, 1000)
    config = TrainConfig(
        model=model_name, batch_size=batch_size, dtype=dtype, remat=remat, augmentation="none"
    )
    experiment = random_experiment(config, batch_size, size, num_classes)
    mesh = data_mesh(jax.devices()[:1])
    state, step = state_and_step(experiment, mesh)
    state = replicate(state, mesh)
    batch = shard_batch(next(train_iterator(experiment)), mesh)
    start = time.monotonic()
    compiled = step.lower(state, batch).compile()
    compile_seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    state, _ = compiled(state, batch)
    jax.block_until_ready(state)
    start = time.monotonic()
    jax.block_until_ready(compiled(state, batch))
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
    case = (arguments.model, arguments.batch_size, arguments.dtype)
    if arguments.measure:
        print(json.dumps(measure(*case, remat=arguments.measure == "remat")))
        return
    print(f"{arguments.model}, batch {arguments.batch_size}, {arguments.dtype}")
    print(f"{'':10}{'temporary':>12}{'arguments':>12}{'peak':>9}{'compiling':>12}{'step':>10}")
    for mode in ("keep", "remat"):
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", mode]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{mode:10}{found['temporary']:8.2f} GiB{found['arguments']:8.2f} GiB"
            f"{found['peak']:5.1f} GiB{found['compiling']:10.0f} s{found['step']:8.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
