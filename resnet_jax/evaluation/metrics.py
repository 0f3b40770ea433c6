"""Loss and errors as sums over images, so that the result does not depend on the batches."""

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
      top1_wrong: images whose label does not have the highest score.
      top5_wrong: images whose label is not among the five highest scores.
    """

    count: Int[Array, ""]
    loss: Float[Array, ""]
    top1_wrong: Int[Array, ""]
    top5_wrong: Int[Array, ""]

    @classmethod
    def zero(cls) -> "ErrorSums":
        """Returns the sums over no images."""
        # Separate arrays, because a step donates each one's memory.
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
        """Returns `loss` (nats), `top1_error`, `top5_error` (fractions); waits for the device."""
        count = int(self.count)
        return {
            "loss": float(self.loss) / count,
            "top1_error": int(self.top1_wrong) / count,
            "top5_error": int(self.top5_wrong) / count,
        }


def cross_entropy(
    logits: Float[Array, "n classes"],
    targets: Int[Array, " n"] | Float[Array, "n classes"],
    smoothing: float = 0.0,
) -> Float[Array, " n"]:
    """Returns the softmax cross-entropy with the targets, per image, in nats.

    Args:
      logits: the scores.
      targets: the correct classes, or a distribution over classes for each image.
      smoothing: the fraction of each target's weight that is spread evenly over all classes
        (`torch.nn.CrossEntropyLoss(label_smoothing=...)`).
    """
    if targets.ndim == 1:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    else:
        losses = optax.softmax_cross_entropy(logits, targets)
    if not smoothing:
        return losses
    evenly = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
    return (1 - smoothing) * losses + smoothing * evenly


def smoothed(
    targets: Int[Array, " n"] | Float[Array, "n classes"], num_classes: int, smoothing: float = 0.0
) -> Float[Array, "n classes"]:
    """Returns targets as distributions over classes, smoothed as in `cross_entropy`."""
    soft = jax.nn.one_hot(targets, num_classes) if targets.ndim == 1 else targets
    return (1 - smoothing) * soft + smoothing / num_classes


def error_sums(
    logits: Float[Array, "n classes"],
    labels: Int[Array, " n"],
    mask: Bool[Array, " n"] | None = None,
) -> ErrorSums:
    """Sums loss and errors over a batch.

    Equal scores rank in the order of their classes, as in `jax.lax.top_k`. An image with a NaN
    score counts as an error.

    Args:
      logits: the scores, float32 or wider.
      labels: the correct classes.
      mask: which images count; by default all.
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
    """Returns the number of classes ranked above each image's label, as in `error_sums`."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    earlier = jnp.arange(logits.shape[1]) < labels[:, None]
    return jnp.sum(~(logits <= own) | ((logits == own) & earlier), axis=1)
