"""RoIAlign (arXiv 1703.06870) as torchvision's operator computes it, on one map or a pyramid.

Every bin is the mean of bilinear samples, which is separable: rows times map times columns. Small
maps are pooled by these two matrix products, large ones by gathering the samples' four pixels. The
gradient is that of the products for both, so that it is the same in every run: a gather's own
gradient adds into memory in no fixed order on a GPU.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.detection.model.boxes import Boxes, area

MATRIX_CELLS = 17_000
"""Maps of at most this many places, all levels together, are pooled by matrix products."""

_CHUNK = 16  # RoIs at a time.

Maps = Sequence[Float[Array | np.ndarray, "_h _w c"]]


class Pooling(NamedTuple):
    """How regions are pooled.

    Attributes:
      bins: rows and columns of the result.
      samples: samples per bin and axis; 0 for as many as a bin has pixels of the map, rounded up.
      aligned: whether a map's pixel is at its centre, so that coordinates are half a pixel less
        (Detectron2), or at its corner, with regions of at least one pixel (torchvision).
    """

    bins: int
    samples: int
    aligned: bool


class _Axis(NamedTuple):
    """The samples of regions along one axis of their maps."""

    start: Float[Array, " n"]
    bin: Float[Array, " n"]
    samples: Int[Array, " n"]
    length: Int[Array, " n"]


def roi_align(
    maps: Maps,
    boxes: Boxes,
    levels: Int[Array | np.ndarray, " n"],
    lengths: Int[Array | np.ndarray, "l 2"],
    strides: Sequence[int],
    pooling: Pooling,
) -> Float[Array, "n {pooling.bins} {pooling.bins} c"]:
    """Returns the pooled features of an image's regions, in the dtype of the maps.

    The gradient flows to the maps alone. `jax.vmap` makes a batch of it.

    Args:
      maps: the image's map of each level.
      boxes: the regions, in pixels of the image.
      levels: the map of each region; all 0 for a single map.
      lengths: rows and columns of each map that belong to the image, not to its padding. Samples
        more than a pixel outside them count as zero, others as the nearest pixel.
      strides: pixels of the image per place of each map.
      pooling: bins and samples.
    """
    boxes = lax.stop_gradient(jnp.asarray(boxes))
    scales = tuple(1 / stride for stride in strides)
    maps = tuple(jnp.asarray(one) for one in maps)
    return _pooled(pooling, scales, maps, boxes, jnp.asarray(levels), jnp.asarray(lengths))


def box_levels(boxes: Boxes, lowest: int, highest: int, inside: bool = False) -> Int[Array, " n"]:
    r"""Returns each box's level of a pyramid, 0 for the lowest (arXiv 1612.03144, equation 1).

    $$\lfloor 4 + \log_2(\sqrt{area} / 224) \rfloor$$

    It compares instead of taking a logarithm, which a box without area has not.

    Args:
      boxes: the boxes, in pixels.
      lowest: the level of the finest map, 2 for a stride of 4.
      highest: the level of the coarsest map.
      inside: whether 1e-8 is added inside the logarithm (Detectron2), not 1e-6 to it (torchvision).
    """
    ratio = jnp.sqrt(jnp.maximum(area(boxes), 0)) / 224
    ratio = ratio + 1e-8 if inside else ratio * 2**1e-6
    limits = 2.0 ** (np.arange(lowest + 1, highest + 1) - 4)
    return jnp.sum(ratio[:, None] >= limits, axis=1, dtype=jnp.int32)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pooled(
    pooling: Pooling,
    scales: tuple[float, ...],
    maps: tuple[Array, ...],
    boxes: Array,
    levels: Array,
    lengths: Array,
) -> Array:
    cells = sum(one.shape[0] * one.shape[1] for one in maps)
    form = _by_matrices if cells <= MATRIX_CELLS else _by_gathers
    rows, columns = _axes(pooling, scales, boxes, levels, lengths)
    chunks = _in_chunks((rows, columns, levels))
    pooled = lax.map(lambda chunk: form(pooling, maps, *chunk), chunks)
    pooled = pooled.reshape(-1, *pooled.shape[2:])[: len(boxes)]
    return pooled.astype(maps[0].dtype)


def _forward(
    pooling: Pooling,
    scales: tuple[float, ...],
    maps: tuple[Array, ...],
    boxes: Array,
    levels: Array,
    lengths: Array,
) -> tuple[Array, tuple[tuple[Array, ...], Array, Array, Array]]:
    # Maps without channels: the gradient needs the shapes alone.
    kept = tuple(one[..., :0] for one in maps)
    pooled = _pooled(pooling, scales, maps, boxes, levels, lengths)
    return pooled, (kept, boxes, levels, lengths)


def _backward(
    pooling: Pooling,
    scales: tuple[float, ...],
    kept: tuple[tuple[Array, ...], Array, Array, Array],
    gradient: Array,
) -> tuple[tuple[Array, ...], Array, np.ndarray, np.ndarray]:
    maps, boxes, levels, lengths = kept
    rows, columns = _axes(pooling, scales, boxes, levels, lengths)
    chunks = _in_chunks((rows, columns, levels, gradient))
    exact = jnp.promote_types(gradient.dtype, jnp.float32)

    def add(sums: list[Array], chunk: Any) -> tuple[list[Array], None]:
        rows, columns, levels, gradient = chunk
        added = []
        for level, total in enumerate(sums):
            of_rows = _matrix(pooling, rows, total.shape[0], gradient.dtype, levels == level)
            of_columns = _matrix(pooling, columns, total.shape[1], gradient.dtype)
            by_row = _product("njx,nijc->nixc", of_columns, gradient).astype(gradient.dtype)
            added.append(total + _product("niy,nixc->yxc", of_rows, by_row))
        return added, None

    zeros = [jnp.zeros((*one.shape[:2], gradient.shape[-1]), exact) for one in maps]
    sums, _ = lax.scan(add, zeros, chunks)
    of_maps = tuple(total.astype(one.dtype) for total, one in zip(sums, maps, strict=True))
    of_levels, of_lengths = (np.zeros(a.shape, jax.dtypes.float0) for a in (levels, lengths))
    return of_maps, jnp.zeros_like(boxes), of_levels, of_lengths


_pooled.defvjp(_forward, _backward)


def _in_chunks(regions: Any) -> Any:
    """Returns arrays [n, ...] as [chunks, regions per chunk, ...], padded with zeros."""

    def split(a: Array) -> Array:
        padded = jnp.pad(a, [(0, -len(a) % _CHUNK)] + [(0, 0)] * (a.ndim - 1))
        return padded.reshape(-1, _CHUNK, *a.shape[1:])

    return jax.tree.map(split, regions)


def _axes(
    pooling: Pooling, scales: tuple[float, ...], boxes: Array, levels: Array, lengths: Array
) -> tuple[_Axis, _Axis]:
    """Returns the samples of all regions along rows and along columns."""
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    scaled = boxes * jnp.asarray(scales, boxes.dtype)[levels][:, None]
    scaled = scaled - 0.5 if pooling.aligned else scaled
    y, x = scaled[:, 1::2], scaled[:, 0::2]
    return _axis(pooling, y, lengths[levels, 0]), _axis(pooling, x, lengths[levels, 1])


def _axis(pooling: Pooling, ends: Float[Array, "n 2"], length: Int[Array, " n"]) -> _Axis:
    extent = ends[:, 1] - ends[:, 0]
    extent = extent if pooling.aligned else jnp.maximum(extent, 1)
    # XLA makes a product of a division by a constant, which rounds otherwise, too.
    size = extent / jnp.where(jnp.isnan(extent), extent, pooling.bins)
    samples = jnp.full(extent.shape, pooling.samples, jnp.int32)
    if pooling.samples == 0:
        samples = jnp.nan_to_num(jnp.ceil(size)).astype(jnp.int32)
    return _Axis(ends[:, 0], size, samples, length)


def _sample(
    pooling: Pooling, axis: _Axis, index: Array | int
) -> tuple[Int[Array, "n b"], Int[Array, "n b"], Float[Array, "n b"], Float[Array, "n b"]]:
    """Returns the two pixels of a sample of each bin, and their shares in the bin's mean."""
    start, size, samples, length = (one[:, None] for one in axis)
    count = jnp.maximum(samples, 1)
    # The selection keeps compilers from fusing product and sum, which rounds otherwise than the
    # operator does: at a map's 16th pixel, by 1e-6 of a pixel.
    to_bin = jnp.where(jnp.isnan(size), size, jnp.arange(pooling.bins) * size)
    place = start + to_bin + (index + 0.5) * size / count
    inside = (place >= -1) & (place <= length) & (index < samples)
    place = jnp.where(inside, jnp.maximum(place, 0), 0)
    last = jnp.maximum(length - 1, 0)  # A region that fills up a chunk has no length.
    low = jnp.minimum(place.astype(jnp.int32), last)
    high = jnp.minimum(low + 1, last)
    part = jnp.where(high > low, place - low, 0)
    share = inside / count.astype(place.dtype)
    return low, high, (1 - part) * share, part * share


def _matrix(
    pooling: Pooling,
    axis: _Axis,
    length: int,
    dtype: np.dtype,
    chosen: Array | None = None,
) -> Float[Array, "n b l"]:
    """Returns the weight of each of a map's pixels in each bin; zero for regions not chosen."""
    pixels = jnp.arange(length)

    def add(index: Array | int, total: Array) -> Array:
        low, high, low_share, high_share = _sample(pooling, axis, index)
        total = total + jnp.where(pixels == low[..., None], low_share[..., None], 0)
        return total + jnp.where(pixels == high[..., None], high_share[..., None], 0)

    total = jnp.zeros((len(axis.start), pooling.bins, length), axis.start.dtype)
    total = _loop(pooling, axis, add, total)
    return (total if chosen is None else jnp.where(chosen[:, None, None], total, 0)).astype(dtype)


def _loop(
    pooling: Pooling, axis: _Axis, body: Callable[[Array | int, Array], Array], total: Array
) -> Array:
    """Calls `body(index, total)` for each sample of a bin; returns the last total."""
    if pooling.samples == 0:
        return lax.fori_loop(0, jnp.max(axis.samples), body, total)
    for index in range(pooling.samples):
        total = body(index, total)
    return total


def _by_matrices(
    pooling: Pooling, maps: tuple[Array, ...], rows: _Axis, columns: _Axis, levels: Array
) -> Float[Array, "n b b c"]:
    total = jnp.zeros(())
    for level, one in enumerate(maps):
        of_rows = _matrix(pooling, rows, one.shape[0], one.dtype, levels == level)
        of_columns = _matrix(pooling, columns, one.shape[1], one.dtype)
        pooled = _product("niy,yxc->nixc", of_rows, one).astype(one.dtype)
        total = total + _product("njx,nixc->nijc", of_columns, pooled)
    return total


def _by_gathers(
    pooling: Pooling, maps: tuple[Array, ...], rows: _Axis, columns: _Axis, levels: Array
) -> Float[Array, "n b b c"]:
    """Pools from all maps laid end to end: a level is but where its map starts, and its width."""
    cells = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])
    widths = [one.shape[1] for one in maps]
    starts = np.cumsum([0] + [one.shape[0] * one.shape[1] for one in maps])[:-1]
    width, start = (jnp.asarray(a)[levels][:, None, None] for a in (widths, starts))

    def add_row(row: Array | int, total: Array) -> Array:
        y = _sample(pooling, rows, row)

        def add(column: Array | int, total: Array) -> Array:
            x = _sample(pooling, columns, column)
            for i, j in np.ndindex(2, 2):
                places = start + y[i][:, :, None] * width + x[j][:, None, :]
                share = (y[2 + i][:, :, None] * x[2 + j][:, None, :])[..., None]
                total = total + share * cells[places]
            return total

        return _loop(pooling, columns, add, total)

    dtype = jnp.promote_types(cells.dtype, rows.start.dtype)
    shape = (len(levels), pooling.bins, pooling.bins, cells.shape[-1])
    return _loop(pooling, rows, add_row, jnp.zeros(shape, dtype))


def _product(equation: str, *operands: Array) -> Array:
    """Returns an einsum in at least float32, on every device."""
    exact = jnp.promote_types(operands[-1].dtype, jnp.float32)
    return jnp.einsum(
        equation, *operands, precision=lax.Precision.HIGHEST, preferred_element_type=exact
    )
