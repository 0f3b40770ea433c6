"""The table at the end: fault, times done, outcome. `make faults` does each fault many times."""

import os

import pytest

FULL = os.environ.get("RESNET_JAX_FAULTS") == "full"


@pytest.fixture
def times():
    """How often a fault is done: the first number in `make test`, the second in `make faults`."""
    return lambda few, many: many if FULL else few


@pytest.fixture
def outcome(request):
    """Notes a line of the table."""

    def note(fault, times, text):
        request.node.user_properties.append(("fault", (fault, times, text)))

    return note


def pytest_terminal_summary(terminalreporter):
    if not FULL:
        return
    rows = [("fault", "times", "outcome")]
    for result in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(result, []):
            if result != "passed":
                rows.append((report.nodeid.partition("::")[2], "", "FAILED"))
            elif report.when == "call":
                rows += [value for name, value in report.user_properties if name == "fault"]
    widths = [max(len(str(row[column])) for row in rows) for column in range(2)]
    terminalreporter.section("faults")
    for fault, times, text in rows:
        terminalreporter.write_line(f"{fault:{widths[0]}}  {times!s:>{widths[1]}}  {text}")
