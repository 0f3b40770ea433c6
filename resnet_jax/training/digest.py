"""Digests of a checkpoint's files, by which damage is noticed before anything reads them.

Over the files and not over the arrays in them: a damaged file never reaches the libraries below
Orbax, which answer damage with tracebacks from their own threads, or read it without noticing; it
holds for any layout and any number of hosts; and `sha256sum --check SHA256SUMS` does the same by
hand.
"""

import hashlib
import json
import os
from pathlib import Path

SUMS = "SHA256SUMS"
"""The file of digests in a checkpoint, in the form of `sha256sum`."""

_WRITTEN_LATER = {SUMS, "commit_success.txt", "_CHECKPOINT_METADATA"}
"""Files that are not in the list: itself, and what Orbax writes around the renaming; nothing of
these two matters to what is restored."""

MARK = {"digests": SUMS}
"""What the data's position says of the digests, so that one whose list is gone is not taken for one
of a version of this package that wrote none."""


def write_sums(directory: Path) -> None:
    """Writes `SHA256SUMS`, the digest of every file below `directory`."""
    lines = [f"{_sha256(path)}  {name}\n" for name, path in sorted(_files(directory).items())]
    with open(directory / SUMS, "w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def find_damage(directory: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None if it is as it was written.

    Every file must be there, have its digest and be in the list. A checkpoint of a version that
    wrote no digests passes.
    """
    try:
        text = (directory / SUMS).read_text(encoding="utf-8")
        expected = {name: digest for digest, name in (s.split("  ", 1) for s in text.splitlines())}
        files = _files(directory)
        for name in sorted(expected.keys() | files.keys()):
            if name not in files:
                return f"{name[:80]} is missing"
            if name not in expected:
                return f"{name[:80]} is not in its {SUMS}"
            if _sha256(files[name]) != expected[name]:
                return f"{name[:80]} is not what was written"
    except FileNotFoundError:
        return None if _is_of_older_version(directory) else f"{SUMS} is missing"
    except ValueError:
        return f"{SUMS} is not what was written"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None


def find_steps(directory: Path) -> list[int]:
    """Returns the steps of the checkpoints in a directory; one being written has another name."""
    return sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal())


def _files(directory: Path) -> dict[str, Path]:
    """Every file below a checkpoint that its list of digests is to hold, by its relative path."""
    paths = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*")}
    return {
        name: path for name, path in paths.items() if path.is_file() and name not in _WRITTEN_LATER
    }


def _is_of_older_version(directory: Path) -> bool:
    try:
        position = json.loads((directory / "data" / "metadata").read_text(encoding="utf-8"))
        return not position.keys() & MARK.keys()
    except (OSError, ValueError, AttributeError):
        return False


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
