"""TFDS's data sets of detection in ArrayRecord form, such as `coco/2017` and `voc/2007`.

They need no TensorFlow. All records are read once when a split is opened: that checks the boxes and
finds the images' sizes, which the batches' canvases need.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax.data.sources.base import BadImageError
from resnet_jax.data.sources.records import damaged_records, open_builder, open_records
from resnet_jax.detection.data.examples import (
    AnnotatedImages,
    Annotations,
    Truth,
    checked,
    image_size,
)
from resnet_jax.detection.data.folders import make_truth, match_names
from resnet_jax.detection.data.voc import half_open, zero_notice
from resnet_jax.errors import DataError

BUNDLED_DIR = Path(__file__).parents[1] / "bundled"
"""The `data_dir` of the bundled data sets."""

BUNDLED = ("bccd_mini",)
"""Names of the bundled data sets; they need no `data_dir`."""

COCO_CATEGORY_IDS = tuple(
    number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)
"""The ids of COCO's 80 classes, which TFDS's records leave out."""

_NAMES = ("image/filename", "file_name")
_CHUNK = 64


def open_records_of_boxes(
    dataset: str,
    split: str,
    data_dir: str | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    on_bad_box: str = "error",
    on_bad_image: str = "error",
) -> AnnotatedImages:
    """Opens one split of a prepared TFDS data set with the features `image` and `objects`.

    `objects` is a sequence of `bbox`, (ymin, xmin, ymax, xmax) as fractions of the image, and
    `label`; `is_crowd`, `area` (COCO) and `is_difficult` (VOC) may be there. TFDS's `voc` states
    fractions of one-based, inclusive pixels; they become half-open.

    Args:
      dataset: TFDS's name, `name[/config][:version]`.
      split: TFDS's split syntax.
      data_dir: the folder of data sets; None for TFDS's own.
      class_names: the classes, such as those of a training; None for the data set's own.
      on_bad_box: see `examples.checked`.
      on_bad_image: effect of an image whose size cannot be read: "error" raises, "skip" leaves it
        out with a notice.

    Raises:
      DataError: the data set or the split is missing, it has no boxes, or one cannot be used.
    """
    builder = open_builder(dataset, data_dir)
    own_names = _own_names(builder, dataset)
    names = match_names(own_names, class_names, dataset)
    labels = np.array([names.index(name) for name in own_names], np.int32)
    records, root, files = open_records(builder, dataset, split, data_dir)
    is_voc = builder.name == "voc"
    reader = _Reader(records, labels, is_voc, dataset, split)
    read, kept, bad = _read_all(reader, data_dir, on_bad_image)
    truths = [read[index].truth for index in kept]
    zeros = [read[index] for index in kept if read[index].zeros]
    annotations, notices = checked(
        Annotations.stack(truths),
        class_names=names,
        split=split,
        name=dataset,
        on_bad_box=on_bad_box,
    )
    if bad:
        notices = (f"{dataset}: {len(bad)} images left out, because {bad[0]}", *notices)
    return AnnotatedImages(
        annotations=annotations,
        read=_ReadRecord(records, tuple(kept) if bad else None),
        class_names=names,
        category_ids=_category_ids(builder, own_names, names),
        name=dataset,
        split=split,
        root=root,
        files=files,
        notices=(*_zero_notice(zeros, dataset), *notices),
    )


def _own_names(builder: Any, dataset: str) -> tuple[str, ...]:
    """Returns the class names of a data set after checking its features."""
    from tensorflow_datasets.core import features as tfds_features

    features = dict(getattr(builder.info.features, "items", tuple)())
    image, objects = features.get("image"), features.get("objects")
    if not isinstance(image, tfds_features.Image) or image.np_dtype != np.uint8:
        raise DataError(f"{dataset!r} has no feature 'image' of uint8; use a detection set")
    inner = dict(getattr(getattr(objects, "feature", None), "items", tuple)())
    label, bbox = inner.get("label"), inner.get("bbox")
    if not isinstance(label, tfds_features.ClassLabel) or not label.num_classes:
        raise DataError(
            f"{dataset!r} has no 'objects' with a class 'label'; use a detection set such as "
            "coco/2017 or voc/2007"
        )
    form = getattr(getattr(bbox, "bbox_format", None), "value", "REL_YXYX")  # Old files state none.
    if not isinstance(bbox, tfds_features.BBoxFeature) or form != "REL_YXYX":
        raise DataError(
            f"{dataset!r} has 'objects' without 'bbox' in TFDS's own form, the fractions (ymin, "
            "xmin, ymax, xmax); prepare it so"
        )
    return tuple(label.names)


def _category_ids(
    builder: Any, own_names: tuple[str, ...], names: tuple[str, ...]
) -> tuple[int, ...]:
    """Returns COCO's ids of its 80 classes; those of other data sets are 1, 2, ..."""
    if builder.name != "coco" or set(names) != set(own_names) or len(names) != 80:
        return tuple(range(1, len(names) + 1))
    ids = dict(zip(own_names, COCO_CATEGORY_IDS, strict=True))
    return tuple(ids[name] for name in names)


class _Read(NamedTuple):
    """The objects of a record, how many boxes had a minimum of 0, and what is wrong, or ""."""

    truth: Truth
    zeros: int
    reason: str


def _read_all(
    reader: "_Reader", data_dir: str | None, on_bad_image: str
) -> tuple[list[_Read], list[int], list[str]]:
    """Returns what is in all records, the indices of the good ones, and what is wrong in others."""
    try:
        with ThreadPoolExecutor() as pool:
            starts = range(0, len(reader.records), _CHUNK)
            read = [each for part in pool.map(reader.scan, starts) for each in part]
    except RuntimeError as error:
        raise damaged_records(reader.dataset, data_dir) from error
    bad = [each.reason for each in read if each.reason]
    kept = [index for index, each in enumerate(read) if not each.reason]
    if bad and (on_bad_image != "skip" or not kept):
        raise BadImageError(f"{bad[0]}; repair the data set, or set on_bad_image='skip'")
    return read, kept, bad


def _zero_notice(read: Sequence[_Read], dataset: str) -> tuple[str, ...]:
    if not read:
        return ()
    return zero_notice(sum(each.zeros for each in read), dataset, read[0].truth.name)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads the objects of records; `labels` has the label of each of the data set's classes."""

    records: Any
    labels: np.ndarray
    is_voc: bool
    dataset: str
    split: str

    def scan(self, start: int) -> list[_Read]:
        """Returns the objects of some records, from `start` on."""
        indices = range(start, min(start + _CHUNK, len(self.records)))
        parts = zip(indices, self.records.__getitems__(indices), strict=True)
        return [self.parse(index, record) for index, record in parts]

    def parse(self, index: int, record: bytes) -> _Read:
        """Returns the objects of a record."""
        feature = _features(record)
        names = (feature[key].bytes_list.value for key in _NAMES if key in feature)
        decoded = (name[0].decode(errors="backslashreplace") for name in names if name)
        name = next(decoded, "") or f"{self.split}[{index}]"
        boxes = np.array(_numbers(feature, "bbox"), np.float64).reshape(-1, 4)
        labels = np.array(_numbers(feature, "label"), np.int64)
        if len(boxes) != len(labels):
            raise DataError(
                f"{name} of {self.dataset!r} has {len(boxes)} boxes and {len(labels)} labels; "
                "prepare the data set again"
            )
        if strange := [each for each in labels.tolist() if not 0 <= each < len(self.labels)]:
            raise DataError(
                f"{name} of {self.dataset!r} has the label {strange[0]}, which is not one of its "
                f"{len(self.labels)} classes; choose a split with labels"
            )
        try:
            (height, width), reason = image_size(feature["image"].bytes_list.value[0]), ""
        except OSError as error:
            height, width = 1, 1
            reason = f"image {index} ({name}) of {self.dataset!r} cannot be used ({error})"
        zeros = 0
        corners = boxes[:, [1, 0, 3, 2]] * (width, height, width, height)
        if self.is_voc:
            corners, zeros = half_open(np.round(corners))
        ids = feature["image/id"].int64_list.value if "image/id" in feature else ()
        truth = make_truth(
            corners.tolist(),
            self.labels[labels].tolist(),
            height=height,
            width=width,
            image_id=int(ids[0]) if ids else name.rpartition(".")[0] or name,
            name=name,
            is_crowd=list(map(bool, _numbers(feature, "is_crowd"))),
            is_difficult=list(map(bool, _numbers(feature, "is_difficult"))),
            areas=list(map(float, _numbers(feature, "area"))),
        )
        return _Read(truth, zeros, reason)


@dataclasses.dataclass(frozen=True)
class _ReadRecord:
    """Reads the image file of a record; `indices` if some records are left out."""

    records: Any
    indices: tuple[int, ...] | None

    def __call__(self, index: int) -> bytes:
        place = index if self.indices is None else self.indices[index]
        return bytes(_features(self.records[place])["image"].bytes_list.value[0])


def _features(record: bytes) -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString(record).features.feature


def _numbers(feature: Any, key: str) -> list[float]:
    """Returns the numbers of a feature of the objects; [] without objects or without it."""
    name = f"objects/{key}"
    if name not in feature:  # Looking it up would add it.
        return []
    value = feature[name]
    return list(value.float_list.value) or list(value.int64_list.value)
