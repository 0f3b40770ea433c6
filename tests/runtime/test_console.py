"""Output whose reader, terminal, descriptor or alphabet is missing, also in real processes."""

import errno
import io
import os
import subprocess
import sys

import pytest

from resnet_jax.runtime.console import READER_GONE, Console, unfailing
from resnet_jax.runtime.progress import Progress

PROGRAM = """
import sys
from resnet_jax.commands import _cli
from resnet_jax.runtime.console import outlive_console
def main():
    {first}
    {then}
    with open("done", "w") as file:  # It must not take the place of a closed stream.
        assert file.fileno() > 2
    print("end")
_cli.run(main)
"""
BUFFERED = os.environ | {"PYTHONUNBUFFERED": ""}
FAR_MORE_THAN_A_PIPE_HOLDS = "for number in range(30_000): print(number, flush=number == 0)"


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text=""):
        raise self.error

    flush = write


GONE = [OSError(errno.EPIPE, "gone"), OSError(errno.EIO, "gone"), ValueError("closed file")]
FULL = OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("error", [*GONE, FULL])
def test_a_run_goes_on_without_its_console(error):
    bar = Progress(10, stream=Failing(error))
    bar.update(1)
    bar.log(1, "train", loss=1.0)
    bar.log(1, "test", loss=1.0)
    bar.close()


def test_a_run_goes_on_with_a_console_that_is_closed():
    stream = io.StringIO()
    stream.close()
    Progress(10, stream=stream).write("hello")
    unfailing(None).write("hello")
    assert not unfailing(None).isatty()


@pytest.mark.parametrize(("encoding", "expected"), [("ascii", r"\u732b \xe9"), ("latin1", "")])
def test_characters_that_a_console_lacks_are_escaped(encoding, expected):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Progress(10, stream=stream).write("猫 é")
    assert raw.getvalue().decode(encoding).strip() == (expected or r"\u732b é")


def test_a_slow_terminal_gets_the_rest_later():
    ours, its = os.pipe()
    os.set_blocking(its, False)
    with open(its, "w") as stream:
        console, written = unfailing(stream), 0
        while written < 200_000:
            written += console.write("x" * 1000)
            console.flush()
        received = len(os.read(ours, 1_000_000))
        console.write("later")
        console.flush()
        assert os.read(ours, 1_000_000).endswith(b"later") and received > 60_000
    os.close(ours)


@pytest.mark.parametrize("error", GONE)
def test_output_that_nobody_reads_ends_a_command_that_only_prints(error):
    with pytest.raises(SystemExit) as end:
        Console(Failing(error), is_output=True, ends_process=True).write("hello")
    assert end.value.code == READER_GONE
    Console(Failing(error), is_output=True).write("hello")


@pytest.mark.parametrize("ends_process", [False, True])
def test_a_full_disk_is_an_error_of_what_a_command_is_for(ends_process):
    with pytest.raises(OSError, match="full"):
        Console(Failing(FULL), is_output=True, ends_process=ends_process).write("hello")


def start(folder, first, then, shell='exec "$@"', **variables):
    program = PROGRAM.format(first=first, then=then)
    return subprocess.Popen(
        ["sh", "-c", shell, "sh", sys.executable, "-c", program],
        cwd=folder,
        env=BUFFERED | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("first", "status"), [("outlive_console()", 0), ("", READER_GONE)], ids=["run", "print"]
)
@pytest.mark.parametrize("then", [FAR_MORE_THAN_A_PIPE_HOLDS, "print(1, flush=True)"])
def test_a_reader_that_goes(tmp_path, first, status, then):
    process = start(tmp_path, first, f"print(0, flush=True); sys.stdin.read()\n    {then}")
    process.stdout.readline(), process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")
    assert (tmp_path / "done").exists() == (status == 0)


def test_the_help_of_a_command_and_a_reader_that_goes(tmp_path):
    process = start(tmp_path, "sys.stdin.read(); print('help'); raise SystemExit(0)", "")
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (READER_GONE, "")


def test_a_script_of_ones_own_and_a_reader_that_goes():
    """Nothing is left that would fail when Python flushes its own stream at exit."""
    program = """
import sys
from resnet_jax.runtime.progress import Progress
bar = Progress(10)
bar.write("0"), sys.stdin.read(), bar.write("1"), bar.write("2")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=BUFFERED,
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        text=True,
    )
    process.stdout.readline(), process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_from_the_start(tmp_path, closed):
    process = start(tmp_path, "", "print('\\u732b')", shell=f'exec "$@" {closed}')
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert (tmp_path / "done").exists()


def test_a_full_disk_fails_a_command_that_only_prints(tmp_path):
    process = start(tmp_path, "", "", shell='exec "$@" >/dev/full')
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("resnet_jax: failed: No space left on device") and err.count("\n") == 1


def test_an_ascii_console(tmp_path):
    process = start(tmp_path, "", "print('\\u732b')", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "\\u732b\nend\n", "")
