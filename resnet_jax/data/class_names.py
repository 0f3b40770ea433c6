"""Names of classes for people: ImageNet's are known by numbers of WordNet alone."""

import functools
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

_IMAGENET = Path(__file__).parent / "imagenet_classes" / "classes.tsv"


@functools.cache
def imagenet_class_names() -> MappingProxyType[str, str]:
    """Returns the names of ImageNet's 1,000 classes by their WordNet ids, in the labels' order.

    They are torchvision's; the README beside the file says more.
    """
    lines = _IMAGENET.read_text(encoding="utf-8").splitlines()
    return MappingProxyType({line.split("\t")[0]: line.split("\t")[1] for line in lines})


def readable_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names with WordNet's ids, such as "n01440764", replaced by ImageNet's names."""
    known = imagenet_class_names()
    return tuple(known.get(name, name) for name in class_names)
