"""The tests that docs/security.md names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_test_named_is_there():
    written = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) >= 10
    assert [name for name in named if f"def {name}(" not in written] == []
    for file in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / file).is_file()


def test_every_row_named_is_there():
    rows = (ROOT / "tests" / "test_bad_input.py").read_text(encoding="utf-8")
    for names in re.findall(r"rows? ((?:`[^`]+`(?:, | to )?)+)", PAGE):
        for name in re.findall(r"`([^`]+)`", names):
            assert name in rows
