"""What a long run takes, and what is left of it at its end."""

import json
import subprocess
import sys

import pytest

from tests.faults import processes
from tests.faults.conftest import FULL


@pytest.mark.parametrize("workers", [0, 1] if FULL else [0])
def test_memory_stays_flat(tmp_path, workers, times, outcome):
    num_steps, often = times((160, 40), (5000, 250))
    changes = {
        **{"model": "resnet20_cifar", "dataset": "fashion_mnist_mini", "augmentation": "cifar"},
        **{"preprocess": "cifar", "batch_size": 4, "eval_split": "test[:64]", "log_every": 10},
        **{"num_steps": num_steps, "schedule_steps": num_steps, "loader_workers": workers},
        **{"eval_every": often, "checkpoint_every": often},
    }
    driver = [sys.executable, "-m", "tests.faults.memory", str(tmp_path), json.dumps(changes)]
    result = subprocess.run(
        driver, cwd=processes.ROOT, env=processes.environment(), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert len(found["resident"]) == num_steps // 10
    # The first evaluations and checkpoints make what stays.
    warm = max(found["resident"][: num_steps // 20])
    growth = max(found["resident"]) / warm - 1
    assert growth < 0.02, f"{warm / 1e6:.0f} MB grew by {growth:.1%}"
    # Grain's pool, where there are workers, keeps four daemon threads, and Python its tracker of
    # resources, until the process ends.
    assert found["threads"] == ["MainThread"] or workers
    assert [name for name in found["children"] if "resource_tracker" not in name] == []
    assert found["shared"] == []
    outcome(
        f"{num_steps} steps, {num_steps // often} evaluations and checkpoints, {workers} workers",
        1,
        f"{warm / 1e6:.0f} MB grew by {growth:.2%}; no thread, process or shared memory left",
    )
