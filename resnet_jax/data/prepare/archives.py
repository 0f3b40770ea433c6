"""Downloads, verifies and reads official archives; never executes code in them."""

import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import pickle
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from resnet_jax.errors import DataError

Report = Callable[[str, int, int], None]
"""A function of (activity, amount done, total amount) that shows progress; in bytes or images."""

_BLOCK = 2**22


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file of a published data set.

    Attributes:
      name: the file's name.
      digest: the published `"sha256:..."` or `"md5:..."`.
      url: its address, if it is available without an account.
    """

    name: str
    digest: str
    url: str | None = None


def digest_of(path: Path, algorithm: str, report: Report) -> str:
    """Returns a file's digest as `"algorithm:hexadecimal digits"`."""
    size, done = path.stat().st_size, 0
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            report(f"verifying {path.name}", done, size)
    return f"{algorithm}:{digest.hexdigest()}"


def verify(archive: Archive, path: Path, report: Report) -> None:
    """Raises a `DataError` if a file is not the published archive."""
    algorithm, _, expected = archive.digest.partition(":")
    digest = digest_of(path, algorithm, report)
    if digest != archive.digest:
        raise DataError(
            f"{path} is not the published {archive.name}: its {algorithm} is "
            f"{digest.partition(':')[2][:12]}..., not {expected[:12]}...; fetch it again, or give "
            "--unverified to prepare it as it is"
        )


def download(archive: Archive, directory: Path, report: Report) -> Path:
    """Downloads an archive, or its missing rest, into a directory and verifies its digest.

    Raises:
      DataError: the download fails, or is not the published archive.
    """
    path = directory / archive.name
    if path.exists():
        return path
    assert archive.url is not None
    directory.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "resnet-jax"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            if response.status != http.client.PARTIAL_CONTENT:
                start = 0
            total = start + int(response.headers.get("Content-Length") or 0)
            with open(part, "ab" if start else "wb") as file:
                while block := response.read(_BLOCK):
                    file.write(block)
                    report(f"downloading {archive.name}", file.tell(), total)
        if start + 1 < total and part.stat().st_size < total:
            raise DataError(f"the download of {archive.name} broke off; re-run to resume it")
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        # 416: the server has no more bytes, so the part is the whole file or a wrong one.
        if not (isinstance(error, urllib.error.HTTPError) and error.code == 416):
            reason = getattr(error, "reason", error)
            raise DataError(
                f"cannot download {archive.url} ({reason}); fetch {archive.name} on another "
                "machine, and give --source FILE"
            ) from error
    try:
        verify(archive, part, report)
    except DataError:
        part.unlink()
        if start:
            return download(archive, directory, report)  # From the beginning.
        raise DataError(
            f"{archive.url} did not return the published {archive.name}; try again later, or give "
            "--source FILE"
        ) from None
    part.replace(path)
    return path


def read_tar(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Returns files of a tar archive, compressed or not, by name without folders.

    Raises:
      DataError: the archive is damaged or lacks a file.
    """
    found = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if member.isfile() and name in names:
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found[name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    if missing := [name for name in names if name not in found]:
        raise DataError(
            f"{path} has no file {missing[0]!r}; it is not the published archive, fetch it again"
        )
    return found


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Returns the array in a compressed IDX file, the format of MNIST.

    Raises:
      DataError: the file is damaged or does not hold unsigned bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, error) from error
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    shape = np.frombuffer(content[4:start], ">u4").tolist() if len(content) >= start else []
    if content[:3] != b"\0\0\x08" or len(content) - start != int(np.prod(shape, dtype=object)):
        raise DataError(f"{path} is not a complete IDX file of unsigned bytes; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def unpickle(content: bytes, name: str) -> Any:
    """Loads a pickle of dictionaries, lists, numbers, strings and NumPy arrays.

    A pickle is a program; one that needs anything else is refused before that is imported.

    Raises:
      DataError: it is damaged, or needs anything else.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # A damaged pickle can raise any exception.
        raise DataError(f"{name} cannot be read ({error}); fetch the archive again") from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it needs {module}.{name}, which is refused") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it needs an external object, which is refused")


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> np.ndarray:
    # NumPy pickles every array as an empty one that its state fills.
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("it holds an array of an unknown kind")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _dtype(name: Any, *_: Any) -> np.dtype:
    name = name.decode() if isinstance(name, bytes) else name
    if name not in ("u1", "i1", "i2", "i4", "i8", "f4", "f8", "b1"):
        raise pickle.UnpicklingError(f"it holds an array of {name!r}")
    return np.dtype(name)


def _frombuffer(buffer: Any, dtype: np.dtype, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: Any, encoding: Any) -> bytes:
    # Bytes as pickled for Python 2.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text in {encoding!r}")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""  # Empty bytes as pickled for Python 2.


_ADMITTED = {
    ("__builtin__", "bytes"): _bytes,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


@dataclasses.dataclass(frozen=True)
class Member:
    """The position of a file in an uncompressed tar archive."""

    name: str
    offset: int
    size: int


def list_tar(path: Path, offset: int = 0) -> Iterator[Member]:
    """Yields the files of an uncompressed tar archive, which may start inside another one.

    Raises:
      DataError: the archive is damaged, for example truncated.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > size:
                        raise tarfile.ReadError("it is truncated")
                    if member.isfile():
                        yield Member(os.path.basename(member.name), member.offset_data, member.size)
    except tarfile.TarError as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> DataError:
    """Returns the error for an archive that cannot be read completely."""
    lines = str(reason).splitlines() or [type(reason).__name__]
    return DataError(f"{path} is damaged ({lines[0][:80].rstrip(': -')}); fetch it again")
