"""Times a run of `python train.py` from outside, by the lines of its log."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import ROOT


@dataclasses.dataclass(frozen=True)
class Run:
    """Seconds since the start of the process, and speeds.

    Attributes:
      first: time of the first training line in `metrics.jsonl`.
      last: time of the last one.
      end: time of the end of the process.
      images_per_second: speeds in the training lines; the first line has none.
    """

    first: float
    last: float
    end: float
    images_per_second: list[float]


def run(workdir: Path, cache: Path, config: str, *overrides: str) -> Run:
    """Runs a configuration with its own compilation cache."""
    environment = {name: v for name, v in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "train.py", "--config", config, "--workdir", str(workdir)]
    command += [f"--config.compilation_cache={cache}", *overrides]
    start, times, seen = time.monotonic(), [], 0
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            lines = _training_lines(workdir)
            times += [time.monotonic() - start] * (len(lines) - seen)
            seen = len(lines)
            time.sleep(0.01)
        end = time.monotonic() - start
        if process.returncode:
            message = process.stderr.read().decode() if process.stderr else ""
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {message}")
    lines = _training_lines(workdir)
    times += [end] * (len(lines) - seen)
    speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return Run(times[0], times[-1], end, speeds)


def _training_lines(workdir: Path) -> list[dict[str, float]]:
    try:
        text = (workdir / "metrics.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["split"] == "train"]
