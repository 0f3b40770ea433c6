"""The reference is TensorBoard itself, which checks each record's length and checksum."""

import math
import resource

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_jax.runtime.tensorboard import EventWriter


def read_scalars(directory):
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_written(tmp_path):
    events = EventWriter(tmp_path / "new" / "folder")
    # Steps around the lengths at which a varint grows, and a tag longer than 127 bytes.
    steps = [0, 127, 128, 16_384, 600_000, 2**40]
    for step in steps:
        events.scalars(step, {"train/loss": step + 0.5, "é" * 80: -1e-20})
    scalars = read_scalars(tmp_path / "new" / "folder")  # Flushed before it is closed.
    events.close()
    assert scalars["train/loss"] == [(step, pytest.approx(step + 0.5, rel=1e-7)) for step in steps]
    assert scalars["é" * 80] == [(step, pytest.approx(-1e-20, rel=1e-7)) for step in steps]


def test_not_a_number_stays_one(tmp_path):
    events = EventWriter(tmp_path)
    events.scalars(1, {"loss": math.nan})
    events.close()
    [(_, value)] = read_scalars(tmp_path)["loss"]
    assert math.isnan(value)


def test_a_later_file_hides_the_steps_that_it_repeats(tmp_path):
    for start, purge_step in [(1, 1), (3, 3)]:
        events = EventWriter(tmp_path, purge_step)
        for step in range(start, start + 4):
            events.scalars(step, {"loss": 10 * start + step})
        events.close()
    assert read_scalars(tmp_path)["loss"] == [(1, 11), (2, 12), (3, 33), (4, 34), (5, 35), (6, 36)]


def test_a_full_disk_is_an_error_and_no_hang(tmp_path):
    events = EventWriter(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            for step in range(1_000):
                events.scalars(step, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events.close()
