"""Class names: how those of images and of a network match, and ImageNet's readable ones.

Data sets name ImageNet's classes by WordNet ids ("n01440764"), people by words ("tench").
"""

import collections
import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from resnet_jax.errors import DataError, did_you_mean, shown

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


def match_classes(
    of_images: Sequence[str], of_network: Sequence[str], num_outputs: int, images: str, network: str
) -> tuple[int, ...]:
    """Returns the network's output for each class of a data set, matched by name.

    Composed and decomposed Unicode (NFC, NFD) are the same name, and so are a WordNet id and
    ImageNet's name for it if that is unique. A network whose names are unknown is ImageNet's if it
    has 1,000 outputs and all names of the data set are ImageNet's; otherwise its outputs match the
    classes by position, which needs equal numbers.

    Args:
      of_images: the names of the data set's classes.
      of_network: the names of the network's first outputs; empty if unknown.
      num_outputs: the number of the network's outputs.
      images: the data set, for messages.
      network: the network, for messages.

    Raises:
      DataError: a class is not one of the network's, or the names are unknown and the numbers
        differ.
    """
    if not of_network and num_outputs == len(imagenet_class_names()):
        of_network = imagenet_if_known(of_images)
    if not of_network:
        if len(of_images) != num_outputs:
            raise DataError(
                f"{images} has {len(of_images)} classes, {network} has {num_outputs} and does not "
                "name them; choose a data set with the classes of its training"
            )
        return tuple(range(num_outputs))
    if tuple(map(_plain, of_images)) == tuple(map(_plain, of_network)):
        return tuple(range(len(of_images)))  # Even if two classes have the same name.
    outputs = _outputs(of_network)
    if unknown := [name for name in of_images if _plain(name) not in outputs]:
        listed = ", ".join(map(shown, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
        known = ", ".join(of_network[:5]) + (", ..." if len(of_network) > 5 else "")
        hint = did_you_mean(unknown[0], of_network)
        raise DataError(
            f"{network} does not know {len(unknown)} of the {len(of_images)} classes of {images}: "
            f"{listed}{hint}; it knows {known}; rename or remove those"
        )
    return tuple(outputs[_plain(name)] for name in of_images)


def imagenet_if_known(class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns ImageNet's 1,000 WordNet ids if all the names are among its names, else ()."""
    imagenet = tuple(imagenet_class_names())
    outputs = _outputs(imagenet)
    return imagenet if all(_plain(name) in outputs for name in class_names) else ()


def _outputs(names: Sequence[str]) -> dict[str, int]:
    """Returns the output of each class by its names, except those that two classes share."""
    words = imagenet_class_names()
    ids = {word: wordnet_id for wordnet_id, word in words.items()}
    pairs = [(name, label) for label, name in enumerate(names)]
    pairs += [(words.get(name) or ids.get(name, ""), label) for name, label in pairs]
    shared = collections.Counter(name for name, _ in pairs)
    return {_plain(name): label for name, label in pairs if shared[name] == 1}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)
