"""docs/reliability.md: every test that it names is there, and every promise names one."""

import ast
import re
from pathlib import Path

import pytest

from resnet_jax.training.loop import MAX_ROLLBACKS, ROLLBACK_FACTOR
from resnet_jax.training.report import EXPLODED

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_and_every_fault_is_promised():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 12 and all("`tests/" in row.split(" | ")[-1] for row in rows)
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            assert (f"tests/faults/{path.name}", name) in NAMED


def test_its_figures():
    assert (EXPLODED, MAX_ROLLBACKS, ROLLBACK_FACTOR) == (1e4, 5, 0.5)
    for words in ("above 10,000,", "at most 5 times", "half the learning rate"):
        assert words in TEXT
