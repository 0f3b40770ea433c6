"""Boxes [x1, y1, x2, y2]: half-open, in pixels, so that a width is x2 - x1."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Coordinates = Float[Array | np.ndarray, "... 4"]
Boxes = Float[Array | np.ndarray, "n 4"]
Mask = Bool[Array | np.ndarray, " n"]
Weights = tuple[float, float, float, float]

MAX_LOG_SCALE = math.log(1000 / 16)
"""`decode` widens a box at most by the factor 1000 / 16, so that no exponential overflows."""


def area(boxes: Float[Array | np.ndarray, "*batch 4"]) -> Float[Array, "*batch"]:
    """Returns widths times heights."""
    x1, y1, x2, y2 = _corners(boxes)
    return (x2 - x1) * (y2 - y1)


def intersection(one: Boxes, other: Float[Array | np.ndarray, "m 4"]) -> Float[Array, "n m"]:
    """Returns the area that each box has in common with each of the others."""
    a1, b1, a2, b2 = (side[:, None] for side in _corners(one))
    c1, d1, c2, d2 = _corners(other)
    width = jnp.minimum(a2, c2) - jnp.maximum(a1, c1)
    height = jnp.minimum(b2, d2) - jnp.maximum(b1, d1)
    # Selecting after the product, unlike clamping before it, also keeps compilers from fusing the
    # product with a later sum; so the area is rounded as on every other machine.
    return jnp.where((width > 0) & (height > 0), width * height, 0)


def iou(one: Boxes, other: Float[Array | np.ndarray, "m 4"]) -> Float[Array, "n m"]:
    """Returns each pair's intersection over union; 0 for boxes without a common area."""
    common = intersection(one, other)
    union = area(one)[:, None] + area(other) - common
    return jnp.where(common > 0, common / jnp.where(common > 0, union, 1), 0)


def share_inside(one: Boxes, other: Float[Array | np.ndarray, "m 4"]) -> Float[Array, "n m"]:
    """Returns the share of each box's area that is inside each of the others; 0 if it has none."""
    common = intersection(one, other)
    return jnp.where(common > 0, common / jnp.where(common > 0, area(one)[:, None], 1), 0)


def clip(
    boxes: Float[Array | np.ndarray, "*batch 4"], size: Int[Array | np.ndarray, " 2"]
) -> Float[Array, "*batch 4"]:
    """Returns the boxes cut at the borders of an image of (height, width)."""
    limits = jnp.asarray([size[1], size[0], size[1], size[0]], jnp.asarray(boxes).dtype)
    return jnp.clip(boxes, 0, limits)


def large_enough(
    boxes: Float[Array | np.ndarray, "*batch 4"], least: float
) -> Bool[Array, "*batch"]:
    """Returns which boxes are at least so many pixels wide and high, and not empty or NaN."""
    x1, y1, x2, y2 = _corners(boxes)
    shorter = jnp.minimum(x2 - x1, y2 - y1)
    return (shorter >= least) & (shorter > 0)


def encode(
    boxes: Float[Array | np.ndarray, "*batch 4"],
    anchors: Float[Array | np.ndarray, "*batch 4"],
    where: Bool[Array | np.ndarray, "*batch"],
    weights: Weights = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*batch 4"]:
    r"""Returns the regression targets that turn anchors into boxes.

    $$(10 \frac{x - x_a}{w_a}, 10 \frac{y - y_a}{h_a}, 5 \log \frac{w}{w_a}, 5 \log \frac{h}{h_a})$$

    with centres x, y, widths w, heights h, and weights of (10, 10, 5, 5).

    Args:
      boxes: the boxes to reach, such as the ground truth matched to each anchor.
      anchors: where they start; anchors or proposals.
      where: for which rows. The others are zero and may hold any boxes, also empty ones: they are
        replaced before the logarithm, so that no NaN arises, nor one in a gradient.
      weights: factors of the four targets.
    """
    unit = jnp.asarray([0, 0, 1, 1], jnp.asarray(anchors).dtype)
    boxes = jnp.where(where[..., None], boxes, unit)
    anchors = jnp.where(where[..., None], anchors, unit)
    x, y, width, height = _centred(boxes)
    anchor_x, anchor_y, anchor_width, anchor_height = _centred(anchors)
    targets = (
        weights[0] * (x - anchor_x) / anchor_width,
        weights[1] * (y - anchor_y) / anchor_height,
        weights[2] * jnp.log(width / anchor_width),
        weights[3] * jnp.log(height / anchor_height),
    )
    return jnp.stack(targets, -1)


def decode(
    deltas: Coordinates, anchors: Coordinates, weights: Weights = (1.0, 1.0, 1.0, 1.0)
) -> Float[Array, "... 4"]:
    """Returns the boxes to which deltas move anchors: the inverse of `encode`.

    The logarithms of both scales are cut at `MAX_LOG_SCALE`. The result is at least float32.

    Args:
      deltas: predicted targets; for several classes [n, classes, 4] with anchors [n, 1, 4].
      anchors: where they start.
      weights: those of `encode`.
    """
    deltas = jnp.asarray(deltas, jnp.promote_types(jnp.asarray(deltas).dtype, jnp.float32))
    x, y, width, height = _centred(anchors)
    dx, dy, dw, dh = (deltas[..., i] / weights[i] for i in range(4))
    x, y = dx * width + x, dy * height + y
    half_width = 0.5 * jnp.exp(jnp.minimum(dw, MAX_LOG_SCALE)) * width
    half_height = 0.5 * jnp.exp(jnp.minimum(dh, MAX_LOG_SCALE)) * height
    return jnp.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def _corners(boxes: Float[Array | np.ndarray, "*batch 4"]) -> list[Float[Array, "*batch"]]:
    return [jnp.asarray(boxes)[..., i] for i in range(4)]


def _centred(boxes: Float[Array | np.ndarray, "*batch 4"]) -> list[Float[Array, "*batch"]]:
    """Returns centres, widths and heights."""
    x1, y1, x2, y2 = _corners(boxes)
    width, height = x2 - x1, y2 - y1
    return [x1 + 0.5 * width, y1 + 0.5 * height, width, height]
