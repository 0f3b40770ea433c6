"""A run of `python train.py`, watched from outside: when its first and its last step are logged."""

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
    """Seconds from the start of the process.

    Attributes:
        first: until the first training line is in `metrics.jsonl`.
        last: until the last one is.
        end: until the process has ended.
        images_per_second: of the training lines that have it; the first has not.
    """

    first: float
    last: float
    end: float
    images_per_second: list[float]


def run(workdir: Path, cache: Path, config: str, *overrides: str) -> Run:
    """Runs a configuration with a compilation cache of its own."""
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
