"""COCO's JSON files: `annotations/instances_SPLIT.json`, `annotations.json`, Roboflow's exports."""

import collections
import dataclasses
import functools
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_jax.data.images.decode import check_size
from resnet_jax.data.sources.listing import IMAGE_EXTENSIONS, class_name, is_remote, list_folders
from resnet_jax.detection.data.examples import Truth
from resnet_jax.detection.data.folders import (
    AnnotatedFolder,
    make_truth,
    match_names,
    names_in,
    read_file,
)
from resnet_jax.errors import DataError, UnknownSplitError, did_you_mean, shown
from resnet_jax.runtime.files import expanded

_BESIDE = ("_annotations.coco.json", "annotations.json", "_annotations.json")
"""Names of a split's annotations that lie beside its images."""


@dataclasses.dataclass(frozen=True)
class _File:
    """A checked file of annotations."""

    path: str
    images: dict[Any, Mapping[str, Any]]
    categories: dict[int, str]
    objects: dict[Any, list[Mapping[str, Any]]]


def find_coco(path: str) -> dict[str, str]:
    """Returns split → file of annotations of a COCO folder or file, {} if it is neither.

    `FOLDER/annotations/instances_NAME.json` is the split NAME, and so are
    `FOLDER/NAME/annotations.json` and `FOLDER/NAME/_annotations.coco.json` (Roboflow). A single
    file, and `annotations.json` in the folder itself, is the split `train`.
    """
    root = expanded(path)
    if root.lower().endswith(".json"):
        return {"train": root}
    found = {}
    for name in names_in(posixpath.join(root, "annotations")):
        if match := re.fullmatch(r"instances_(.+)\.json", name):
            found[match[1]] = posixpath.join(root, "annotations", name)
    if found:
        return found
    for split, folder in [("train", root), *((n, f"{root}/{n}") for n in list_folders(root))]:
        there = names_in(folder)
        beside = [name for name in _BESIDE if name in there]
        if beside:
            found[split] = posixpath.join(folder, beside[0])
    return found


def list_coco(
    path: str, wanted: Sequence[str] | None = None, class_names: Sequence[str] | None = None
) -> AnnotatedFolder:
    """Lists splits of a COCO folder or file, see `find_coco`.

    Boxes (x, y, width, height) become half-open corners. Labels follow the order of the categories'
    ids, which may have gaps, or `class_names`. Images lie beside their file of annotations, or in
    `FOLDER/SPLIT`, `FOLDER/images/SPLIT`, `FOLDER/images` or `FOLDER`.

    Args:
      path: the folder or the file.
      wanted: the splits to list; None for all.
      class_names: the classes, such as those of a training; None for the file's categories.

    Raises:
      UnknownSplitError: there is no such split.
      DataError: a file is damaged, names a category or an image that it does not list, or lists two
        with one id.
    """
    found = find_coco(path)
    if not found:
        raise DataError(
            f"{path!r} holds no COCO annotations; it should hold annotations/instances_SPLIT.json, "
            "or annotations.json beside the images"
        )
    splits: dict[str, _File] = {}
    folders, notices = {}, []
    for split in found if wanted is None else wanted:
        if split not in found:
            raise UnknownSplitError(
                f"no split {split!r} in {path!r}{did_you_mean(split, found)}; choose from "
                f"{', '.join(found)}, slices and sums of them such as 'train[:90%]'"
            )
        splits[split] = _read(found[split])
        folders[split] = _image_folder(splits[split], expanded(path), split)
        notices += _unlisted(splits[split], folders[split])
    files = list(splits.values())
    categories = files[0].categories
    for file in files:
        if file.categories != categories:
            raise DataError(
                f"{files[0].path} and {file.path} have different categories; make them equal, or "
                "use one split"
            )
    root = expanded(path)
    if root == files[0].path:  # The images may be beside the file or its folder.
        own = posixpath.dirname(root) or "."
        root = own if _relative(folders["train"], own)[:2] != ".." else _parent(own)
    names = match_names(tuple(categories.values()), class_names, files[0].path)
    ids = {name: number for number, name in categories.items()}
    free = (n for n in range(1, 10**9) if n not in categories)  # For classes that are not in it.
    labels = {number: names.index(name) for number, name in categories.items()}
    return AnnotatedFolder(
        name=path,
        root=root,
        splits={
            split: _truths(file, _relative(folders[split], root), labels)
            for split, file in splits.items()
        },
        class_names=names,
        category_ids=tuple(ids[name] if name in ids else next(free) for name in names),
        annotation_files=tuple(_relative(file.path, root) for file in files),
        place=functools.partial(_place, files),
        notices=tuple(notices),
    )


def _place(files: Sequence[_File], image: str) -> str:
    """Returns where an image's boxes are, for a message."""
    for file in files:
        if any(each["file_name"] == image for each in file.images.values()):
            return f"{image} in {posixpath.basename(file.path)}"
    return image


def _read(path: str) -> _File:
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not JSON ({reason}); write or fetch it again") from error
    lists = {}
    for key in ("images", "categories", "annotations"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise DataError(
                f"{path} has no list of {key!r}; give a file of COCO's object detection, such as "
                "instances_train2017.json"
            )
        lists[key] = entries
    images = _by_id(lists["images"], "file_name", str, "image", path)
    named = _by_id(lists["categories"], "name", str, "category", path)
    if strange := [key for key in named if not isinstance(key, int)]:
        raise DataError(f"{path} has the category id {strange[0]!r}; give whole numbers")
    objects: dict[Any, list[Mapping[str, Any]]] = {key: [] for key in images}
    seen: set[Any] = set()
    for entry in lists["annotations"]:
        _check_annotation(entry, images, named, path)
        number = entry.get("id")
        if isinstance(number, int | str):
            if number in seen:
                raise DataError(f"{path} has two annotations of id {number!r}; renumber them")
            seen.add(number)
        objects[entry["image_id"]].append(entry)
    used = {entry["category_id"] for entry in lists["annotations"]}
    categories = {
        key: class_name(entry["name"])
        for key, entry in sorted(named.items())
        if key in used or not _is_group(entry, named.values())
    }
    if twice := [n for n, count in collections.Counter(categories.values()).items() if count > 1]:
        raise DataError(f"{path} has two categories of the name {twice[0]!r}; rename one")
    if not images or not categories:
        raise DataError(f"{path} lists no image or no category; write or fetch it again")
    return _File(path, images, categories, objects)


def _is_group(entry: Mapping[str, Any], categories: Any) -> bool:
    """Whether a category only groups the others, as Roboflow's exports have one without boxes."""
    others = [each for each in categories if each is not entry]
    return entry.get("supercategory") == "none" and any(
        each.get("supercategory") == entry["name"] for each in others
    )


def _by_id(
    entries: Sequence[Mapping[str, Any]], key: str, kind: type, what: str, path: str
) -> dict[Any, Mapping[str, Any]]:
    by_id: dict[Any, Mapping[str, Any]] = {}
    for entry in entries:
        number = entry.get("id")
        if not isinstance(number, int | str) or not isinstance(entry.get(key), kind):
            raise DataError(f"{path} has {_one(what)} without id or {key!r}: {shown(dict(entry))}")
        if number in by_id:
            raise DataError(
                f"{path} has two {_plural(what)} of id {number!r}: {by_id[number][key]!r} and "
                f"{entry[key]!r}; renumber one"
            )
        by_id[number] = entry
    return by_id


def _one(what: str) -> str:
    return f"an {what}" if what == "image" else f"a {what}"


def _plural(what: str) -> str:
    return "categories" if what == "category" else f"{what}s"


def _check_annotation(
    entry: Mapping[str, Any], images: Mapping[Any, Any], categories: Mapping[Any, Any], path: str
) -> None:
    which = f"annotation {entry.get('id')!r} of {path}"
    for key, known, what in (
        ("image_id", images, "images"),
        ("category_id", categories, "categories"),
    ):
        value = entry.get(key)
        if not isinstance(value, int | str) or value not in known:
            raise DataError(
                f"{which} has the {key} {shown(value)}, which is not among the file's {what}; add "
                "it there, or remove the annotation"
            )
    box = entry.get("bbox")
    numbers = isinstance(box, list) and all(isinstance(each, int | float) for each in box)
    if not numbers or len(box or ()) != 4:
        raise DataError(f"{which} has the bbox {shown(box)}; give [x, y, width, height]")


def _image_folder(file: _File, root: str, split: str) -> str:
    """Returns the folder of a split's images: the first of the usual ones that has the first."""
    own = posixpath.dirname(file.path) or "."
    if root == file.path:
        root, split = _parent(own), _split_of(file.path)
    below = (split, f"images/{split}", "images", "")
    choices = [own, posixpath.join(own, "images"), *(posixpath.join(root, each) for each in below)]
    choices = [each.rstrip("/") for each in choices]
    first = next(iter(file.images.values()))["file_name"]
    inner, name = posixpath.split(first)
    for folder in choices:
        if name in names_in(posixpath.join(folder, inner)):
            return folder
    raise DataError(
        f"image {first!r} of {file.path} is neither beside it nor in {split}, images/{split} or "
        f"images of {root}; put the images into one of them"
    )


def _relative(path: str, root: str) -> str:
    """Returns a path below a folder; `relpath` would make one in a bucket a path here."""
    if path == root or path.startswith(f"{root}/"):
        return path[len(root) + 1 :]
    return posixpath.relpath(path, root or ".")


def _parent(folder: str) -> str:
    """Returns the folder of a folder, which may be "." or in a bucket."""
    inside = is_remote(folder) or posixpath.isabs(folder)
    return posixpath.dirname(folder) if inside else posixpath.normpath(f"{folder}/..")


def _split_of(path: str) -> str:
    return re.sub(r"^instances_|\.json$", "", posixpath.basename(path))


def _unlisted(file: _File, folder: str) -> list[str]:
    """Returns a notice if images beside the annotations are not in them."""
    if folder != (posixpath.dirname(file.path) or "."):
        return []
    known = {posixpath.basename(image["file_name"]) for image in file.images.values()}
    left = [n for n in names_in(folder) if n.lower().endswith(IMAGE_EXTENSIONS) and n not in known]
    if not left:
        return []
    return [f"{file.path} does not list {len(left)} of the images beside it, such as {left[0]}"]


def _truths(file: _File, below: str, labels: Mapping[int, int]) -> list[tuple[str, Truth]]:
    listed = []
    for number, image in file.images.items():
        try:
            truth = _truth(image, file.objects[number], labels)
        except (OSError, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"{image['file_name']} in {file.path} has a number that cannot be used ({error}); "
                "correct it"
            ) from error
        listed.append((posixpath.normpath(posixpath.join(below, image["file_name"])), truth))
    return listed


def _truth(
    image: Mapping[str, Any], objects: Sequence[Mapping[str, Any]], labels: Mapping[int, int]
) -> Truth:
    corners = []
    for each in objects:
        x, y, width, height = map(float, each["bbox"])
        corners.append((x, y, x + width, y + height))
    height, width = int(image.get("height") or 0), int(image.get("width") or 0)
    check_size(height, width)
    areas = [each.get("area") for each in objects]
    return make_truth(
        corners,
        [labels[each["category_id"]] for each in objects],
        height=height,
        width=width,
        image_id=image["id"],
        name=image["file_name"],
        is_crowd=[bool(each.get("iscrowd")) for each in objects],
        areas=[float("nan") if area is None else float(area) for area in areas],
    )
