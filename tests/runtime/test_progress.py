import fcntl
import io
import os
import struct
import termios
import types

import pytest

from resnet_jax.runtime import progress
from resnet_jax.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: `clock.now`, in seconds."""
    clock = types.SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True

    def drawn(self):
        """The states that the terminal's lines went through."""
        return [line for line in self.getvalue().replace("\x1b[K", "").split("\r") if line]


@pytest.fixture(autouse=True)
def terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


def test_plain_lines_one_an_interval(clock):
    stream = io.StringIO()
    bar = Progress(2000, stream=stream)
    for step in range(1, 201):
        clock.now += 30 if step == 1 else 0.5  # The first step compiles.
        bar.update(step)
        if step % 100 == 0:
            bar.log(step, "train", loss=0.41234, top1_error=0.1406, images_per_second=256.4, x=1.0)
    bar.log(200, "test", loss=0.5, top1_error=0.2)
    bar.write("saved a checkpoint")
    bar.close()
    assert stream.getvalue().splitlines() == [
        "step  100/2000  loss 0.412  error 14.1%  256 images/s  15:50 left",
        "step  200/2000  loss 0.412  error 14.1%  256 images/s  15:00 left",
        "step  200/2000  test  loss 0.500  error 20.0%",
        "saved a checkpoint",
    ]


def test_a_resumed_run_counts_its_own_steps_for_the_time_left(clock):
    stream = io.StringIO()
    bar = Progress(100_000, start_step=90_000, stream=stream)
    for step in (90_001, 90_002, 90_003):
        bar.update(step)
        clock.now += 1.0
    bar.log(90_003, "train", loss=1.0)
    assert stream.getvalue() == "step  90003/100000  loss 1.000  4:09:56 left\n"


def test_the_bar_is_redrawn_at_most_ten_times_a_second(clock):
    stream = Terminal()
    bar = Progress(10_000, stream=stream)
    for step in range(1, 1_001):
        clock.now += 0.001
        bar.update(step)
    assert 8 <= len(stream.drawn()) <= 11


def test_the_bar_shows_the_training_metrics_and_keeps_messages_apart(clock):
    stream = Terminal()
    bar = Progress(40, stream=stream)
    bar.update(10)
    clock.now += 10
    bar.update(20)
    bar.log(20, "train", loss=0.5, top1_error=0.25, images_per_second=128.0)
    expected = f"step 20/40  {'━' * 8}{'─' * 9}  loss 0.500  error 25.0%  128 images/s  0:20 left"
    assert stream.drawn()[-1] == expected
    bar.write("hello")
    bar.log(20, "test", loss=0.75, top1_error=0.5)
    assert stream.drawn()[-4:] == [
        "hello\n",
        expected,
        "step 20/40  test  loss 0.750  error 50.0%\n",
        expected,
    ]
    bar.close()
    assert stream.drawn()[-1] == expected + "\n"
    bar.close()
    assert stream.drawn()[-1] == expected + "\n"


def test_characters_that_the_terminal_lacks_are_not_sent(clock):
    stream = Terminal()
    stream.encoding = "ascii"
    Progress(2, stream=stream).update(1)
    assert stream.drawn() == ["step 1/2  " + "#" * 15 + "-" * 15]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    bar = Progress(2, stream=stream)
    bar.update(1)
    bar.log(1, "train", loss=1.0)
    assert stream.getvalue() == "step 1/2  loss 1.000\n"


@pytest.mark.parametrize("columns", [20, 70, 200])
def test_the_bar_fits_the_terminal(columns):
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with open(its, "w", encoding="utf-8") as stream:
        bar = Progress(1000, stream=stream)
        bar.update(500)
        bar.log(500, "train", loss=0.5, top1_error=0.25, images_per_second=128.0)
        written = os.read(ours, 10_000).decode()
    os.close(ours)
    assert all(len(line) < columns for line in written.replace("\x1b[K", "").split("\r"))
    assert ("━" in written) == (columns > 20)
