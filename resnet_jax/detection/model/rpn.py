"""The region proposal network (arXiv 1506.01497): its head, and proposals from its output."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.boxes import clip, decode, large_enough
from resnet_jax.detection.model.fpn import Layer
from resnet_jax.detection.model.nms import nms

_init = nn.initializers.normal(0.01)


class RPNHead(nn.Module):
    """Objectness and regression of each anchor of a map; the same for all maps of a pyramid.

    Parameters: {"conv1": `Layer`, ..., "logits": `Layer`, "deltas": `Layer`}.

    Attributes:
      num_anchors: number of anchors at each place.
      num_convs: number of 3x3 convolutions before the predictions.
      channels: of these convolutions; by default as many as the map has.
      dtype: dtype of the convolutions; the predictions are float32.
    """

    num_anchors: int
    num_convs: int = 1
    channels: int | None = None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n a"], Array]:
        """Returns logits [n, a] and deltas [n, a, 4], by row, column and anchor."""
        channels = self.channels or x.shape[-1]
        for index in range(1, self.num_convs + 1):
            name = f"conv{index}"
            x = Layer(channels, 3, relu=True, dtype=self.dtype, kernel_init=_init, name=name)(x)
        x = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        logits = Layer(self.num_anchors, 1, kernel_init=_init, name="logits")(x)
        deltas = Layer(4 * self.num_anchors, 1, kernel_init=_init, name="deltas")(x)
        return logits.reshape(len(x), -1), deltas.reshape(len(x), -1, 4)


class Proposals(struct.PyTreeNode):
    """An image's proposals, the best first.

    Attributes:
      boxes: zero after the last.
      scores: logits, or probabilities if these were compared; zero after the last.
      count: how many there are.
    """

    boxes: Float[Array, "n 4"]
    scores: Float[Array, " n"]
    count: Int[Array, ""]

    @property
    def valid(self) -> Bool[Array, " n"]:
        """Which rows are proposals."""
        return jnp.arange(len(self.boxes)) < self.count


def propose(
    logits: Sequence[Float[Array | np.ndarray, " _a"]],
    deltas: Sequence[Float[Array | np.ndarray, "_a 4"]],
    anchors: Sequence[Float[Array | np.ndarray, "_a 4"]],
    valid: Sequence[Bool[Array | np.ndarray, " _a"]],
    size: Int[Array | np.ndarray, " 2"],
    pre_nms: int,
    post_nms: int,
    threshold: float,
    smallest: float,
    by_probability: bool = False,
) -> Proposals:
    """Chooses an image's best anchors, regresses them, and suppresses them level by level.

    There is no gradient: none flows through proposals. `jax.vmap` makes a batch of it.

    Args:
      logits: objectness of each level's anchors. An anchor whose logit is NaN is left out.
      deltas: their regression.
      anchors: their boxes.
      valid: which of them take part; not those at places of padding.
      size: height and width of the image, at which proposals are cut.
      pre_nms: number of anchors of each level before suppression.
      post_nms: number of proposals of all levels.
      threshold: greatest IoU of two proposals of a level.
      smallest: least width and height of a proposal after the cut.
      by_probability: whether levels are ordered by probability, as in torchvision. In float32 many
        logits have the same one, and of these the finer level's come first.
    """
    boxes, scores, groups, keep = [], [], [], []
    for level, (of_logits, of_deltas, of_anchors, of_valid) in enumerate(
        zip(logits, deltas, anchors, valid, strict=True)
    ):
        of_valid = of_valid & ~jnp.isnan(of_logits)
        ranked = lax.stop_gradient(jnp.where(of_valid, of_logits, -jnp.inf))
        best, index = lax.top_k(ranked, min(pre_nms, len(ranked)))
        moved = decode(lax.stop_gradient(of_deltas)[index], jnp.asarray(of_anchors)[index])
        moved = clip(moved, size)
        boxes.append(moved)
        scores.append(jax.nn.sigmoid(best) if by_probability else best)
        groups.append(jnp.full(len(index), level))
        keep.append(jnp.asarray(of_valid)[index] & large_enough(moved, smallest))
    all_boxes, all_scores = jnp.concatenate(boxes), jnp.concatenate(scores)
    kept = nms(
        all_boxes,
        all_scores,
        jnp.concatenate(groups),
        jnp.concatenate(keep),
        threshold,
        post_nms,
    )
    used = jnp.arange(post_nms) < kept.count
    return Proposals(
        boxes=jnp.where(used[:, None], all_boxes[kept.indices], 0),
        scores=jnp.where(used, all_scores[kept.indices], 0),
        count=kept.count,
    )
