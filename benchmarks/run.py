"""Runs all benchmarks that this machine supports and writes the results: `make bench`.

    python benchmarks/run.py [NAME]

Writes `benchmarks/results/NAME.json` and prints a table; NAME is by default the machine's name.
`benchmarks/check.py` compares two such files. tf.data is a peer of the input pipeline only if this
Python has TensorFlow, which is not a dependency; see `benchmarks/input_pipeline.py --help`.
`limits.py`, `memory.py`, `profile_step.py` and `demo_bfloat16.py` have no peer and are not run.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import common

SCRIPTS = [
    "train_step",
    "inference",
    "cifar_loop",
    "trainer_overhead",
    "warm_start",
    "demo",
    "input_pipeline",
]


def main() -> int:
    """Runs the scripts sequentially; returns the number that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", default=platform.node() or "machine")
    name = parser.parse_args().name
    ratios: list[common.Ratio] = []
    missing: list[str] = []
    failed = []
    for script in SCRIPTS:
        print(f"{script}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder, "found.json")
            path = Path(__file__).with_name(f"{script}.py")
            if subprocess.run([sys.executable, path, "--json", found]).returncode:
                failed.append(script)
                continue
            result = json.loads(found.read_text())
        ratios += [common.Ratio(**ratio) for ratio in result["ratios"]]
        missing += result["not measured here"]
    output = Path(__file__).parent / "results" / f"{name}.json"
    output.parent.mkdir(exist_ok=True)
    common.write(output, ratios, missing, common.machine())
    print(f"\n{common.table(ratios, missing)}\n\nwritten: {output}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
