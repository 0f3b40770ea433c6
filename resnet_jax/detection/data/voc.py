"""PASCAL VOC's folders, and folders with an XML file beside each image."""

import dataclasses
import itertools
import posixpath
from collections.abc import Sequence
from typing import NoReturn
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float64

from resnet_jax.data.images.decode import check_size
from resnet_jax.data.sources.listing import (
    IMAGE_EXTENSIONS,
    class_name,
    list_folders,
    training_split,
)
from resnet_jax.detection.data.examples import Truth
from resnet_jax.detection.data.folders import (
    AnnotatedFolder,
    make_truth,
    match_names,
    names_in,
    read_file,
)
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean
from resnet_jax.runtime.files import expanded

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclasses.dataclass(frozen=True)
class _Split:
    """Where a split's files are, as paths below the root; the stems are None for all files."""

    images: str
    annotations: str
    stems: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class _Xml:
    """A parsed file: (name, corners as stated, whether it is difficult) of each object."""

    objects: tuple[tuple[str, tuple[float, ...], bool], ...]
    height: int
    width: int


def half_open(
    corners: Float64[np.ndarray, "n 4"],
) -> tuple[Float64[np.ndarray, "n 4"], int]:
    """Converts VOC's corners, one-based and inclusive, into half-open ones counted from 0.

    A minimum of 0, which some tools write although VOC counts from 1, is read as 1.

    Args:
      corners: (xmin, ymin, xmax, ymax).

    Returns:
      (x1, y1, x2, y2), and how many boxes had a minimum of 0.
    """
    minima = corners[:, :2]
    zero = (minima >= 0) & (minima < 1)
    lower = np.where(zero, 1, minima) - 1
    return np.concatenate([lower, corners[:, 2:]], axis=1), int(zero.any(axis=1).sum())


def zero_notice(count: int, name: str, first: str) -> tuple[str, ...]:
    """Returns a notice that minima of 0 were read as 1, if there were any."""
    if not count:
        return ()
    return (
        f"{name}: {count} {'box has' if count == 1 else 'boxes have'} xmin or ymin 0 although VOC "
        f"counts from 1, first in {first}; read as 1",
    )


def find_voc(path: str) -> dict[str, _Split]:
    """Returns split → where its files are, of a VOC folder or one with XML beside the images.

    With `Annotations` and `JPEGImages`, the splits are the lists `ImageSets/Main/*.txt`, or
    `train` without any; otherwise each folder with XML files is a split, or the folder itself is
    `train`. {} if it is none of these.
    """
    root = expanded(path)
    if {"Annotations", "JPEGImages"} <= set(list_folders(root)):
        splits = {}
        lists = posixpath.join(root, "ImageSets", "Main")
        for name in names_in(lists):
            stem, ending = posixpath.splitext(name)
            stems = _stems(posixpath.join(lists, name)) if ending == ".txt" else None
            if stems is not None:
                splits[stem] = _Split("JPEGImages", "Annotations", stems)
        return splits or {"train": _Split("JPEGImages", "Annotations")}
    if any(_is_xml(name) for name in names_in(root)):
        return {"train": _Split("", "")}
    return {
        name: _Split(name, name)
        for name in list_folders(root)
        if any(_is_xml(file) for file in names_in(posixpath.join(root, name)))
    }


def list_voc(
    path: str, wanted: Sequence[str] | None = None, class_names: Sequence[str] | None = None
) -> AnnotatedFolder:
    """Lists splits of a VOC folder, see `find_voc`.

    Corners become half-open, see `half_open`.

    Args:
      path: the folder.
      wanted: the splits to list; None for all.
      class_names: the classes, such as those of a training; None for all names in the split
        `train` if it has files of its own, otherwise in all files, sorted.

    Raises:
      UnknownSplitError: there is no such split.
      DataError: an XML file is missing or damaged, an image has none, a list names an image twice,
        or a class is not among the classes.
    """
    root = expanded(path)
    found = find_voc(path)
    if not found:
        raise DataError(
            f"{path!r} is not a VOC folder: it should hold JPEGImages and Annotations, or an XML "
            "file beside each image"
        )
    files: dict[str, _Xml] = {}
    splits, names_at, zeros, first_zero = {}, [], 0, ""
    for split in found if wanted is None else wanted:
        if split not in found:
            raise UnknownSplitError(
                f"no split {split!r} in {path!r}{did_you_mean(split, found)}; choose from "
                f"{', '.join(found)}, slices and sums of them such as 'train[:90%]'"
            )
        splits[split] = _pair(root, found[split], path)
        for xml in splits[split].values():
            files[xml] = _parse(posixpath.join(root, xml))
            names_at += [(name, xml) for name, _, _ in files[xml].objects]
    names = class_names or _class_names(root, found, files)
    for name, xml in names_at:
        match_names((name,), names, xml)
    listed: dict[str, list[tuple[str, Truth]]] = {}
    for split, pairs in splits.items():
        listed[split] = []
        for image, xml in pairs.items():
            truth, count = _truth(files[xml], names, posixpath.basename(image))
            first_zero = first_zero or (xml if count else "")
            zeros += count
            listed[split].append((image, truth))
    return AnnotatedFolder(
        name=path,
        root=root,
        splits=listed,
        class_names=tuple(names),
        category_ids=tuple(range(1, len(names) + 1)),
        annotation_files=tuple(files),
        place=_place,
        notices=zero_notice(zeros, path, first_zero),
    )


def _place(image: str) -> str:
    return f"{posixpath.splitext(image)[0]}.xml"


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _stems(path: str) -> tuple[str, ...] | None:
    """Returns the names in a list of images; None for the list of a class, with 1 and -1."""
    lines = [line.split() for line in read_file(path).decode("utf-8-sig", "replace").splitlines()]
    lines = [line for line in lines if line]
    if lines and all(len(line) == 2 and line[1] in ("-1", "0", "1") for line in lines):
        return None
    return tuple(" ".join(line) for line in lines)


def _pair(root: str, split: _Split, path: str) -> dict[str, str]:
    """Returns image → XML file of a split, as paths below the root."""
    image_names = names_in(posixpath.join(root, split.images))
    images = {
        posixpath.splitext(name)[0]: name
        for name in reversed(image_names)
        if name.lower().endswith(IMAGE_EXTENSIONS)
    }
    xmls = {
        posixpath.splitext(name)[0]: name
        for name in names_in(posixpath.join(root, split.annotations))
        if _is_xml(name)
    }
    stems = split.stems
    if stems is None:
        stems = tuple(sorted({*images, *xmls} if split.images == split.annotations else xmls))
    pairs: dict[str, str] = {}
    for stem in stems:
        if stem not in xmls:
            raise DataError(
                f"image {stem!r} of {path!r} has no file {split.annotations or '.'}/{stem}.xml; "
                "add one, with no object if the image shows none, or leave out the image"
            )
        if stem not in images:
            raise DataError(
                f"image {stem!r} of {path!r} is not in {split.images or '.'}"
                f"{did_you_mean(stem, images)}; add it, or remove its annotation"
            )
        image = posixpath.join(split.images, images[stem])
        if image in pairs:
            raise DataError(f"a list of {path!r} has the image {stem!r} twice; remove one")
        pairs[image] = posixpath.join(split.annotations, xmls[stem])
    return pairs


def _class_names(root: str, found: dict[str, _Split], parsed: dict[str, _Xml]) -> tuple[str, ...]:
    """Returns the sorted classes of the training split, or of all files if splits share them."""
    training = training_split(tuple(found))
    shared = len({split.annotations for split in found.values()}) < len(found)
    folders = {split.annotations for split in found.values()}
    if training and not shared:
        folders = {found[training].annotations}
    names: set[str] = set()
    for folder in folders:
        for name in filter(_is_xml, names_in(posixpath.join(root, folder))):
            xml = posixpath.join(folder, name)
            file = parsed.get(xml) or _parse(posixpath.join(root, xml))
            names.update(name for name, _, _ in file.objects)
    return tuple(sorted(names))


def _truth(file: _Xml, class_names: Sequence[str], image: str) -> tuple[Truth, int]:
    corners = np.array([each for _, each, _ in file.objects], np.float64).reshape(-1, 4)
    boxes, zeros = half_open(corners)
    truth = make_truth(
        boxes.tolist(),
        [class_names.index(name) for name, _, _ in file.objects],
        height=file.height,
        width=file.width,
        image_id=posixpath.splitext(image)[0],
        name=image,
        is_difficult=[difficult for _, _, difficult in file.objects],
    )
    return truth, zeros


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        """Refuses declarations: their entities may expand without limit or read other files."""
        raise ValueError("it has a DOCTYPE, which is not read")


def _parse(path: str) -> _Xml:
    content = read_file(path)
    try:
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
        objects = tuple(map(_object, root.findall("object"), itertools.count(1)))
        height, width = (_length(root.findtext(f"size/{key}")) for key in ("height", "width"))
        check_size(height, width)
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be used ({reason}); write it again as VOC does") from error
    return _Xml(objects, height, width)


def _object(element: ElementTree.Element, number: int) -> tuple[str, tuple[float, ...], bool]:
    name = class_name((element.findtext("name") or "").strip())
    if not name:
        raise ValueError(f"object {number} has no name")
    try:
        corners = tuple(float(element.findtext(f"bndbox/{key}") or "") for key in _CORNERS)
    except ValueError as error:
        raise ValueError(f"object {number} has no box of numbers {', '.join(_CORNERS)}") from error
    return name, corners, (element.findtext("difficult") or "").strip() == "1"


def _length(text: str | None) -> int:
    """Returns a size in pixels; 0 if it is not stated."""
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"its size has {text!r}, not a number of pixels") from error
