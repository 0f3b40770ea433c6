"""Loss and errors as sums over images, so that any split into batches gives the same result."""

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int


class ErrorSums(struct.PyTreeNode):
    """Sums over the images seen so far.

    Attributes:
      count: number of images.
      loss: sum of the cross-entropies, in nats.
      top1_wrong: images whose label has not the highest score.
      top5_wrong: images whose label is not among the five highest scores.
    """

    count: Int[Array, ""]
    loss: Float[Array, ""]
    top1_wrong: Int[Array, ""]
    top5_wrong: Int[Array, ""]

    @classmethod
    def zero(cls) -> "ErrorSums":
        """Returns the sums over no images."""
        # Arrays of their own each, for a step may take their memory over one by one.
        count, top1_wrong, top5_wrong = (jnp.zeros((), jnp.int32) for _ in range(3))
        return cls(count=count, loss=jnp.zeros(()), top1_wrong=top1_wrong, top5_wrong=top5_wrong)

    def __add__(self, other: "ErrorSums") -> "ErrorSums":
        return ErrorSums(
            count=self.count + other.count,
            loss=self.loss + other.loss,
            top1_wrong=self.top1_wrong + other.top1_wrong,
            top5_wrong=self.top5_wrong + other.top5_wrong,
        )

    def means(self) -> dict[str, float]:
        """Returns `loss`, `top1_error` and `top5_error` (fractions) ; waits for the device."""
        count = int(self.count)
        return {
            "loss": float(self.loss) / count,
            "top1_error": int(self.top1_wrong) / count,
            "top5_error": int(self.top5_wrong) / count,
        }


def cross_entropy(
    logits: Float[Array, "n classes"], labels: Int[Array, " n"], smoothing: float = 0.0
) -> Float[Array, " n"]:
    """Returns the cross-entropy of the softmax with the labels, an image each, in nats.

    Args:
      logits: scores.
      labels: the right classes.
      smoothing: the part of each label's weight that is spread evenly over all classes
        (`torch.nn.CrossEntropyLoss(label_smoothing=...)`).
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return losses
    evenly = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * evenly


def error_sums(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    mask: Bool[Array, " n"] | None = None,
) -> ErrorSums:
    """Sums loss and errors over a batch.

    Equal scores rank in the order of their classes, as `jax.lax.top_k` ranks them; a score that is
    not a number makes an error of its image, never a hit.

    Args:
      logits: scores, float32 or wider.
      labels: the right classes.
      mask: which images count; all of them if not given.
    """
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    ranks = label_ranks(logits, labels)
    return ErrorSums(
        count=jnp.sum(mask, dtype=jnp.int32),
        loss=jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0)).astype(float),
        top1_wrong=jnp.sum(mask & (ranks >= 1), dtype=jnp.int32),
        top5_wrong=jnp.sum(mask & (ranks >= 5), dtype=jnp.int32),
    )


def label_ranks(logits: Float[Array, "n classes"], labels: Int[Array, " n"]) -> Int[Array, " n"]:
    """Returns how many classes score higher than each image's label, the rules of `error_sums`."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    return jnp.sum(~(logits <= own) | ((logits == own) & earlier), axis=1)
