"""The comparison of two result files, as a command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "check.py"


def check(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


def results(path, **ratios):
    found = [{"name": name, "ratio": ratio} for name, ratio in ratios.items()]
    path.write_text(json.dumps({"machine": {}, "ratios": found, "not measured here": []}))
    return path


@pytest.mark.parametrize(
    "now, status, output",
    [
        ({"a": 2.0, "b": 1.0}, 0, ""),
        ({"a": 1.81, "b": 3.0, "c": 0.1}, 0, ""),
        ({"a": 1.79, "b": 1.0}, 1, "a: 2.00 before, 1.79 now\n"),
        ({"b": 0.5}, 1, "a: 2.00 before, not measured now\nb: 1.00 before, 0.50 now\n"),
    ],
)
def test_a_loss_of_more_than_a_tenth_fails(tmp_path, now, status, output):
    done = check(
        results(tmp_path / "old.json", a=2.0, b=1.0), results(tmp_path / "new.json", **now)
    )
    assert (done.returncode, done.stdout) == (status, output)


def test_what_is_no_result_file_is_named(tmp_path):
    old = results(tmp_path / "old.json", a=2.0)
    for new in (tmp_path / "missing.json", SCRIPT):
        done = check(old, new)
        assert done.returncode == 2
        assert "result files" in done.stderr
    assert check(old).returncode == 2
