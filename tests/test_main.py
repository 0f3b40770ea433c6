import subprocess
import sys

import pytest

import resnet_jax
from resnet_jax import __main__
from resnet_jax.commands import _cli


@pytest.fixture(autouse=True)
def leave_this_process_as_it_is(monkeypatch):
    monkeypatch.setattr(_cli, "_silence_libraries", lambda: None)


def run(*argv):
    with pytest.raises(SystemExit) as end:
        __main__.main(argv)
    return end.value.code or 0


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_the_commands_with_what_they_do(argv, capsys):
    assert run(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  plot       Draw the error curves of one or more runs in one picture." in lines
    assert not any("_cli" in line for line in lines)


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == resnet_jax.__version__


def test_as_a_program_bad_usage_is_one_line_without_a_traceback():
    command = [sys.executable, "-m", "resnet_jax", "plot"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "resnet_jax: error: the following arguments are required: DIR, --output; "
        "see python -m resnet_jax plot --help\n"
    )
