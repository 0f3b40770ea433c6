"""Anchors: boxes of several sizes and shapes around every place of a map.

The houses differ: torchvision rounds base anchors to whole numbers and divides an image by its map
to find the stride; Detectron2 does neither and lists sizes before ratios. The paper's anchors are
those of py-faster-rcnn, which rounds the shape of a 16x16 cell and multiplies it.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.boxes import Boxes

CELL = 16
"""Side of the cell, in pixels, whose shape the paper's anchors multiply."""


def base_anchors(
    sizes: Sequence[float],
    ratios: Sequence[float],
    rounding: str = "none",
    ratios_first: bool = True,
) -> Float[np.ndarray, "a 4"]:
    """Returns the anchors about the origin, in float64.

    Args:
      sizes: square roots of the areas, in pixels.
      ratios: heights over widths.
      rounding: "none"; "corners", torchvision's, to whole numbers, half to even; or "cell", the
        paper's: the width and height of a 16x16 cell of each ratio are rounded and then scaled.
      ratios_first: whether the anchors of the first ratio come first, not those of the first size.
    """
    if ratios_first:
        pairs = [(size, ratio) for ratio, size in itertools.product(ratios, sizes)]
    else:
        pairs = list(itertools.product(sizes, ratios))
    size, ratio = np.array(pairs, np.float64).T
    width, height = size / np.sqrt(ratio), size * np.sqrt(ratio)
    if rounding == "cell":
        columns = np.round(CELL / np.sqrt(ratio))
        width, height = columns * size / CELL, np.round(columns * ratio) * size / CELL
    corners = np.stack([-width, -height, width, height], -1) / 2
    return np.round(corners) if rounding == "corners" else corners


def grid_anchors(
    base: Float[np.ndarray, "a 4"],
    map_size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: float = 0.0,
) -> Float[np.ndarray, "n 4"]:
    """Returns the anchors of a map, by row, column and base anchor, in float64.

    Args:
      base: the anchors about the origin.
      map_size: rows and columns of the map.
      stride: pixels between rows and between columns.
      offset: place of the first anchors' centre, in strides.
    """
    y, x = ((np.arange(map_size[axis]) + offset) * stride[axis] for axis in (0, 1))
    y, x = np.meshgrid(y, x, indexing="ij")
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


def map_strides(
    image_size: tuple[int, ...], map_size: tuple[int, ...], stride: int, divide: bool
) -> tuple[int, ...]:
    """Returns the pixels between rows and columns of a map.

    Args:
      image_size: height and width of the padded image.
      map_size: rows and columns.
      stride: the network's stride there.
      divide: whether to divide image by map instead and drop the rest, as torchvision does: 800
        pixels and 13 rows are 61 pixels a row, though the stride is 64.
    """
    if not divide:
        return stride, stride
    return image_size[0] // map_size[0], image_size[1] // map_size[1]


def own_places(
    map_size: tuple[int, ...],
    stride: int,
    num_base: int,
    size: Int[Array | np.ndarray, " 2"],
) -> Bool[Array, " n"]:
    """Returns which anchors of a map are at places of the image itself, not of its padding.

    Args:
      map_size: rows and columns of the padded image's map.
      stride: the network's stride there; a layer maps a height h to ceil(h / stride).
      num_base: number of anchors per place.
      size: height and width of the image in the upper left corner.
    """
    rows, columns = (jnp.arange(map_size[i]) < -(-size[i] // stride) for i in (0, 1))
    return jnp.repeat((rows[:, None] & columns).reshape(-1), num_base)


def within(boxes: Boxes, size: Int[Array | np.ndarray, " 2"]) -> Bool[Array, " n"]:
    """Returns which boxes cross no border of an image of (height, width)."""
    x1, y1, x2, y2 = jnp.asarray(boxes).T
    return (x1 >= 0) & (y1 >= 0) & (x2 <= size[1]) & (y2 <= size[0])
