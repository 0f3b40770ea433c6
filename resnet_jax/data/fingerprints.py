"""Whether a data set is still the one that it was, told without reading all of a large one.

Hashing every byte would take ImageNet's 150 GB through the disk before the first step. What changes
a data set in practice shows in names, sizes, labels and numbers: files added, lost, replaced or
prepared anew, classes renamed. Small data sets are hashed whole, for it takes less than a second;
in a large one an image overwritten by another one of exactly as many bytes does not show.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

from .base import Source

_MOST_SIZES = 1000
_MOST_BYTES = 2**28


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns what tells a split from another one, as JSON has it.

    Returns:
      The number of `images`, their `image_shape`, the names of the `classes`, and digests of the
      `labels`, if they are in memory, and of the `files`, if the source knows them: of their names
      in order, the sizes of at most 1,000 of them, spread evenly, and the bytes in them if that
      is no more than 256 MB. In a bucket (`gs://...`) the names alone.
    """
    labels, files = getattr(source, "labels", None), getattr(source, "files", ())
    return {
        "images": len(source),
        "image_shape": list(source.image_shape),
        "classes": list(source.class_names),
        "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
        "files": _digest(getattr(source, "root", ""), files) if files else None,
    }


def _digest(root: str, files: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(files).encode(errors="surrogateescape"))
    if "://" not in root:
        sample = files[:: -(-len(files) // _MOST_SIZES)]
        sizes = [os.path.getsize(os.path.join(root, file)) for file in sample]
        digest.update(repr(sizes).encode())
        if sum(sizes) * len(files) <= _MOST_BYTES * len(sample):
            for name in files:
                with open(os.path.join(root, name), "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
