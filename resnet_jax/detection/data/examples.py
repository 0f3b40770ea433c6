"""Images with boxes: the protocol of a source, and the one place where boxes are checked."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64, UInt8
from PIL import Image

from resnet_jax.data.images.decode import check_size
from resnet_jax.data.sources.base import Source, broken_image
from resnet_jax.errors import DataError

ON_BAD_BOX = ("error", "skip")
"""Effects of a box that cannot be used: an error, or leaving out the box with a notice."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """The annotated objects of one image.

    Attributes:
      boxes: half-open (x1, y1, x2, y2) in pixels of the image as stored: a width is x2 - x1.
        float32 in sources.
      labels: the class of each box, 0 to the number of classes - 1.
      is_crowd: whether a box surrounds a group of objects (COCO).
      is_difficult: whether a box is marked difficult (VOC).
      areas: the area of each object in square pixels, of its mask where COCO states it.
      height: the image's height in pixels.
      width: the image's width in pixels.
      image_id: the image's id in the data set; files of results repeat it.
      name: the image's name, for messages.
    """

    boxes: Float[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    is_difficult: Bool[np.ndarray, " n"]
    areas: Float64[np.ndarray, " n"]
    height: int
    width: int
    image_id: int | str
    name: str

    @property
    def is_target(self) -> Bool[np.ndarray, " n"]:
        """Which boxes a detector has to find: neither crowds nor difficult ones."""
        return ~(self.is_crowd | self.is_difficult)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DetectionExample(Truth):
    """An image with its annotated objects: an element of a source.

    Attributes:
      image: an image file, or its pixels.
    """

    image: bytes | UInt8[np.ndarray, "h w c"]


@runtime_checkable
class DetectionSource(Protocol):
    """A sequence of images with boxes; the detection task accepts any object with these attributes.

    It may also have `root` and `files`, the folder and the names of its files, for a fingerprint,
    and `notices`, lines for people that `train` and `evaluate` print.
    """

    @property
    def name(self) -> str:
        """The data set's name, for messages and records."""
        ...

    @property
    def split(self) -> str:
        """The split, for messages and records."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        ...

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id of each class in files of results."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> DetectionExample: ...

    def truth(self, index: int, /) -> Truth:
        """Returns an image's objects without reading the image."""
        ...

    def describe(self, index: int, /) -> str:
        """Returns an image's name in the data set."""
        ...


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Annotations:
    """The objects of all images, in few large arrays.

    Attributes:
      names: the name of each image.
      image_ids: the id of each image.
      sizes: height and width of each image in pixels.
      starts: the objects of image i are the rows from `starts[i]` to `starts[i + 1]`.
      boxes: see `Truth`; float64 until they are checked.
      labels: see `Truth`.
      is_crowd: see `Truth`.
      is_difficult: see `Truth`.
      areas: see `Truth`; NaN means the area of the box.
    """

    names: tuple[str, ...]
    image_ids: tuple[int | str, ...]
    sizes: Int32[np.ndarray, "images 2"]
    starts: Int64[np.ndarray, " starts"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]
    is_crowd: Bool[np.ndarray, " n"]
    is_difficult: Bool[np.ndarray, " n"]
    areas: Float64[np.ndarray, " n"]

    @classmethod
    def stack(cls, truths: Iterable[Truth]) -> "Annotations":
        """Returns the objects of some images, at least one."""
        all_ = list(truths)
        counts = [len(truth.labels) for truth in all_]
        return cls(
            names=tuple(truth.name for truth in all_),
            image_ids=tuple(truth.image_id for truth in all_),
            sizes=np.array([(truth.height, truth.width) for truth in all_], np.int32),
            starts=np.cumsum([0, *counts], dtype=np.int64),
            **{key: np.concatenate([getattr(truth, key) for truth in all_]) for key in _COLUMNS},
        )

    def __len__(self) -> int:
        return len(self.names)

    def truth(self, index: int) -> Truth:
        """Returns the objects of one image."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        rows = slice(self.starts[index], self.starts[index + 1])
        height, width = self.sizes[index].tolist()
        return Truth(
            height=height,
            width=width,
            image_id=self.image_ids[index],
            name=self.names[index],
            **{key: getattr(self, key)[rows] for key in _COLUMNS},
        )

    @property
    def images(self) -> Int64[np.ndarray, " n"]:
        """The index of each object's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def keep(self, kept: Bool[np.ndarray, " n"]) -> "Annotations":
        """Returns the same images with some of the objects."""
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts].astype(np.int64)
        columns = {key: getattr(self, key)[kept] for key in _COLUMNS}
        return dataclasses.replace(self, starts=starts, **columns)


_COLUMNS = ("boxes", "labels", "is_crowd", "is_difficult", "areas")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AnnotatedImages:
    """A `DetectionSource` whose annotations are in memory and whose images are read when needed.

    Attributes:
      annotations: the checked objects of all images.
      read: returns the file of an image; it may raise `BadImageError`.
      class_names: one name per class.
      category_ids: the id of each class in files of results.
      name: the data set's name, for messages and records.
      split: the split, for messages and records.
      root: the folder of the source's files.
      files: the names of the source's files: images, annotations or records.
      notices: lines for people about what was found.
    """

    annotations: Annotations
    read: Callable[[int], bytes]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    name: str
    split: str
    root: str = ""
    files: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[None, None, int]:
        """(height, width, channels); images differ in size and become RGB."""
        return None, None, 3

    @property
    def labels(self) -> Int32[np.ndarray, " n"]:
        """The class of every box of the split; a fingerprint includes them."""
        return self.annotations.labels

    @property
    def max_boxes(self) -> int:
        """The largest number of boxes in an image."""
        return int(np.diff(self.annotations.starts).max())

    def __len__(self) -> int:
        return len(self.annotations)

    def truth(self, index: int) -> Truth:
        """Returns an image's objects without reading the image."""
        return self.annotations.truth(index)

    def describe(self, index: int) -> str:
        """Returns an image's name in the data set."""
        return self.annotations.names[index]

    def __getitem__(self, index: int) -> DetectionExample:
        truth, image = self.truth(index), self.read(index)
        try:
            height, width = image_size(image)
        except OSError as error:
            raise broken_image(cast(Source, self), index, error) from error
        if (height, width) != (truth.height, truth.width):
            turned = (width, height) == (truth.height, truth.width)
            hint = ", turned: orientations in EXIF are not applied" if turned else ""
            reason = (
                f"it is {width}x{height} px, its annotation says {truth.width}x{truth.height}{hint}"
            )
            raise broken_image(cast(Source, self), index, reason)
        fields = {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}
        return DetectionExample(image=image, **fields)


def image_size(image: bytes) -> tuple[int, int]:
    """Returns the height and width that the header of an image file states.

    Raises:
      OSError: it is not an image, or has too many pixels.
    """
    try:
        width, height = Image.open(io.BytesIO(image)).size
    except OSError:
        raise
    except Exception as error:  # Damaged files make Pillow raise any exception.
        raise OSError(f"it cannot be decoded: {error or type(error).__name__}") from error
    check_size(height, width)
    return height, width


def checked(
    annotations: Annotations,
    *,
    class_names: Sequence[str],
    split: str,
    name: str,
    on_bad_box: str = "error",
    place: Callable[[str], str] = str,
) -> tuple[Annotations, tuple[str, ...]]:
    """Checks all boxes of a split, and clips those that jut out of their images.

    Args:
      annotations: the objects as their files have them.
      class_names: one name per class.
      split: the split's name, for messages.
      name: the data set's name, for messages.
      on_bad_box: effect of a box without width or height, outside its image or with a coordinate
        that is not finite: "error" raises, "skip" leaves it out.
      place: returns where an image's boxes are, such as `photo.xml`, from the image's name.

    Returns:
      The annotations with float32 boxes, and lines for people about what was changed or is missing.

    Raises:
      DataError: a box cannot be used, or there is none.
    """
    if on_bad_box not in ON_BAD_BOX:
        raise DataError(f"on_bad_box is {on_bad_box!r}; choose from {', '.join(ON_BAD_BOX)}")
    raw, images = annotations.boxes, annotations.images
    limits = annotations.sizes[images][:, [1, 0, 1, 0]]
    boxes = np.clip(raw, 0, limits).astype(np.float32)
    # A comparison with NaN is false.
    good = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(raw).all(axis=1)
    notices = []
    if bad := np.flatnonzero(~good).tolist():
        first = _complaint(annotations, bad[0], place)
        if on_bad_box == "error":
            raise DataError(f"{first}; remove it, or set config.on_bad_box=skip")
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        notices.append(f"{name}: {_count(len(bad))} of {split!r} left out, because {first}{more}")
    jutting = good & (np.abs(boxes - raw) > 1).any(axis=1)
    if jutting.any():
        notices.append(
            f"{name}: {_count(int(jutting.sum()))} of {split!r} clipped to the image, "
            f"first in {place(annotations.names[images[jutting.argmax()]])}"
        )
    sides = boxes[:, 2:].astype(float) - boxes[:, :2]
    areas = np.where(np.isnan(annotations.areas), sides.prod(axis=1), annotations.areas)
    annotations = dataclasses.replace(annotations, boxes=boxes, areas=areas).keep(good)
    if not len(annotations.labels):
        raise DataError(
            f"split {split!r} of {name!r} has no box in any of its {len(annotations)} images; "
            "annotate them, or choose another split"
        )
    there = set(annotations.labels.tolist())
    missing = [each for label, each in enumerate(class_names) if label not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        notices.append(f"{name}: no box in {split!r} for {shown}")
    return annotations, tuple(notices)


def _complaint(annotations: Annotations, row: int, place: Callable[[str], str]) -> str:
    """Returns what is wrong with a box; boxes are counted from 1."""
    image = int(annotations.images[row])
    number = row - int(annotations.starts[image]) + 1
    x1, y1, x2, y2 = annotations.boxes[row].tolist()
    where = f"box {number} of {place(annotations.names[image])}"
    if not np.isfinite(annotations.boxes[row]).all():
        return (
            f"{where} has a coordinate that is not a finite number: {x1:g}, {y1:g}, {x2:g}, {y2:g}"
        )
    rounded = np.clip(annotations.boxes[row], -1e9, 1e9).astype(np.float32)
    if (rounded[2:] <= rounded[:2]).any():
        return f"{where} is {x2 - x1:g} px wide and {y2 - y1:g} high"
    height, width = annotations.sizes[image].tolist()
    return (
        f"{where} is outside the image of {width}x{height} px: x from {x1:g} to {x2:g}, y from "
        f"{y1:g} to {y2:g}"
    )


def _count(number: int) -> str:
    return f"{number} {'box' if number == 1 else 'boxes'}"
