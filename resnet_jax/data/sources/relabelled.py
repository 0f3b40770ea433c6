"""Sources with the labels of a network, whose classes may be more or in another order."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from resnet_jax.data.sources.base import ArraySource, Example, Source


@dataclasses.dataclass(frozen=True, eq=False)
class RelabelledSource:
    """A source with other labels; everything else is the original's.

    Attributes:
      source: the original.
      outputs: the new label of each of the original's classes.
      class_names: one name per new class.
    """

    source: Source
    outputs: tuple[int, ...]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """The number of classes, those without images included."""
        return len(self.class_names)

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.source.name

    @property
    def split(self) -> str:
        """The split."""
        return self.source.split

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels) of the images."""
        return self.source.image_shape

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for people about what was found."""
        return getattr(self.source, "notices", ())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return {"image": example["image"], "label": self.outputs[example["label"]]}

    def describe(self, index: int) -> str:
        """Returns an image's name in the data set, or an empty string."""
        describe = getattr(self.source, "describe", None)
        return str(describe(index)) if describe else ""


def relabelled(source: Source, outputs: Sequence[int], class_names: Sequence[str]) -> Source:
    """Returns a source whose labels are a network's outputs.

    Args:
      source: the images with their own labels.
      outputs: the network's output for each class of the source, see `match_classes`.
      class_names: the name of each output.
    """
    names = tuple(class_names)
    if tuple(outputs) == tuple(range(len(names))) and names == tuple(source.class_names):
        return source
    if isinstance(source, ArraySource):
        labels = np.asarray(outputs, np.int32)[source.labels]
        return dataclasses.replace(source, labels=labels, class_names=names)
    return RelabelledSource(source, tuple(outputs), names)
