"""Fingerprints that detect a changed data set without reading all of a large one.

Hashing every byte of ImageNet would read 150 GB before the first step. In practice, changes show in
names, sizes, labels and counts: files added, lost, replaced or prepared again, classes renamed.
Small data sets are hashed completely, which takes less than a second. In a large one, overwriting
an image with another one of the same size in bytes goes undetected.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_jax.data.sources.base import Source
from resnet_jax.data.sources.listing import is_remote

_MOST_SIZES = 1000
_MOST_BYTES = 2**28


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns the fingerprint of a split, as JSON values.

    Returns:
      The number of `images`, their `image_shape`, the names of the `classes`, a digest of the
      `labels` if they are in memory, and a digest of the `files` if the source lists them. That
      covers their names in order, the sizes of at most 1,000 of them, evenly spaced, and their
      content if it is at most 256 MB; in a bucket (`gs://...`) only the names. For arrays without
      files, a digest of the `pixels`, up to 256 MB.
    """
    labels, files = getattr(source, "labels", None), getattr(source, "files", ())
    images = getattr(source, "images", None)
    # Arrays without files behind them are all there is of the data set.
    pixels = {}
    if isinstance(images, np.ndarray) and not files and images.nbytes <= _MOST_BYTES:
        pixels["pixels"] = hashlib.sha256(images.tobytes()).hexdigest()
    return pixels | {
        "images": len(source),
        "image_shape": list(source.image_shape),
        "classes": list(source.class_names),
        "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        "files": _digest(getattr(source, "root", ""), files) if files else None,
    }


def _digest(root: str, files: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(files).encode(errors="surrogateescape"))
    if not is_remote(root):
        sample = files[:: -(-len(files) // _MOST_SIZES)]
        sizes = [_size(os.path.join(root, file)) for file in sample]
        digest.update(repr(sizes).encode())
        if sum(size or 0 for size in sizes) * len(files) <= _MOST_BYTES * len(sample):
            for name in files:
                digest.update(_content_digest(os.path.join(root, name)))
    return digest.hexdigest()


def _size(path: str) -> int | None:
    """Returns a file's size in bytes; None if it cannot be read, as a link that leads nowhere."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def _content_digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"
