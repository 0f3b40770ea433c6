"""Compares the demo in bfloat16 and float32: the same test error within a point.

    python benchmarks/demo_bfloat16.py [--seeds 3]

With 1,000 test images, one error has a standard deviation of a point, so the means over several
seeds are compared. The exit status is 1 if they differ by more than a point.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from resnet_jax.training.records import read_metrics

ROOT = Path(__file__).parents[1]


def train(dtype: str, seed: int, directory: str) -> dict[str, float]:
    """Trains the demo and returns the last line of its metrics."""
    workdir = f"{directory}/{dtype}-{seed}"
    command = [sys.executable, str(ROOT / "train.py"), "--workdir", workdir]
    command += ["--config", str(ROOT / "configs" / "fashion_mnist_demo.py")]
    command += [f"--config.dtype={dtype}", f"--config.seed={seed}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_metrics(workdir)[-1]


def main() -> None:
    """Trains each seed in both dtypes and compares the errors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    means = {}
    with tempfile.TemporaryDirectory() as directory:
        for dtype in ("float32", "bfloat16"):
            errors = [100 * train(dtype, seed, directory)["top1_error"] for seed in seeds]
            means[dtype] = statistics.mean(errors)
            listed = ", ".join(f"{error:.1f}" for error in errors)
            print(f"{dtype}: {means[dtype]:.2f} % test error (seeds: {listed})", flush=True)
    difference = abs(means["bfloat16"] - means["float32"])
    print(f"difference: {difference:.2f} points")
    sys.exit(difference > 1)


if __name__ == "__main__":
    main()
