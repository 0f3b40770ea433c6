"""The command `python train.py` from outside: a run that is taken up again."""

import subprocess
import sys
from pathlib import Path

from resnet_jax.training.records import read_metrics
from tests.resnet8 import environment

ROOT = Path(__file__).parents[1]
CONFIG = "tests/resnet8.py"  # The demo itself is part of .ci/run.


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )


def test_the_same_command_goes_on_where_it_stopped(tmp_path):
    def go(num_steps):
        arguments = [f"--config.num_steps={num_steps}", "--config.log_every=2"]
        result = start("--config", CONFIG, "--workdir", str(tmp_path), *arguments)
        assert result.returncode == 0 and result.stderr == "", result.stderr
        return result.stdout.splitlines()

    first, second = go(4), go(6)
    assert "the run ends after 4; --config.scale_schedule=True fits" in first[0]
    assert first[1].startswith("first step after")
    assert [line.split("  ")[0] for line in first[2:4]] == ["step 2/4", "step 4/4"]
    assert second[0].startswith("first step after") and second[1].startswith("step 6/6")
    assert second[-1] == f"curves: {tmp_path / 'curves.png'}"
    steps = [record["step"] for record in read_metrics(tmp_path) if record["split"] == "train"]
    assert steps == [2, 4, 6]
