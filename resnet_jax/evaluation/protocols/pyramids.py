"""Images at several scales, batched with one padded shape per scale."""

import dataclasses
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from resnet_jax.data import DataError, Source
from resnet_jax.data.images.decode import open_image
from resnet_jax.data.sources.base import BadImageError, broken_image, read_example
from resnet_jax.data.transforms.five_crops import scaled
from resnet_jax.evaluation.protocols.padded import MULTIPLE
from resnet_jax.evaluation.protocols.views import View, ViewBatch

_ASPECTS = (1.0, 4 / 3, 3 / 2, 2.0, 3.0)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pyramid:
    """An image at several scales."""

    index: int
    label: int
    levels: Sequence[UInt8[np.ndarray, "_h _w c"]]


def pyramid_batches(
    source: Source,
    sides: Sequence[int],
    channels: int,
    batch_size: int,
    *,
    skip_bad_images: bool = False,
    interpolation: str = "bilinear",
) -> Iterator[ViewBatch]:
    """Yields each image of a source once, with one view per scale.

    The images of a batch have similar aspect ratios, so that one padded shape per scale fits them
    all. An image waits until a batch of the same padded shapes is full; the last batches are filled
    with rows of padding. The shapes suit the few common aspect ratios of photographs, so batches
    hold little padding and few programs are compiled.

    Args:
      source: images of any size.
      sides: length of the shorter side for each scale.
      channels: number of channels to convert to: 1, 3 or 4.
      batch_size: rows of a batch.
      skip_bad_images: whether to skip images that cannot be decoded.
      interpolation: the filter, as for `ResizeCenterCrop`.

    Raises:
      DataError: an image cannot be decoded, or the batch size is below 1.
    """
    if batch_size < 1:
        raise DataError(f"the batch size is {batch_size}; choose a positive number")
    waiting: dict[tuple[tuple[int, int], ...], list[_Pyramid]] = defaultdict(list)
    images = _Pyramids(source, tuple(sides), channels, skip_bad_images, interpolation)
    for pyramid in _load(images):
        if pyramid is None:
            continue
        shapes = padded_shapes([level.shape[:2] for level in pyramid.levels])
        waiting[shapes].append(pyramid)
        if len(waiting[shapes]) == batch_size:
            yield _batch(waiting.pop(shapes), shapes, batch_size)
    for shapes, pyramids in waiting.items():
        yield _batch(pyramids, shapes, batch_size)


def padded_shapes(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Returns the padded height and width for each scale of an image.

    They have the smallest of a few aspect ratios (1:1, 4:3, 3:2, 2:1, 3:1, 6:1, 12:1, ...) that
    holds the image at all scales, rounded up to multiples of `MULTIPLE`.

    Args:
      sizes: the image's height and width at each scale.
    """
    for aspect in itertools.chain(_ASPECTS, (6.0 * 2**n for n in itertools.count())):
        shapes = [(_rounded(min(size)), _rounded(min(size) * aspect)) for size in sizes]
        if all(max(size) <= long for size, (_, long) in zip(sizes, shapes, strict=True)):
            break
    upright = any(height > width for height, width in sizes)
    return tuple((long, short) if upright else (short, long) for short, long in shapes)


@dataclasses.dataclass(frozen=True)
class _Pyramids:
    """The sequence of a source's images at several scales; None for a skipped image."""

    source: Source
    sides: tuple[int, ...]
    channels: int
    skip_bad_images: bool
    interpolation: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> _Pyramid | None:
        try:
            example = read_example(self.source, index)
        except BadImageError:
            if self.skip_bad_images:
                return None
            raise
        try:
            picture = open_image(example["image"], self.channels)
            levels = [scaled(picture, side, self.interpolation) for side in self.sides]
        except (OSError, ValueError) as error:
            if self.skip_bad_images:
                return None
            raise broken_image(self.source, index, error) from error
        return _Pyramid(index, example["label"], levels)


def _load(pyramids: _Pyramids) -> Iterator[_Pyramid | None]:
    """Yields the pyramids in order; threads make them ahead of time."""
    import grain

    num_threads = min(16, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    return iter(grain.MapDataset.source(pyramids).to_iter_dataset(options))


def _batch(
    pyramids: Sequence[_Pyramid], shapes: Sequence[tuple[int, int]], batch_size: int
) -> ViewBatch:
    channels = pyramids[0].levels[0].shape[2]
    images = [np.zeros((batch_size, *shape, channels), np.uint8) for shape in shapes]
    sizes = [np.tile(np.array(shape, np.int32), (batch_size, 1)) for shape in shapes]
    for row, pyramid in enumerate(pyramids):
        for level, out, size in zip(pyramid.levels, images, sizes, strict=True):
            height, width = size[row] = level.shape[:2]
            out[row, :height, :width] = level
    missing = batch_size - len(pyramids)
    return ViewBatch(
        index=np.pad(np.array([pyramid.index for pyramid in pyramids], np.int64), (0, missing)),
        label=np.pad(np.array([pyramid.label for pyramid in pyramids], np.int32), (0, missing)),
        mask=np.arange(batch_size) < len(pyramids),
        views=[View(*view) for view in zip(images, sizes, strict=True)],
    )


def _rounded(length: float) -> int:
    """Rounds a length in pixels up to a multiple of `MULTIPLE`."""
    # The product of a length and an aspect ratio may lie slightly above an integer.
    return -(-int(length + 0.999) // MULTIPLE) * MULTIPLE
