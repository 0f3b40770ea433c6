"""docs/results/fashion_mnist.md: its figures are those of the log beside it."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def test_the_errors_on_fashion_mnist_are_the_logs():
    lines = (RESULTS / "fashion_mnist" / "metrics.jsonl").read_text().splitlines()
    last = {record["split"]: record for record in map(json.loads, lines)}
    assert last["test"]["num_examples"] == 10_000
    page = (RESULTS / "fashion_mnist.md").read_text(encoding="utf-8")
    for record in last.values():
        assert f"| {record['top1_error']:.2%} |".replace("%", " %") in page
        assert f" {record['step']:,} steps" in page
