import subprocess
import sys

import jax
import pytest

from resnet_jax.commands import _cli
from resnet_jax.data import DataError
from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.models import ModelError


@pytest.fixture(autouse=True)
def leave_this_process_as_it_is(monkeypatch):
    monkeypatch.setattr(_cli, "_silence_libraries", lambda: None)
    monkeypatch.delenv("RESNET_JAX_DEBUG", raising=False)


def run(outcome):
    """Exit status of a command that raises or returns `outcome`."""

    def main():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    with pytest.raises(SystemExit) as end:
        _cli.run(main)
    return end.value.code


@pytest.mark.parametrize("outcome", [None, 0, 3])
def test_what_a_command_returns_is_the_status(outcome, capsys):
    assert run(outcome) == outcome  # None is status 0 to `sys.exit`.
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [ModelError, DataError, ConfigError, UsageError])
def test_bad_input_is_one_line_and_status_2(kind, capsys):
    assert run(kind("no model 'resnet51';\n  see list_models()")) == 2
    expected = "resnet_jax: error: no model 'resnet51'; see list_models()\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left on device", "/runs/a"), "No space left on device: /runs/a"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("cannot identify image file"), "cannot identify image file"),
        (MemoryError(), "MemoryError"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing "params/0" in database at local file "/a/b":'
                " Failed to write 5 bytes to file 6: No space left on device [os_error_code='28']"
            ),
            "No space left on device: /a/b",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nmore"),
            "RESOURCE_EXHAUSTED: 3 GiB",
        ),
    ],
)
def test_a_failure_of_the_run_is_one_line_and_status_1(failure, said, capsys):
    assert run(failure) == 1
    expected = f"resnet_jax: failed: {said} (RESNET_JAX_DEBUG=1 shows the traceback)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "status"), [(OSError("gone"), 1), (ModelError("bad"), 2), (KeyboardInterrupt(), 130)]
)
def test_the_traceback_comes_when_asked_for(error, status, capsys, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_DEBUG", "1")
    assert run(error) == status
    assert capsys.readouterr().err.startswith("Traceback")


def test_an_interrupt_is_status_130(capsys):
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "resnet_jax: interrupted\n"


@pytest.mark.parametrize("bug", [ValueError("from a library"), TypeError("ours"), KeyError("x")])
def test_a_bug_keeps_its_traceback(bug):
    def main():
        raise bug

    with pytest.raises(type(bug)) as caught:
        _cli.run(main)
    assert caught.value is bug


def test_argparse_errors_are_one_line(capsys):
    parser = _cli.ArgumentParser(prog="python -m resnet_jax plot")
    parser.add_argument("--output", required=True)
    with pytest.raises(UsageError, match="--output; see python -m resnet_jax plot --help"):
        parser.parse_args([])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("debug", ["", "1"])
def test_libraries_are_silent_unless_asked(debug, monkeypatch):
    monkeypatch.setenv("RESNET_JAX_DEBUG", debug)
    program = """
import warnings
from resnet_jax.commands import _cli
def main():
    from absl import logging
    import logging as python_logging
    logging.warning("chatter of absl")
    python_logging.getLogger("matplotlib.font_manager").warning("chatter of fonts")
    warnings.warn("chatter of a library")
_cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("chatter") >= 3 if debug else done.stderr == ""


def test_a_failure_does_not_wait_for_the_threads_of_a_save():
    program = """
import threading, time
from resnet_jax.commands import _cli
def main():
    threading.Thread(target=time.sleep, args=[60]).start()
    print("so far")
    raise OSError(30, "Read-only file system", "run/checkpoints")
_cli.run(main)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "so far\n")
    assert done.stderr.startswith("resnet_jax: failed: Read-only file system: run/checkpoints")
