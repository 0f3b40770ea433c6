"""The four losses of Faster R-CNN, as sums with counts, so that they add up over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from resnet_jax.detection.model.matching import IGNORED, POSITIVE


class Term(struct.PyTreeNode):
    """A loss of several examples.

    Attributes:
      total: the sum of their losses.
      count: what to divide it by, zero if there are none.
    """

    total: Float[Array, ""]
    count: Float[Array, ""]

    def mean(self) -> Float[Array, ""]:
        """Returns the loss; zero, with zero gradients, if there are no examples."""
        return self.total / jnp.maximum(self.count, 1)


def smooth_l1(
    difference: Float[Array | np.ndarray, "*batch"], beta: float
) -> Float[Array, "*batch"]:
    """Returns d^2 / (2 beta) for an absolute difference d below beta, otherwise d - beta / 2.

    With a beta of 0 it is the absolute difference, Detectron2's loss.
    """
    # Unlike JAX's absolute value, this has PyTorch's derivative at zero: zero.
    difference = jnp.asarray(difference)
    size = difference * jnp.sign(difference)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)


def rpn_losses(
    logits: Float[Array | np.ndarray, "n a"],
    deltas: Float[Array | np.ndarray, "n a 4"],
    labels: Int[Array | np.ndarray, "n a"],
    targets: Float[Array | np.ndarray, "n a 4"],
    beta: float,
    anchors_per_image: int | None = None,
) -> tuple[Term, Term]:
    """Returns the loss of objectness, over sampled anchors, and of boxes, over positive ones.

    Args:
      logits: objectness of each anchor.
      deltas: predicted regression.
      labels: 1 and 0 for sampled positives and negatives, -1 for all others.
      targets: regression targets of the positives; finite for all.
      beta: of the smooth L1 loss.
      anchors_per_image: the count per image, also where fewer were sampled (Detectron2); by default
        both losses are divided by the number of sampled anchors (torchvision, py-faster-rcnn).
    """
    logits, deltas = _exact(logits), _exact(deltas)
    sampled, positive = labels != IGNORED, labels == POSITIVE
    objectness = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    box = jnp.sum(smooth_l1(deltas - targets, beta), -1)
    count = jnp.sum(sampled, dtype=logits.dtype)
    if anchors_per_image is not None:
        count = jnp.asarray(anchors_per_image * len(labels), logits.dtype)
    return _term(objectness, sampled, count), _term(box, positive, count)


def head_losses(
    logits: Float[Array | np.ndarray, "n r k"],
    deltas: Float[Array | np.ndarray, "n r b 4"],
    labels: Int[Array | np.ndarray, "n r"],
    targets: Float[Array | np.ndarray, "n r 4"],
    beta: float,
) -> tuple[Term, Term]:
    """Returns the loss of classes, over sampled regions, and of boxes, over those of an object.

    Both are divided by the number of sampled regions, in all houses.

    Args:
      logits: of the classes and, last, the background.
      deltas: predicted regression of each class; a row of the background is not read.
      labels: the class; the number of classes for background, -1 for regions not sampled.
      targets: regression targets of regions of an object; finite for all.
      beta: of the smooth L1 loss.
    """
    logits, deltas = _exact(logits), _exact(deltas)
    background = logits.shape[-1] - 1
    sampled = labels != IGNORED
    positive = sampled & (labels < background)
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    # A sum, not an index: its gradient is the same in every run on a GPU, too.
    own = jax.nn.one_hot(labels, deltas.shape[-2], dtype=deltas.dtype)[..., None]
    box = jnp.sum(smooth_l1(jnp.sum(own * deltas, -2) - targets, beta), -1)
    count = jnp.sum(sampled, dtype=logits.dtype)
    return _term(classes, sampled, count), _term(box, positive, count)


def _exact(x: Array | np.ndarray) -> Array:
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def _term(losses: Array, where: Array | np.ndarray, count: Array) -> Term:
    return Term(total=jnp.sum(jnp.where(where, losses, 0)), count=count)
