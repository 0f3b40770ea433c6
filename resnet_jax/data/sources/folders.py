"""Folders of images: `FOLDER/SPLIT/CLASS/*.jpg` or `FOLDER/CLASS/*.jpg`."""

import collections
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import NoReturn

from resnet_jax.data.sources.listing import (
    IMAGE_EXTENSIONS,
    TRAINING_NAMES,
    UNREAD_EXTENSIONS,
    Listed,
    Listing,
    class_name,
    holds_images,
    is_remote,
    list_folders,
    training_split,
    visible,
    walk,
)
from resnet_jax.data.sources.metadata import find_prepared
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean
from resnet_jax.runtime.files import expanded

SPLIT_NAMES = (*TRAINING_NAMES, "val", "valid", "validation", "test", "testing")
"""Names of folders, in lower case, that are always splits, not classes."""

_LAYOUT = "it should hold train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg"


def is_path(dataset: str) -> bool:
    """Whether a data set's name is written as a path: `/...`, `./...`, `~/...`, `gs://...`."""
    return dataset.startswith(("/", "./", "../", "~")) or dataset in (".", "..") or "://" in dataset


def is_folder(dataset: str) -> bool:
    """Whether a data set's name denotes a folder of images.

    It is a path (see `is_path`), or the name of a folder here that `looks_like_images`.
    """
    return is_path(dataset) or looks_like_images(dataset)


def looks_like_images(folder: str) -> bool:
    """Whether a folder contains `train` or `val`, or at least two folders, all with images."""
    folders = list_folders(folder)
    if "train" in folders or "val" in folders:
        return True
    return len(folders) > 1 and all(holds_images(f"{folder}/{name}") for name in folders)


def list_folder(folder: str, wanted: Sequence[str] | None = None) -> Listing:
    """Lists splits of a folder of images.

    The folders in it are splits, unless images lie in them directly: then they are classes, and all
    images are the split `train`. Names such as `train` and `val` (`SPLIT_NAMES`) are always splits.
    Classes are the folders in the training split (in each wanted split if there is none), sorted by
    name; images are sorted within each class as in torchvision's `ImageFolder`.

    Args:
      folder: the folder's path.
      wanted: the splits to list; None for all whose images have classes.

    Raises:
      UnknownSplitError: there is no such split, or its images have no classes.
      DataError: it is not a folder of images, or a split or class has no images.
    """
    root = expanded(folder)
    try:
        return _list_folder(folder, root, wanted)
    except DataError:
        # A folder with such names is meant to hold images, whatever else lies in it.
        found = None if _has_splits(list_folders(root)) else find_prepared(root)
        if found:
            name, data_dir = found
            raise DataError(
                f"{folder!r} holds no images but a prepared data set; give {name} as the data set "
                f"and {data_dir} as the data_dir"
            ) from None
        raise


def _list_folder(folder: str, root: str, wanted: Sequence[str] | None) -> Listing:
    folders = list_folders(root)
    if not folders:
        raise DataError(_not_a_folder(folder, root))
    are_classes = _are_classes(folder, root, folders, wanted)
    # The path of each split below the root.
    paths = {"train": ""} if are_classes else {name: name for name in folders}
    notices = []
    if wanted is None:
        blind = [name for name in paths if _lacks_classes(posixpath.join(root, paths[name]))]
        wanted = [name for name in paths if name not in blind] or list(paths)
        notices += [
            f"{visible(folder)}: split {visible(name)!r} is left out, because its images have no "
            "classes; predict reads them"
            for name in blind
        ]
    for name in wanted:
        if name not in paths:
            _refuse_split(name, folder, root, folders, are_classes)
    training = training_split(tuple(paths))
    of = [training] if training else wanted
    named = {tuple(_class_folders(posixpath.join(root, paths[name]))) for name in of}
    if len(named) > 1:
        raise DataError(
            f"splits {', '.join(map(repr, wanted))} of {folder!r} have different classes; choose "
            "one, or rename the one to train on to 'train'"
        )
    (class_names,) = named
    splits = {}
    for name in wanted:
        splits[name], unread = list_images(root, name, class_names, paths[name], training or name)
        if unread:
            notices.append(
                f"{visible(folder)}: split {visible(name)!r} leaves out {unread}, which are not "
                "read; convert them to JPEG or PNG"
            )
    return Listing(root, splits, class_names, (*notices, *_order_notices(class_names, folder)))


def list_images(
    root: str,
    split: str,
    class_names: Sequence[str],
    below: str | None = None,
    training: str = "train",
) -> tuple[list[Listed], str]:
    """Lists a split's images, sorted as in `ImageFolder`.

    Args:
      root: the folder.
      split: the split's name.
      class_names: the classes, in the order of their labels.
      below: the path of the split's class folders below `root`; by default the split's name.
      training: the split whose classes these are, for messages.

    Returns:
      The images, and what is left out, such as "3 files ending in .heic", or "".

    Raises:
      UnknownSplitError: the split's images have no classes.
      DataError: there is no class, or a class is empty or not in `class_names`.
    """
    below = split if below is None else below
    there = _class_folders(posixpath.join(root, below))
    if not there and _lacks_classes(posixpath.join(root, below)):
        raise UnknownSplitError(
            f"the images of split {split!r} of folder {root!r} have no classes, because they are "
            f"not in {split}/CLASS/; sort them into such folders, or let predict read them"
        )
    if not there:
        raise DataError(
            f"split {split!r} of folder {root!r} is empty; it should hold {split}/CLASS/*.jpg"
        )
    if strange := sorted(there.keys() - set(class_names)):
        raise DataError(
            f"class {strange[0]!r} is in {split!r} of folder {root!r} but not in {training!r}"
            f"{did_you_mean(strange[0], class_names)}; every class needs training images"
        )
    images: list[Listed] = []
    unread: collections.Counter[str] = collections.Counter()
    start = len(below) + 1 if below else 0
    for label, name in enumerate(class_names):
        if name not in there:
            continue  # No other class gets its label.
        files, others = _files(root, posixpath.join(below, there[name]))
        images += [Listed(file, label, file[start:]) for file in files]
        unread += others
        if not files:
            found = f" but {_counted(others)}" if others else ""
            raise DataError(
                f"class {name!r} of split {split!r} of folder {root!r} has no images{found}; "
                f"remove the folder, or put {', '.join(IMAGE_EXTENSIONS)} files into it"
            )
    return images, _counted(unread)


def _are_classes(
    folder: str, root: str, folders: Sequence[str], wanted: Sequence[str] | None
) -> bool:
    """Whether the folders in a folder are classes, not splits."""
    if _has_splits(folders):
        return False
    direct = [name for name in folders if holds_images(posixpath.join(root, name))]
    if not direct:
        return False
    for name in folders:
        path = posixpath.join(root, name)
        if name in direct or not any(holds_images(f"{path}/{each}") for each in list_folders(path)):
            continue
        if wanted is not None and set(wanted) <= set(folders):
            return False
        raise DataError(
            f"{folder!r} has images in {direct[0]!r}, as if that were a class, and in folders in "
            f"{name!r}, as if that were a split; put all classes into {folder}/train"
        )
    return True


def _has_splits(folders: Sequence[str]) -> bool:
    return any(name.lower() in SPLIT_NAMES for name in folders)


def _class_folders(path: str) -> dict[str, str]:
    """Returns class → name of its folder, sorted by class, of the folders in a folder."""
    classes: dict[str, str] = {}
    for name in list_folders(path):
        other = classes.setdefault(class_name(name), name)
        if other != name:
            raise DataError(
                f"folders {other!a} and {name!a} in {path!r} are one class in two spellings; move "
                "the images of one into the other"
            )
    return dict(sorted(classes.items()))


def _lacks_classes(path: str) -> bool:
    """Whether images lie in a split's folder, not in folders in it."""
    return not list_folders(path) and holds_images(path)


def _files(root: str, below: str) -> tuple[list[str], collections.Counter[str]]:
    """Returns the images below a folder, and the numbers of files left out by extension."""
    folder = posixpath.join(root, below)
    images: list[str] = []
    unread: collections.Counter[str] = collections.Counter()
    for parent, names in sorted(walk(folder)):
        inner = posixpath.join(below, posixpath.relpath(parent, folder))
        for name in sorted(names):
            extension = posixpath.splitext(name)[1].lower()
            if extension in IMAGE_EXTENSIONS:
                images.append(posixpath.normpath(posixpath.join(inner, name)))
            elif extension in UNREAD_EXTENSIONS:
                unread[extension] += 1
    return images, unread


def _counted(extensions: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count} {'file' if count == 1 else 'files'} ending in {extension}"
        for extension, count in sorted(extensions.items())
    )


def _order_notices(class_names: Sequence[str], folder: str) -> list[str]:
    """Returns a notice if the classes are numbers, but not in the order of numbers."""
    if not all(name.isdecimal() for name in class_names):
        return []
    for first, second in zip(class_names, class_names[1:], strict=False):
        if int(first) > int(second):
            return [
                f"{visible(folder)}: classes are in the order of text, {first} before {second}; "
                f"for that of numbers, rename {second} to {second.zfill(len(first))} and so on, "
                "or give a table (.csv) of files and labels"
            ]
    return []


def _not_a_folder(folder: str, root: str) -> str:
    """Returns the error for a folder in which there are no folders."""
    if not is_remote(root) and os.path.isfile(root):
        return (
            f"{folder!r} is a file; give a folder of images ({_LAYOUT}) or a table (.csv, .parquet)"
        )
    if is_remote(root) or not os.path.isdir(root) or not holds_images(root):
        return f"{folder!r} is not a folder of images; {_LAYOUT}"
    return (
        f"{folder!r} holds images but no folders of classes; {_LAYOUT}; or list files and labels "
        "in a table (.csv), or let predict read the folder"
    )


def _refuse_split(
    name: str, folder: str, root: str, folders: Sequence[str], are_classes: bool
) -> NoReturn:
    """Raises the error for a split that does not exist."""
    listed = ", ".join(folders[:5]) + (", ..." if len(folders) > 5 else "")
    if are_classes:
        raise UnknownSplitError(
            f"no split {name!r} in folder {folder!r}: it holds the classes {listed}, not splits, "
            "so all its images are 'train'; slice that, such as 'train[:80%]' and 'train[80%:]'"
        )
    inner = [each for each in folders if name in list_folders(posixpath.join(root, each))]
    there = f", but in {posixpath.join(folder, inner[0])!r}: give that" if inner else ""
    raise UnknownSplitError(
        f"no split {name!r} in folder {folder!r}{there}{did_you_mean(name, folders)}; choose from "
        f"{listed}, slices and sums of them such as 'train[:90%]'"
    )
