"""What is in a folder, local or in a bucket (`gs://`), and lists of images with labels."""

import dataclasses
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from etils import epath

from resnet_jax.errors import DataError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of image files, in any case, as in torchvision's `ImageFolder`."""

UNREAD_EXTENSIONS = (
    *(".apng", ".avif", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".psd"),
    *(".svg", ".tga", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".raw", ".rw2"),
)
"""Extensions of images that are left out of folders, which a notice says."""

TRAINING_NAMES = ("train", "training")
"""Names, in lower case, of the split whose classes are those of the data set."""

_SYSTEM_NAMES = ("@eadir", "__macosx", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin")


class Listed(NamedTuple):
    """An image in a list.

    Attributes:
      file: its path below the root.
      label: its class.
      key: its name within the split: TFDS's shuffling key, and its `file_name` once prepared.
    """

    file: str
    label: int
    key: str


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of some splits of a folder or a table.

    Attributes:
      root: the folder of the files.
      splits: split → its images.
      class_names: one name per class.
      notices: lines for people about what was found.
    """

    root: str
    splits: Mapping[str, Sequence[Listed]]
    class_names: tuple[str, ...]
    notices: tuple[str, ...] = ()


def is_remote(path: str) -> bool:
    """Whether a path is in a bucket."""
    return "://" in path


def is_system_name(name: str) -> bool:
    """Whether a system made a file or folder for itself: `.DS_Store`, `@eaDir`, `Thumbs.db`, ..."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def visible(name: str) -> str:
    r"""Returns a file's name as valid text: bytes that are not UTF-8 become escapes (`\xff`)."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def class_name(name: str) -> str:
    """Returns the class that a folder's name or a label means: valid text, composed (NFC)."""
    return unicodedata.normalize("NFC", visible(name))


def training_split(splits: Sequence[str]) -> str | None:
    """Returns the split whose classes are those of the data set, or None."""
    return next((split for split in splits if split.lower() in TRAINING_NAMES), None)


def list_folders(path: str) -> tuple[str, ...]:
    """Returns the sorted names of the folders in a folder; empty if it does not exist.

    Raises:
      DataError: the folder may not be read.
    """
    if is_remote(path):
        directory = epath.Path(path)
        children = directory.iterdir() if directory.is_dir() else ()
        names = [c.name for c in children if not is_system_name(c.name) and c.is_dir()]
        return tuple(sorted(names))
    try:
        with os.scandir(path) as entries:
            names = [e.name for e in entries if not is_system_name(e.name) and e.is_dir()]
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null character.
        return ()
    except OSError as error:
        _refuse(error)
    return tuple(sorted(names))


def walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields this folder and all folders below it, each with the names of the files in it.

    Raises:
      DataError: a folder may not be read.
    """
    if not is_remote(folder):
        # Links to folders are followed, as in torchvision but not in epath.
        for path, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
            folders[:] = [name for name in folders if not is_system_name(name)]
            yield path, [name for name in names if not is_system_name(name)]
        return
    names = [child.name for child in epath.Path(folder).iterdir()]
    names = [name for name in names if not is_system_name(name)]
    yield folder, names
    for name in names:
        path = posixpath.join(folder, name)
        # Checking every image would take one request per file.
        if not name.lower().endswith(IMAGE_EXTENSIONS) and epath.Path(path).is_dir():
            yield from walk(path)


def holds_images(folder: str) -> bool:
    """Whether image files lie in an existing folder directly."""
    _, names = next(walk(folder))
    return any(name.lower().endswith(IMAGE_EXTENSIONS) for name in names)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(
        f"cannot read folder {error.filename!r} ({error.strerror}); change its permissions, or "
        "remove it"
    ) from error
