"""Scores of images: the softmax averaged over networks, views and mirror images."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Int32, Int64

from resnet_jax.evaluation.metrics import ErrorSums, error_sums, label_ranks
from resnet_jax.evaluation.network import Network
from resnet_jax.evaluation.protocols.padded import mirrored
from resnet_jax.evaluation.protocols.views import ViewBatch
from resnet_jax.runtime.devices import replicate, shard_batch

MAX_VIEWS_AHEAD = 4
"""Maximum number of views sent to the devices that are not known to be scored.

Several CPU devices deadlock when some have 32 programs left to run.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredBatch:
    """A batch of images of a split with their scores; rows without `mask` are padding.

    Attributes:
      index: the images' positions in the split.
      label: the images' classes.
      mask: which rows are images.
      scores: logits whose softmax is the averaged score per class, on the device.
      ranks: number of classes that score higher than the label, on the device.
      sums: loss and errors, on the device.
    """

    index: Int64[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    scores: Float[Array, "n classes"]
    ranks: Int[Array, " n"]
    sums: ErrorSums


def score_batches(
    networks: Sequence[Network], batches: Iterable[ViewBatch], mirror: bool, mesh: Mesh
) -> Iterator[ScoredBatch]:
    """Scores batches of images on the devices, a few batches ahead of the consumer.

    Each network scores each view of an image, one view at a time, so memory is needed for only one
    view. The softmax is averaged over all views and networks (the paper averages over crops or
    scales, and over the networks of an ensemble).

    Args:
      networks: one network, or an ensemble with the same classes.
      batches: a protocol's batches; their rows are a multiple of the number of devices.
      mirror: whether to score the mirror image of each view, too.
      mesh: the devices, over which rows are split.
    """
    networks = [
        Network(network.model, *replicate((network.variables, network.normalization), mesh))
        for network in networks
    ]

    def shard(array: np.ndarray) -> jax.Array:
        return shard_batch({"array": array}, mesh)["array"]

    under_way: deque[ScoredBatch] = deque()
    sent: deque[jax.Array] = deque()
    for batch in batches:
        logits = []
        for view in batch.views:
            sizes = None if view.sizes is None else shard(view.sizes)
            images = shard(view.images)
            for seen in (images, _mirrored(images, sizes)) if mirror else (images,):
                for network in networks:
                    logits.append(network.logits(seen, sizes))
                    sent.append(logits[-1])
                    if len(sent) > MAX_VIEWS_AHEAD:
                        sent.popleft().block_until_ready()
        result = _combine(logits, shard(batch.label), shard(batch.mask))
        under_way.append(ScoredBatch(batch.index, batch.label, batch.mask, *result))
        if len(under_way) > 2:  # Keeps the devices busy without piling up batches.
            yield under_way.popleft()
    yield from under_way


softmax = jax.jit(jax.nn.softmax)
"""The scores per class of a batch of logits."""

_mirrored = jax.jit(mirrored)


@jax.jit
def _combine(
    logits: Sequence[Float[Array, "n classes"]], label: Int[Array, " n"], mask: Bool[Array, " n"]
) -> tuple[Float[Array, "n classes"], Int[Array, " n"], ErrorSums]:
    """Returns the scores, the ranks of the labels, and the sums."""
    scores = logits[0]
    if len(logits) > 1:
        # The logarithm of the average softmax, which averaged logits would not give.
        views = jax.nn.log_softmax(jnp.stack(list(logits)))
        scores = jax.nn.logsumexp(views, axis=0) - jnp.log(len(logits))
    return scores, label_ranks(scores, label), error_sums(scores, label, mask)
