"""Readable class names for ImageNet, whose data sets name classes by WordNet ids."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

_IMAGENET = Path(__file__).parent / "imagenet_classes" / "classes.tsv"


@functools.cache
def imagenet_class_names() -> MappingProxyType[str, str]:
    """Returns WordNet id → name of ImageNet's 1,000 classes, in the order of the labels.

    The names are torchvision's; see the README beside the file.
    """
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return MappingProxyType({line.split("\t")[0]: line.split("\t")[1] for line in lines})


def readable_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names with WordNet ids, such as "n01440764", replaced by ImageNet's names."""
    known = imagenet_class_names()
    return tuple(known.get(name, name) for name in class_names)
