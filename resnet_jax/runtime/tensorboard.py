"""Scalars in TensorBoard's event files, without TensorFlow.

An event file is a sequence of records (length, checksum of the length, data, checksum of the data),
each record a serialised `Event` of `tensorboard/compat/proto/event.proto`. tensorboardX is not used
because it writes events in a thread, and a run hangs if that thread fails (a full disk).
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path


class EventWriter:
    """Appends scalars to a new event file, synchronously.

    Args:
      directory: folder for the event file; created if missing.
      purge_step: TensorBoard hides the folder's earlier events from this step on, so that a resumed
        run's curves do not overlap.

    Raises:
      OSError: the folder or the file cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str], purge_step: int = 0) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._file = open(directory / name, "xb")
        self._write(_field(3, b"brain.Event:2"))
        session_start = b"\x08\x01"
        self._write(_step(purge_step) + _field(7, session_start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value per tag, such as `{"train/loss": 0.5}`, and flushes.

        Raises:
          OSError: the file cannot be written.
        """
        summary = b"".join(
            _field(1, _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
            for tag, value in values.items()
        )
        self._write(_step(step) + _field(5, summary))

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))
        self._file.flush()


class TensorBoard:
    """Writes a run's metrics as TensorBoard scalars; an observer.

    Args:
      directory: folder for the event file; created if missing.
      resume_step: the step of the checkpoint that the run resumes from, or 0.
      eval_split: the evaluated split.

    Raises:
      OSError: the folder or the file cannot be written.
    """

    def __init__(
        self, directory: str | os.PathLike[str], resume_step: int = 0, eval_split: str = "eval"
    ) -> None:
        self._events = EventWriter(directory, purge_step=resume_step + 1)
        self._eval_split = eval_split

    def on_train_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the training metrics since the last call."""
        self._events.scalars(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes an evaluation's metrics."""
        tagged = {f"{self._eval_split}/{name}": value for name, value in metrics.items()}
        self._events.scalars(step, tagged)

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        self._events.close()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, data: bytes) -> bytes:
    """Returns a protobuf field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _step(step: int) -> bytes:
    return b"\x10" + _varint(step)


def _crc_table() -> list[int]:
    """Returns CRC-32C's remainder of each byte (reflected polynomial 0x82F63B78)."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
