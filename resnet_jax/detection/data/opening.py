"""`open_detection_source`: opens a split of any data set with boxes."""

import dataclasses
import os
import posixpath
from collections.abc import Sequence

from resnet_jax.data.sources.folders import is_path
from resnet_jax.data.sources.listing import list_folders
from resnet_jax.data.sources.records import DATASETS
from resnet_jax.detection.data.coco import find_coco, list_coco
from resnet_jax.detection.data.examples import AnnotatedImages, Annotations, DetectionSource
from resnet_jax.detection.data.records import BUNDLED, BUNDLED_DIR, open_records_of_boxes
from resnet_jax.detection.data.voc import find_voc, list_voc
from resnet_jax.errors import DataError
from resnet_jax.runtime.files import expanded


def open_detection_source(
    dataset: str,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    class_names: tuple[str, ...] | None = None,
    on_bad_box: str = "error",
    on_bad_image: str = "error",
) -> DetectionSource:
    """Opens one split of images with boxes.

    It only reads files: it needs neither TensorFlow nor the code that made the data set, and
    downloads nothing.

    Args:
      dataset: a folder with COCO's JSON (see `coco.find_coco`) or VOC's XML (see `voc.find_voc`);
        a COCO file `.json`; TFDS's name of a data set in ArrayRecord form such as `coco/2017` or
        `voc/2007`; one of `BUNDLED`; or a name of `data.register_dataset` whose function returns a
        `DetectionSource`. Several with the same classes are joined by `+`: `voc/2007+voc/2012`.
      split: TFDS's split syntax: `"train"`, `"train[:90%]"`, `"train+validation"`. Joined data sets
        all give this split, or each its own: `"trainval;train+validation"`.
      data_dir: the folder of data sets; None for TFDS's own. Folders, files and bundled data sets
        ignore it.
      class_names: the classes, such as those of a training; None for the data set's own.
      on_bad_box: effect of a box without area, outside its image or not finite: "error" raises,
        "skip" leaves it out with a notice.
      on_bad_image: see `records.open_records_of_boxes`.

    Raises:
      DataError: the data set or split is missing or damaged, or a box cannot be used.
    """
    if dataset in DATASETS:
        own: DetectionSource = DATASETS[dataset](split, data_dir)
        return own
    names = [dataset] if os.path.exists(expanded(dataset)) else dataset.split("+")
    splits = split.split(";")
    if len(splits) not in (1, len(names)):
        raise DataError(
            f"{dataset!r} joins {len(names)} data sets, but {split!r} names {len(splits)} splits; "
            "give one for all, or one for each, separated by ';'"
        )
    splits *= len(names) // len(splits)
    sources = []
    for name, part in zip(names, splits, strict=True):
        if _is_here(name):
            sources.append(_open_folder(name, part, class_names, on_bad_box))
        else:
            folder = BUNDLED_DIR if name.partition(":")[0] in BUNDLED else data_dir
            folder = None if folder is None else expanded(folder)
            sources.append(
                open_records_of_boxes(
                    name,
                    part,
                    folder,
                    class_names=class_names,
                    on_bad_box=on_bad_box,
                    on_bad_image=on_bad_image,
                )
            )
    return joined(sources)


def _is_here(dataset: str) -> bool:
    """Whether a data set's name denotes a folder or file with annotations."""
    if is_path(dataset) or dataset.lower().endswith(".json"):
        return True
    return os.path.isdir(dataset) and bool(find_coco(dataset) or find_voc(dataset))


def _open_folder(
    dataset: str, split: str, class_names: tuple[str, ...] | None, on_bad_box: str
) -> AnnotatedImages:
    wanted = tuple(dict.fromkeys(part.split("[")[0].strip() for part in split.split("+")))
    if find_coco(dataset):
        return list_coco(dataset, wanted, class_names).open(split, on_bad_box)
    if find_voc(dataset):
        return list_voc(dataset, wanted, class_names).open(split, on_bad_box)
    if not dataset.lower().endswith(".json") and not os.path.isdir(expanded(dataset)):
        raise DataError(f"there is no folder {dataset!r}; give a folder of images with boxes")
    for name in list_folders(expanded(dataset)):
        inner = posixpath.join(dataset, name)
        if find_coco(inner) or find_voc(inner):
            raise DataError(f"{dataset!r} holds a data set in a folder of its own; give {inner}")
    raise DataError(
        f"{dataset!r} holds no boxes that can be read; it should hold COCO's "
        "annotations/instances_SPLIT.json, or annotations.json or XML files beside the images"
    )


def joined(sources: Sequence[AnnotatedImages]) -> AnnotatedImages:
    """Returns the images of several data sets with the same classes, one set after the other.

    Raises:
      DataError: two sets have different classes.
    """
    first = sources[0]
    for other in sources[1:]:
        if other.class_names != first.class_names:
            raise DataError(
                f"{first.name!r} and {other.name!r} have different classes; name them alike, in "
                "the same order"
            )
    if len(sources) == 1:
        return first
    truths = (source.truth(index) for source in sources for index in range(len(source)))
    return dataclasses.replace(
        first,
        annotations=Annotations.stack(truths),
        read=_ReadJoined(tuple(sources)),
        name="+".join(source.name for source in sources),
        root="",
        files=tuple(f"{source.root}/{file}" for source in sources for file in source.files),
        notices=tuple(line for source in sources for line in source.notices),
    )


@dataclasses.dataclass(frozen=True)
class _ReadJoined:
    sources: tuple[AnnotatedImages, ...]

    def __call__(self, index: int) -> bytes:
        for source in self.sources:
            if index < len(source):
                return source.read(index)
            index -= len(source)
        raise IndexError(index)
