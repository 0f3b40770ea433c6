"""Traces a training step on the CPU and sums the time by kind of operation.

    python benchmarks/profile_step.py NAME BATCH [--steps N] [--peer]

Times are summed over XLA's threads, so a step that keeps two cores busy adds twice its duration;
the difference to that is waiting time.
"""

import argparse
import collections
import re
import tempfile
import time
from pathlib import Path

import jax
from flax_peer import flax_peer
from train_step import compile_training, random_batch, repeated

from resnet_jax import create_model
from resnet_jax.runtime.devices import compiler_options, keep_freed_memory

# The first match counts; operations that contain others are excluded.
KINDS = [
    ("", r"ThunkExecutor|^end:|Handle inputs|::"),
    ("convolutions and matrix products", r"conv(?!ert)|dot|ynn|matmul"),
    ("copies and transpositions", r"transpose|copy|reverse|slice|concatenate|pad"),
    ("reductions", r"reduce"),
    ("everything else", r""),
]


def kind_of(operation: str) -> str:
    """Returns the kind of an operation by its name in XLA's program."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, operation))


def main() -> None:
    """Traces some steps and prints two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="a model")
    parser.add_argument("batch", type=int, help="images per step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--peer", action="store_true", help="trace the plain Flax twin")
    arguments = parser.parse_args()
    images, labels, num_classes = random_batch(arguments.name, arguments.batch)
    model, options = flax_peer(arguments.name, num_classes), None
    if not arguments.peer:
        model = create_model(arguments.name, num_classes, kernels="auto")
        options = compiler_options()
    step = repeated(*compile_training(model, images, labels, options))
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    clock = (time.perf_counter() - start) / arguments.steps
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(arguments.steps):
                step()
        [file] = Path(folder).rglob("*.xplane.pb")
        trace = jax.profiler.ProfileData.from_file(str(file))
    operations: collections.Counter[str] = collections.Counter()
    for plane in trace.planes:
        for line in plane.lines:
            if line.name.startswith("tf_XLA"):
                for event in line.events:
                    name = re.sub(r"[.\d]+(\.clone)?$", "", event.name)
                    operations[name] += event.duration_ns / 1e6 / arguments.steps
    kinds: collections.Counter[str] = collections.Counter()
    for name, milliseconds in operations.items():
        kinds[kind_of(name)] += milliseconds
    del kinds[""]
    total = sum(kinds.values())
    print(f"a step takes {clock * 1000:.0f} ms without a trace; in operations, on all threads:\n")
    print("| kind | ms per step | share |\n| --- | --- | --- |")
    for kind, milliseconds in kinds.most_common():
        print(f"| {kind} | {milliseconds:.0f} | {milliseconds / total:.0%} |")
    print("\n| operation | ms per step |\n| --- | --- |")
    own = collections.Counter({k: v for k, v in operations.items() if kind_of(k)})
    for name, milliseconds in own.most_common(12):
        print(f"| `{name}` | {milliseconds:.1f} |")


if __name__ == "__main__":
    keep_freed_memory()
    main()
