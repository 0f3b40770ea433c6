"""Non-maximum suppression, exact and greedy, with static shapes; box voting."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.boxes import Boxes, Mask, area, intersection, iou


class Kept(struct.PyTreeNode):
    """What `nms` keeps.

    Attributes:
      indices: of the kept boxes, by descending score; 0 after the last.
      count: how many there are, at most `size`.
    """

    indices: Int[Array, " size"]
    count: Int[Array, ""]


class _Candidates(NamedTuple):
    boxes: Array
    areas: Array
    groups: Array
    indices: Array


def nms(
    boxes: Boxes,
    scores: Float[Array | np.ndarray, " n"],
    groups: Int[Array | np.ndarray, " n"],
    valid: Mask,
    threshold: float,
    size: int,
    block: int = 256,
) -> Kept:
    """Keeps the best boxes of which no two of one group overlap by more than a threshold.

    The result is that of the greedy loop, index for index: by descending score, of equal scores the
    first, a box is kept unless its IoU with one kept before is *above* the threshold. Boxes are
    walked in blocks, and only until `size` are kept, so nothing needs to be left out before. Within
    a block, keep = alive and not any(keep and overlaps) is repeated until it does not change; this
    fixed point is the greedy result, because a box depends on those before it alone.

    There is no gradient. `jax.vmap` makes a batch of it.

    Args:
      boxes: the boxes.
      scores: their scores. Boxes whose score is NaN are left out.
      groups: what may suppress each other: the same level, or the same class.
      valid: which rows are boxes.
      threshold: greatest IoU of kept boxes, compared as a double, as torchvision compares it.
      size: greatest number of boxes to keep.
      block: number of boxes in a block.
    """
    boxes, scores = lax.stop_gradient((jnp.asarray(boxes), jnp.asarray(scores)))
    valid = jnp.asarray(valid) & ~jnp.isnan(scores)
    num_valid = jnp.sum(valid, dtype=jnp.int32)
    missing = -len(boxes) % block
    order = lax.sort((~valid, -scores, jnp.arange(len(boxes), dtype=jnp.int32)), num_keys=2)[-1]
    order = jnp.pad(order, (0, missing))
    queue = _Candidates(boxes[order], area(boxes)[order], jnp.asarray(groups)[order], order)
    limit = _at_most(threshold, boxes.dtype)

    def unfinished(state: tuple[Array, Array, _Candidates]) -> Array:
        start, count, _ = state
        return (count < size) & (start < num_valid)

    def walk(state: tuple[Array, Array, _Candidates]) -> tuple[Array, Array, _Candidates]:
        start, count, kept = state
        ours = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, block), queue)
        used = jnp.arange(size + block) < count
        struck = jnp.any(used[:, None] & _overlaps(kept, ours, limit), axis=0)
        alive = ~struck & (start + jnp.arange(block) < num_valid)
        keep = _greedy(alive, jnp.triu(_overlaps(ours, ours, limit), 1))
        # What is kept comes first; the next block overwrites the rest.
        first = jnp.argsort(~keep, stable=True)
        kept = jax.tree.map(
            lambda a, new: lax.dynamic_update_slice_in_dim(a, new[first], count, 0), kept, ours
        )
        return start + block, count + jnp.sum(keep, dtype=jnp.int32), kept

    nothing = jax.tree.map(lambda a: jnp.zeros((size + block, *a.shape[1:]), a.dtype), queue)
    _, count, kept = lax.while_loop(unfinished, walk, (jnp.int32(0), jnp.int32(0), nothing))
    count = jnp.minimum(count, size)
    return Kept(indices=jnp.where(jnp.arange(size) < count, kept.indices[:size], 0), count=count)


def vote(
    kept: Boxes,
    kept_groups: Int[Array | np.ndarray, " n"],
    boxes: Float[Array | np.ndarray, "m 4"],
    scores: Float[Array | np.ndarray, " m"],
    groups: Int[Array | np.ndarray, " m"],
    valid: Bool[Array | np.ndarray, " m"],
    threshold: float = 0.5,
) -> Float[Array, "n 4"]:
    """Returns kept boxes moved to the mean of their neighbours, weighted by score.

    This is the box voting of Gidaris and Komodakis (arXiv 1505.01749) in the paper's Appendix B. It
    follows `nms` and changes boxes alone, never their scores.

    Args:
      kept: the boxes that `nms` kept.
      kept_groups: their classes.
      boxes: all boxes, the kept ones with them.
      scores: their scores, not below zero.
      groups: their classes.
      valid: which rows are boxes. A row whose score is NaN is none.
      threshold: least IoU of a neighbour of the same class.
    """
    valid = valid & ~jnp.isnan(scores)
    near = (iou(kept, boxes) >= threshold) & (kept_groups[:, None] == groups) & valid
    votes = jnp.where(near, scores, 0)
    total = jnp.sum(votes, axis=1, keepdims=True)
    boxes = jnp.where(valid[:, None], boxes, 0)
    mean = jnp.matmul(votes, boxes, precision=lax.Precision.HIGHEST)
    return jnp.where(total > 0, mean / jnp.where(total > 0, total, 1), kept)


def _overlaps(one: _Candidates, other: _Candidates, limit: float) -> Bool[Array, "k b"]:
    """Returns which pairs of one group have an IoU above the limit."""
    common = intersection(one.boxes, other.boxes)
    union = one.areas[:, None] + other.areas - common
    return (common / union > limit) & (one.groups[:, None] == other.groups)


def _greedy(alive: Bool[Array, " b"], overlaps: Bool[Array, "b b"]) -> Bool[Array, " b"]:
    """Returns which of a block are kept; `overlaps` is strictly upper triangular."""

    def changed(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] != state[1])

    def again(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, keep = state
        return keep, alive & ~jnp.any(keep[:, None] & overlaps, axis=0)

    return lax.while_loop(changed, again, again((alive, alive)))[1]


def _at_most(threshold: float, dtype: np.dtype) -> float:
    """Returns the greatest number of a dtype that is not above a threshold.

    A float32 is above 0.3 in double precision if and only if it is above this number; the float32
    next to 0.3 is a little more than 0.3 and would not be above itself.
    """
    near = np.asarray(threshold, dtype)
    lower = np.nextafter(near, np.asarray(-np.inf, dtype))
    return float(near) if float(near) <= threshold else float(lower)
