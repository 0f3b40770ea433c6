"""Training targets: anchors and proposals matched to an image's boxes, and drawn at random.

Everything is of one image; `jax.vmap` makes a batch of it. An image's boxes are padded to a fixed
number, with a mask of the real ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.boxes import Boxes, Mask, iou, share_inside

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    """What anchors or proposals are matched to.

    Attributes:
      indices: the box that each overlaps most; 0 if it overlaps none.
      labels: 1 positive, 0 negative, -1 ignored.
    """

    indices: Int[Array, " n"]
    labels: Int[Array, " n"]


class Sample(NamedTuple):
    """Anchors or proposals drawn for a step.

    Attributes:
      indices: which ones; positives first, and 0 after the last.
      labels: 1 positive, 0 negative, -1 after the last.
    """

    indices: Int[Array, " size"]
    labels: Int[Array, " size"]


def match(
    anchors: Boxes,
    valid: Mask,
    boxes: Float[Array | np.ndarray, "m 4"],
    real: Bool[Array | np.ndarray, " m"],
    crowd: Bool[Array | np.ndarray, " m"],
    high: float,
    low: float,
    best_counts: bool,
) -> Matches:
    """Matches anchors or proposals to an image's boxes by their IoU.

    Positive are those with an IoU of at least `high` and, if `best_counts`, of each box those that
    overlap it most: all of them if several do, none if that is 0. Negative are those below `low`,
    unless half of their area or more is inside a crowd.

    Args:
      anchors: the anchors or proposals.
      valid: which of them take part; the others are ignored and are not the best of any box.
      boxes: the image's boxes.
      real: which rows are boxes and not padding.
      crowd: which of them are regions with many objects: no target.
      high: least IoU of a positive.
      low: IoU that a negative stays below.
      best_counts: whether a box's best anchors are positive, too, as in the RPN.
    """
    overlaps = jnp.where(valid[:, None] & (real & ~crowd), iou(anchors, boxes), 0)
    # The best is found by equality: no compiler may compute these twice and round differently.
    overlaps = lax.optimization_barrier(overlaps)
    most = jnp.max(overlaps, axis=1)
    positive = most >= high
    if best_counts:
        best = jnp.max(overlaps, axis=0)
        positive |= jnp.any((overlaps == best) & (best > 0), axis=1)
    in_crowd = jnp.any((share_inside(anchors, boxes) >= 0.5) & real & crowd, axis=1)
    negative = (most < low) & ~in_crowd
    labels = jnp.where(positive, POSITIVE, jnp.where(negative, NEGATIVE, IGNORED))
    indices = jnp.argmax(overlaps, axis=1).astype(jnp.int32)
    return Matches(indices, jnp.where(valid, labels, IGNORED))


def sample(
    key: Array, labels: Int[Array | np.ndarray, " n"], size: int, positive_share: float
) -> Sample:
    """Draws at most `size` positives and negatives without replacement.

    Positives are at most the given share of `size`, rounded down; negatives fill up the rest.

    Args:
      key: of the random numbers; the same key draws the same. For results that do not depend on
        the number of devices, a key per image and step.
      labels: 1 positive, 0 negative, -1 neither.
      size: number to draw; the result is shorter if there are fewer `labels`.
      positive_share: greatest share of positives.
    """
    size, most = min(size, len(labels)), min(int(size * positive_share), len(labels))
    priorities = jax.random.uniform(key, labels.shape, jnp.float32)
    _, positives = lax.top_k(jnp.where(labels == POSITIVE, priorities, -1), most)
    _, negatives = lax.top_k(jnp.where(labels == NEGATIVE, priorities, -1), size)
    num_positives = jnp.minimum(jnp.sum(labels == POSITIVE), min(most, size))
    num_negatives = jnp.minimum(jnp.sum(labels == NEGATIVE), size - num_positives)
    place = jnp.arange(size)
    # With more than all there are asked for, `positives` may be longer.
    positives = jnp.pad(positives, (0, max(size - most, 0)))[:size]
    after = negatives[jnp.maximum(place - num_positives, 0)]
    indices = jnp.where(place < num_positives, positives, after)
    drawn = place < num_positives + num_negatives
    drawn_labels = jnp.where(place < num_positives, POSITIVE, NEGATIVE)
    return Sample(
        jnp.where(drawn, indices, 0).astype(jnp.int32), jnp.where(drawn, drawn_labels, IGNORED)
    )


def sampled_labels(drawn: Sample, length: int) -> Int[Array, " {length}"]:
    """Returns the labels of all anchors after a draw: -1 for those that were not drawn."""
    places = jnp.where(drawn.labels == IGNORED, length, drawn.indices)
    return jnp.full(length, IGNORED).at[places].set(drawn.labels, mode="drop")


def with_boxes(
    proposals: Boxes,
    valid: Mask,
    boxes: Float[Array | np.ndarray, "m 4"],
    real: Bool[Array | np.ndarray, " m"],
    crowd: Bool[Array | np.ndarray, " m"],
) -> tuple[Float[Array, "k 4"], Bool[Array, " k"]]:
    """Returns the proposals followed by the image's boxes, and which rows are valid.

    An image's own boxes give the head positives from the first step on; padding and crowds do not
    take part.
    """
    return (
        lax.stop_gradient(jnp.concatenate([proposals, boxes])),
        jnp.concatenate([valid, real & ~crowd]),
    )
