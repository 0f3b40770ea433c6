"""Scalars in TensorBoard's event files, without TensorFlow.

An event file is a sequence of records (length, checksum of the length, data, checksum of the data),
each record a serialised `Event` of `tensorboard/compat/proto/event.proto`. Written here because
tensorboardX hands events to a thread, and where that thread fails (a full disk) the run hangs.
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
      directory: folder for the event file; made if it is missing.
      purge_step: TensorBoard hides what earlier files of the folder hold from this step on, so
        that a resumed run's curves do not double.

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
        """Closes the file; nothing may be written after."""
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))
        self._file.flush()


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, data: bytes) -> bytes:
    """A protocol buffer field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _step(step: int) -> bytes:
    return b"\x10" + _varint(step)


def _crc_table() -> list[int]:
    """CRC-32C's remainders of one byte each (reflected polynomial 0x82F63B78)."""
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
