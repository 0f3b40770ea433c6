"""The paper's test protocols (Section 3.4), which define the views of an image.

A view is a crop, or the whole image at some scale. An image's scores are the network's softmax
averaged over the views and, if the protocol is mirrored, their mirror images.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from resnet_jax import data
from resnet_jax.data.transforms.five_crops import FiveCrops
from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.protocols.pyramids import pyramid_batches
from resnet_jax.evaluation.protocols.views import View, ViewBatch
from resnet_jax.registry import Registry

PROTOCOLS = Registry("protocol", EvaluationError)
"""Functions of (transform, sides) that return a `Protocol`."""

register_protocol = PROTOCOLS.register
"""Decorates a function of (transform, sides) that returns a `Protocol`, by a name."""

PAPER_SIDES = (224, 256, 384, 480, 640)
"""Lengths of the shorter side in the paper's tests (Section 3.4), in pixels."""


@dataclasses.dataclass(frozen=True)
class Protocol(abc.ABC):
    """A test protocol.

    Attributes:
      name: what it is called.
      mirrored: whether each view's mirror image is scored, too.
      on_bad_image: effect of an image that cannot be decoded: `"error"` ends the evaluation,
        `"skip"` skips the image.
    """

    name: ClassVar[str]
    mirrored: ClassVar[bool]
    on_bad_image: str = dataclasses.field(default="error", kw_only=True)

    @abc.abstractmethod
    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields each image of a source once, in batches of `batch_size` rows.

        Rows without an image are padding. Batches have few shapes, so that few programs are
        compiled.

        Raises:
          DataError: an image cannot be decoded, or images do not fit the transform.
        """


@dataclasses.dataclass(frozen=True)
class Center(Protocol):
    """One view: the transformed image, such as its centre crop.

    Attributes:
      transform: the transform, from `data.eval_transform`.
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
      resize: the shorter side to which images are scaled first.
      channels: as for `data.eval_transform`.
      interpolation: as for `data.ResizeCenterCrop`.
    """

    name: ClassVar[str] = "ten_crop"
    mirrored: ClassVar[bool] = True
    image_size: int = 224
    resize: int = 256
    channels: int | None = None
    interpolation: str = "bilinear"

    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields batches of five views; scoring mirrors them."""
        crops = FiveCrops(
            image_size=self.image_size,
            resize=self.resize,
            channels=self.channels,
            interpolation=self.interpolation,
        )
        center = Center(crops, on_bad_image=self.on_bad_image)
        for batch in center.batches(source, batch_size):
            parts = np.split(batch.views[0].images, 5, axis=1)
            views = [View(np.ascontiguousarray(part)) for part in parts]
            yield dataclasses.replace(batch, views=views)


@dataclasses.dataclass(frozen=True)
class MultiScale(Protocol):
    """The whole image and its mirror image at several scales, scored fully convolutionally.

    Attributes:
      sides: lengths of the shorter side; by default the paper's.
      channels: as for `data.eval_transform`.
      interpolation: as for `data.ResizeCenterCrop`.
    """

    name: ClassVar[str] = "multi_scale"
    mirrored: ClassVar[bool] = True
    sides: tuple[int, ...] = PAPER_SIDES
    channels: int | None = None
    interpolation: str = "bilinear"

    def batches(self, source: data.Source, batch_size: int) -> Iterator[ViewBatch]:
        """Yields batches of images with similar aspect ratios, in the order in which they fill."""
        channels = self.channels or source.image_shape[2]
        skip = self.on_bad_image == "skip"
        yield from pyramid_batches(
            source,
            self.sides,
            channels,
            batch_size,
            skip_bad_images=skip,
            interpolation=self.interpolation,
        )


@register_protocol("center")
def _center(transform: data.Transform, sides: Sequence[int] | None) -> Protocol:
    return Center(transform)


@register_protocol("ten_crop")
def _ten_crop(transform: data.Transform, sides: Sequence[int] | None) -> Protocol:
    if not isinstance(transform, data.ResizeCenterCrop):
        raise EvaluationError(
            "ten_crop needs images larger than the crop, but these are not resized; choose "
            "protocol center, or give --image_size and --resize"
        )
    size, resize = transform.image_size, transform.resize
    if isinstance(size, tuple) or isinstance(resize, tuple) or transform.crop_mode != "center":
        raise EvaluationError(
            "ten_crop takes squares from images of their own proportions; choose protocol center, "
            "or give --image_size and --resize"
        )
    return TenCrop(size, resize, transform.channels, transform.interpolation)


@register_protocol("multi_scale")
def _multi_scale(transform: data.Transform, sides: Sequence[int] | None) -> Protocol:
    if sides is None and not isinstance(transform, data.ResizeCenterCrop):
        raise EvaluationError(
            "multi_scale would enlarge images that are not resized otherwise; choose protocol "
            "center, or give --scales"
        )
    sides = PAPER_SIDES if sides is None else tuple(sides)
    if not sides or min(sides) < 1:
        raise EvaluationError(f"the scales {sides} are not positive numbers of pixels; fix it")
    interpolation = getattr(transform, "interpolation", "bilinear")
    return MultiScale(sides, transform.channels, interpolation)


def make_protocol(
    name: str,
    transform: data.Transform,
    sides: Sequence[int] | None = None,
    on_bad_image: str = "error",
) -> Protocol:
    """Returns a protocol.

    Args:
      name: `"center"`, `"ten_crop"`, `"multi_scale"`, or a name of `register_protocol`.
      transform: the view of `"center"`; `"ten_crop"` takes its sizes from it.
      sides: lengths of the shorter side for `"multi_scale"`; by default the paper's.
      on_bad_image: see `Protocol`.

    Raises:
      EvaluationError: the name is unknown, the scales are invalid, or the transform neither scales
        nor crops and the name is `"ten_crop"`, or `"multi_scale"` without `sides`.
    """
    protocol: Protocol = PROTOCOLS[name](transform, sides)
    return dataclasses.replace(protocol, on_bad_image=on_bad_image)
