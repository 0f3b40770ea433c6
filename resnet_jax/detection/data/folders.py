"""What COCO and VOC folders share: splits of annotated image files that become a source."""

import dataclasses
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from etils import epath

from resnet_jax.data.sources.base import broken_image, read_example
from resnet_jax.data.sources.files import FolderSource, select
from resnet_jax.data.sources.listing import Listed, Listing, is_remote
from resnet_jax.detection.data.examples import (
    AnnotatedImages,
    Annotations,
    Truth,
    checked,
    image_size,
)
from resnet_jax.errors import DataError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedFolder:
    """The annotated image files of some splits.

    Attributes:
      name: the data set's name, for messages.
      root: the folder of the files.
      splits: split → the file of each image, below `root`, with its objects, not yet checked; an
        image of unknown size has the height 0.
      class_names: one name per class.
      category_ids: the id of each class in files of results.
      annotation_files: names of the files with the annotations, below `root`.
      place: returns where an image's boxes are, from the image's name.
      notices: lines for people about what was found.
    """

    name: str
    root: str
    splits: Mapping[str, Sequence[tuple[str, Truth]]]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    annotation_files: tuple[str, ...]
    place: Callable[[str], str]
    notices: tuple[str, ...] = ()

    def open(self, split: str, on_bad_box: str = "error") -> AnnotatedImages:
        """Returns a split in TFDS's syntax; slices are those of `data.open_source`.

        Raises:
          DataError: there is no such split, an image file is missing, or a box cannot be used.
        """
        all_ = [image for images in self.splits.values() for image in images]
        numbers = iter(range(len(all_)))
        listed = {
            name: [Listed(file, next(numbers), truth.name) for file, truth in images]
            for name, images in self.splits.items()
        }
        chosen = select(split, Listing(self.root, listed, self.class_names), self.name)
        files, truths = zip(*(all_[image.label] for image in chosen), strict=True)
        self._check_files(files, truths)
        no_labels = np.zeros(len(files), np.int32)
        images = FolderSource(self.root, files, no_labels, self.class_names, self.name, split)
        annotations, notices = checked(
            Annotations.stack(map(_sized, truths, range(len(truths)), [images] * len(truths))),
            class_names=self.class_names,
            split=split,
            name=self.name,
            on_bad_box=on_bad_box,
            place=self.place,
        )
        return AnnotatedImages(
            annotations=annotations,
            read=_ReadFile(images),
            class_names=self.class_names,
            category_ids=self.category_ids,
            name=self.name,
            split=split,
            root=self.root,
            files=(*self.annotation_files, *files),
            notices=(*self.notices, *notices),
        )

    def _check_files(self, files: Sequence[str], truths: Sequence[Truth]) -> None:
        there: dict[str, set[str]] = {}
        for file, truth in zip(files, truths, strict=True):
            folder, name = posixpath.split(posixpath.join(self.root, file))
            if folder not in there:  # One request per folder, not one per file.
                there[folder] = set(names_in(folder))
            if name not in there[folder]:
                raise DataError(
                    f"image {self.place(truth.name)} is not in {folder}"
                    f"{did_you_mean(name, sorted(there[folder])[:10_000])}; add it, or remove its "
                    "annotation"
                )


@dataclasses.dataclass(frozen=True)
class _ReadFile:
    images: FolderSource

    def __call__(self, index: int) -> bytes:
        return bytes(read_example(self.images, index)["image"])


def _sized(truth: Truth, index: int, images: FolderSource) -> Truth:
    """Returns the objects with the image's own size if the annotation states none."""
    if truth.height > 0 and truth.width > 0:
        return truth
    try:
        height, width = image_size(bytes(read_example(images, index)["image"]))
    except OSError as error:
        raise broken_image(images, index, error) from error
    return dataclasses.replace(truth, height=height, width=width)


def make_truth(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    *,
    height: int,
    width: int,
    image_id: int | str,
    name: str,
    is_crowd: Sequence[bool] = (),
    is_difficult: Sequence[bool] = (),
    areas: Sequence[float] = (),
) -> Truth:
    """Returns the objects of an image from lists; an empty list stands for its default value."""
    number = len(labels)
    return Truth(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        is_crowd=np.array(is_crowd or [False] * number, bool),
        is_difficult=np.array(is_difficult or [False] * number, bool),
        areas=np.array(areas or [np.nan] * number, np.float64),
        height=height,
        width=width,
        image_id=image_id,
        name=name,
    )


def match_names(
    names: Sequence[str], class_names: Sequence[str] | None, place: str
) -> tuple[str, ...]:
    """Returns the given class names, or the names found if none are given.

    Args:
      names: the classes found.
      class_names: the classes to use, such as those of a training; None for those found.
      place: where they were found, for messages.

    Raises:
      DataError: a class found is not among those to use.
    """
    if class_names is None:
        return tuple(names)
    if strange := [name for name in names if name not in class_names]:
        raise DataError(
            f"{place} has the class {strange[0]!r}, which is not among "
            f"{', '.join(class_names[:5])}{', ...' if len(class_names) > 5 else ''}"
            f"{did_you_mean(strange[0], class_names)}; rename it, or train with it"
        )
    return tuple(class_names)


def names_in(folder: str) -> list[str]:
    """Returns the sorted names of the files in a folder; empty if it does not exist."""
    try:
        if is_remote(folder):
            return sorted(child.name for child in epath.Path(folder).iterdir())
        return sorted(os.listdir(folder or "."))
    except OSError:
        return []


def read_file(path: str) -> bytes:
    """Returns a file with annotations.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return bytes(epath.Path(path).read_bytes())
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read {path} ({reason}); give a file that can be read") from error
