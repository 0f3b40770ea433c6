"""Compares two result files and fails if a ratio has dropped by more than a tenth.

    python benchmarks/check.py OLD.json NEW.json

The exit status is 1 if a ratio of OLD is more than 10 % lower in NEW, or missing there; 2 if a file
cannot be read. Ratios are comparable only between runs on one machine; `MACHINE.json` names it.
"""

import json
import sys
from pathlib import Path
from typing import Any

TOLERANCE = 0.1


def losses(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each ratio that has dropped by more than `TOLERANCE`, or is missing."""
    now = {ratio["name"]: ratio["ratio"] for ratio in new["ratios"]}
    lines = []
    for ratio in old["ratios"]:
        name, before = ratio["name"], ratio["ratio"]
        if name not in now:
            lines.append(f"{name}: {before:.2f} before, not measured now")
        elif now[name] < before * (1 - TOLERANCE):
            lines.append(f"{name}: {before:.2f} before, {now[name]:.2f} now")
    return lines


def main(arguments: list[str]) -> int:
    """Prints the losses and returns the exit status."""
    if len(arguments) != 2:
        print("usage: python benchmarks/check.py OLD.json NEW.json", file=sys.stderr)
        return 2
    try:
        found = losses(*(json.loads(Path(path).read_text()) for path in arguments))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"not two result files of benchmarks/run.py: {error!r}", file=sys.stderr)
        return 2
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
