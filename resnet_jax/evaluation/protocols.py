"""The paper's ways of testing (Section 3.4): which views of an image a network sees.

A view is a crop, or the whole image at some scale. An image's scores are the average of the
network's softmax over its views and, where the protocol says so, over their mirror images.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from .. import data
from ..data.errors import nearest
from .crops import FiveCrops
from .errors import EvaluationError
from .pyramids import pyramid_batches
from .views import View, ViewBatch

PROTOCOLS = ("center", "ten_crop", "multi_scale")
"""Names that `make_protocol` and `--protocol` take."""

PAPER_SIDES = (224, 256, 384, 480, 640)
"""Lengths of the shorter side at which the paper tests (Section 3.4)."""


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """A way of testing.

    Attributes:
      name: one of `PROTOCOLS`.
      mirrored: whether each view's mirror image is scored, too.
      on_bad_image: what an image that cannot be decoded does: `"error"` ends the evaluation,
        `"skip"` leaves it out.
    """

    name: ClassVar[str]
    mirrored: ClassVar[bool]
    on_bad_image: str = dataclasses.field(default="error", kw_only=True)

    @abc.abstractmethod
    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields every image of a source once, in batches of `batch_size` rows.

        Where images are missing there are rows of padding. Batches have few shapes, so that few
        programs are compiled.

        Raises:
          DataError: an image that cannot be decoded, or images that do not fit the transform.
        """


@dataclasses.dataclass(frozen=True)
class Center(Protocol):
    """One view: what the transform makes of the image, such as its centre crop.

    Attributes:
      transform: `data.eval_transform`'s.
    """

    name: ClassVar[str] = "center"
    mirrored: ClassVar[bool] = False
    transform: data.Transform

    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields the batches of `data.eval_batches`."""
        batches = data.eval_batches(
            source, self.transform, batch_size=batch_size, on_bad_image=self.on_bad_image
        )
        for number, batch in enumerate(batches):
            index = number * batch_size + np.arange(batch_size)
            yield ViewBatch(index, batch["label"], batch["mask"], [View(batch["image"])])


@dataclasses.dataclass(frozen=True)
class TenCrop(Protocol):
    """Ten views: the four corners and the centre, and the mirror image of each.

    Attributes:
      image_size: height and width of the crops.
      resize: the shorter side that images are scaled to before.
      channels: as for `data.eval_transform`.
    """

    name: ClassVar[str] = "ten_crop"
    mirrored: ClassVar[bool] = True
    image_size: int = 224
    resize: int = 256
    channels: int | None = None

    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields batches of five views, which are to be mirrored."""
        crops = FiveCrops(image_size=self.image_size, resize=self.resize, channels=self.channels)
        center = Center(crops, on_bad_image=self.on_bad_image)
        for batch in center.batches(source, batch_size):
            parts = np.split(batch.views[0].images, 5, axis=1)
            views = [View(np.ascontiguousarray(part)) for part in parts]
            yield dataclasses.replace(batch, views=views)


@dataclasses.dataclass(frozen=True)
class MultiScale(Protocol):
    """The whole image, fully convolutional, at several scales, and its mirror image at each.

    Attributes:
      sides: lengths of the shorter side, the paper's by default.
      channels: as for `data.eval_transform`.
    """

    name: ClassVar[str] = "multi_scale"
    mirrored: ClassVar[bool] = True
    sides: tuple[int, ...] = PAPER_SIDES
    channels: int | None = None

    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields batches of images of similar proportions, in the order in which they fill up."""
        channels = self.channels or source.image_shape[2]
        skip = self.on_bad_image == "skip"
        yield from pyramid_batches(source, self.sides, channels, batch_size, skip_bad_images=skip)


def make_protocol(
    name: str,
    transform: data.Transform,
    sides: Sequence[int] | None = None,
    on_bad_image: str = "error",
) -> Protocol:
    """Returns a protocol for images that are otherwise evaluated by a transform.

    Args:
      name: one of `PROTOCOLS`.
      transform: the view of `"center"`; `"ten_crop"` takes its sizes from it.
      sides: for `"multi_scale"`, lengths of the shorter side; the paper's if not given.
      on_bad_image: as `Protocol` has it.

    Raises:
      EvaluationError: an unknown name; ten crops, or the paper's scales, of images that are to be
        taken as they are; or scales that are none.
    """
    if name == "center":
        return Center(transform, on_bad_image=on_bad_image)
    if name == "ten_crop":
        if not isinstance(transform, data.ResizeCenterCrop):
            raise EvaluationError(
                "ten_crop cuts from larger images, but these are taken as they are; choose "
                "protocol center, or give --image_size and --resize"
            )
        sizes = transform.image_size, transform.resize
        return TenCrop(*sizes, transform.channels, on_bad_image=on_bad_image)
    if name == "multi_scale":
        if sides is None and not isinstance(transform, data.ResizeCenterCrop):
            raise EvaluationError(
                "multi_scale would blow up images that are taken as they are; choose protocol "
                "center, or give --scales"
            )
        sides = PAPER_SIDES if sides is None else tuple(sides)
        if not sides or min(sides) < 1:
            raise EvaluationError(f"the scales {sides} are no shorter sides in pixels; give some")
        return MultiScale(sides, transform.channels, on_bad_image=on_bad_image)
    raise EvaluationError(
        f"unknown protocol {name!r}{nearest(name, PROTOCOLS)}; there are {', '.join(PROTOCOLS)}"
    )
