"""Detections from the classes and boxes of an image's regions."""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.boxes import clip, large_enough
from resnet_jax.detection.model.nms import nms, vote


class Detections(struct.PyTreeNode):
    """An image's detections, the best first.

    Attributes:
      boxes: zero after the last.
      scores: probabilities; zero after the last.
      labels: classes 0, 1, ...; -1 after the last.
      count: how many there are.
    """

    boxes: Float[Array, "n 4"]
    scores: Float[Array, " n"]
    labels: Int[Array, " n"]
    count: Int[Array, ""]


def detections(
    scores: Float[Array | np.ndarray, "n k"],
    boxes: Float[Array | np.ndarray, "n k 4"],
    valid: Bool[Array | np.ndarray, " n"],
    size: Int[Array | np.ndarray, " 2"],
    score_threshold: float,
    threshold: float,
    number: int,
    smallest: float = 0.0,
    votes: bool = False,
    candidates: int = 2_000,
) -> Detections:
    """Suppresses the boxes of each class, and keeps the best of all classes.

    Only the best `candidates` are sorted, and all where more could matter: the result is always
    that of all. Under `jax.vmap` both are computed; use `jax.lax.map` for a batch. To refine
    (Appendix B), join the predictions of both passes before the call.

    Args:
      scores: probabilities of each region's classes, without the background's; the softmax is over
        the background, too.
      boxes: each class's box of each region.
      valid: which regions take part.
      size: height and width of the image, at which boxes are cut.
      score_threshold: what a detection's score is above.
      threshold: greatest IoU of two detections of a class.
      number: greatest number of detections.
      smallest: least width and height of a detection after the cut.
      votes: whether the kept boxes are moved by `vote`.
      candidates: number of class boxes that are sorted first.
    """
    boxes = clip(jnp.reshape(boxes, (-1, 4)), size)
    flat = jnp.reshape(scores, -1)
    above = jnp.repeat(valid, scores.shape[1]) & (flat > score_threshold)
    above &= large_enough(boxes, smallest)
    ranked = lax.stop_gradient(jnp.where(above, flat, -1))
    labels = jnp.tile(jnp.arange(scores.shape[1], dtype=jnp.int32), len(scores))

    def among(best: int) -> Detections:
        top, index = lax.top_k(ranked, best)
        ours, classes, counts = boxes[index], labels[index], top >= 0
        kept = nms(ours, top, classes, counts, threshold, number)
        used = jnp.arange(number) < kept.count
        chosen = ours[kept.indices]
        if votes:
            chosen = vote(chosen, classes[kept.indices], ours, top, classes, counts)
        return Detections(
            boxes=jnp.where(used[:, None], chosen, 0),
            scores=jnp.where(used, top[kept.indices], 0),
            labels=jnp.where(used, classes[kept.indices], -1),
            count=kept.count,
        )

    if candidates >= len(flat):
        return among(len(flat))
    found = among(candidates)
    enough = jnp.sum(above) <= candidates
    if not votes:  # What scores less than the last of them suppresses none of them.
        enough |= found.count == number
    return lax.cond(enough, lambda: found, lambda: among(len(flat)))
