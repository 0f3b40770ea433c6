"""Times the phases of the demo, from `python train.py` to the end of the process.

    python benchmarks/demo.py [--rounds N] [--json FILE]

The second run of each pair uses the compilation cache of the first.
"""

import statistics
import tempfile
from pathlib import Path

import command
import common

CONFIG = "configs/fashion_mnist_demo.py"


def main() -> None:
    """Runs the demo cold and warm, and prints its phases."""
    arguments = common.arguments(__doc__, rounds=1)
    runs: dict[str, list[command.Run]] = {"cold": [], "warm": []}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name in runs:
                runs[name].append(command.run(Path(folder, name), Path(folder, "cache"), CONFIG))
    print("| demo | to the first line | to the last | to the end | images/s |")
    print("| --- | --- | --- | --- | --- |")
    for name, measured in runs.items():
        phases = [
            statistics.median(getattr(run, phase) for run in measured)
            for phase in ("first", "last", "end")
        ]
        speed = statistics.median(x for run in measured for x in run.images_per_second)
        print(f"| {name} | " + " | ".join(f"{x:.1f} s" for x in phases) + f" | {speed:.0f} |")
    ends = [[common.Seconds(run.end) for run in runs[name]] for name in ("warm", "cold")]
    common.report([common.compare("demo/warm/cold", *ends)], [], arguments.json)


if __name__ == "__main__":
    main()
