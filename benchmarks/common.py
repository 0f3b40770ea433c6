"""Shared code of the benchmarks: alternating contestants, ratios with spread, result files."""

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
HEAD = """\
| | ours | peer | ratio | spread | ratio of processor time |
| --- | --- | --- | --- | --- | --- |"""
sys.path.insert(0, str(ROOT))


class Seconds(NamedTuple):
    """The time of a run by the clock and, if known, its processor time on all cores."""

    clock: float
    processor: float | None = None


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The speed relative to a peer, from alternating measurements.

    Attributes:
      name: the comparison, such as `train_step/resnet50/flax`; the same in each run.
      ours: median of our seconds by the clock.
      peer: median of the peer's seconds.
      ratio: median over the rounds of the peer's seconds divided by ours; more is better for us.
      low: smallest ratio of a round.
      high: largest ratio of a round.
      processor: median ratio of processor time, which other work on the machine disturbs less;
        None if not measured. Threads that wait busily increase a peer's.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    processor: float | None


def compare(name: str, ours: Sequence[Seconds], peer: Sequence[Seconds]) -> Ratio:
    """Returns the ratio of two contestants' times, paired by round."""
    rounds = list(zip(ours, peer, strict=True))
    ratios = [b.clock / a.clock for a, b in rounds]
    processor = [b.processor / a.processor for a, b in rounds if a.processor and b.processor]
    return Ratio(
        name,
        statistics.median(a.clock for a in ours),
        statistics.median(b.clock for b in peer),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(processor) if processor else None,
    )


def in_turn(
    contestants: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[Seconds]]:
    """Returns the times of alternating contestants in each round, after two warm-up rounds."""
    seconds: dict[str, list[Seconds]] = {name: [] for name in contestants}
    for counted in range(-2, rounds):
        for name, run in contestants.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            taken = Seconds(time.perf_counter() - clock, time.process_time() - processor)
            if counted >= 0:
                seconds[name].append(taken)
    return seconds


def compare_in_turn(
    case: str, contestants: Mapping[str, Callable[[], object]], rounds: int
) -> list[Ratio]:
    """Returns the ratios `CASE/PEER` of the contestant "ours" to each of the others."""
    seconds = in_turn(contestants, rounds)
    ours = seconds.pop("ours")
    return [compare(f"{case}/{peer}", ours, theirs) for peer, theirs in seconds.items()]


def machine() -> dict[str, str | int]:
    """Returns the machine that the figures depend on: processor, accelerator, versions."""
    import flax
    import jax

    model = platform.processor() or platform.machine()
    try:
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            model = found[1]
    except OSError:
        pass
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "flax": flax.__version__,
    }


def report(ratios: Iterable[Ratio], missing: Sequence[str], path: str | None) -> None:
    """Prints a table, each ratio as soon as it is measured; also writes JSON if given a path."""
    print(HEAD, flush=True)
    found = []
    for ratio in ratios:
        print(_row(ratio), flush=True)
        found.append(ratio)
    for name in missing:
        print(_missing_row(name), flush=True)
    if path:
        write(path, found, missing, {})


def write(
    path: str | Path,
    ratios: Sequence[Ratio],
    missing: Sequence[str],
    machine: Mapping[str, str | int],
) -> None:
    """Writes a result file."""
    content = {
        "machine": dict(machine),
        "ratios": [dataclasses.asdict(ratio) for ratio in ratios],
        "not measured here": list(missing),
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def table(ratios: Sequence[Ratio], missing: Sequence[str]) -> str:
    """Returns ratios and missing measurements as a Markdown table."""
    return "\n".join([HEAD, *map(_row, ratios), *map(_missing_row, missing)])


def arguments(description: str | None, **defaults: int) -> argparse.Namespace:
    """Parses `--json FILE` and an integer for each of `defaults`."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="also write the ratios to this file")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def _row(ratio: Ratio) -> str:
    return (
        f"| {ratio.name} | {_shown(ratio.ours)} | {_shown(ratio.peer)} | {ratio.ratio:.2f} | "
        f"{ratio.low:.2f} to {ratio.high:.2f} | "
        + (f"{ratio.processor:.2f} |" if ratio.processor else "|")
    )


def _missing_row(name: str) -> str:
    return f"| {name} | not measured here | | | | |"


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
