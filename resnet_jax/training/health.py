"""Whether a run still makes sense: what every step tells of its numbers, and what ends it."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

EXPLODED = 1e4
"""A mean training loss above this, over the steps between two lines of the log, is an explosion:
it is a thousand times that of guessing among 10,000 classes."""


class Diverged(FloatingPointError):
    """Loss, gradients or running statistics are not finite any more, or the loss has exploded."""


class Health(struct.PyTreeNode):
    """The size of what a step computed; small enough to be kept for many steps.

    A value that is not finite stays: it spoils the parameters and with them every later step. So
    the last step of many tells whether there was one, and the others are read only then.

    Attributes:
      loss: mean over the batch.
      gradients: sum of squares of each parameter's gradient, in the order of `jax.tree.leaves`.
      statistics: sum of each of the running statistics, likewise.
    """

    loss: Float[Array, ""]
    gradients: Float[Array, " parameters"]
    statistics: Float[Array, " statistics"]

    @classmethod
    def of(cls, loss: Float[Array, ""], grads: Any, batch_stats: Any) -> "Health":
        """Returns the health of a step."""
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)]
        sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(batch_stats)]
        return cls(loss, jnp.stack(squares), jnp.stack(sums) if sums else jnp.zeros(0))

    def is_finite(self) -> bool:
        """Whether all of it is; waits for the step."""
        return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.device_get(self)))


def layers(tree: Any) -> list[str]:
    """Returns the layer, such as `stage1/block1/conv1`, of each leaf of `params` or statistics."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [jax.tree_util.keystr(path[:-1], simple=True, separator="/") for path in paths]


def diverged(
    step: int, health: Health, learning_rate: float, parameters: list[str], statistics: list[str]
) -> Diverged:
    """Returns the error for the first step that was not well.

    Args:
      step: number of updates done with it.
      health: of that step.
      learning_rate: of that step.
      parameters: the parameters' `layers`.
      statistics: the running statistics' `layers`.
    """
    norm = float(np.sqrt(np.sum(np.asarray(health.gradients))))
    layer = _first_bad_layer(jax.device_get(health), parameters, statistics)
    return Diverged(
        f"training diverged at step {step}: loss {float(health.loss):.4g}, learning rate "
        f"{learning_rate:.4g}, gradient norm {norm:.4g}"
        + (f", first bad layer {layer}" if layer else "")
        + "; lower config.learning_rate, or set config.on_nan=rollback"
    )


def _first_bad_layer(health: Health, parameters: list[str], statistics: list[str]) -> str | None:
    """The layer whose output, or else whose gradient, was the first that was not finite.

    The activations show in the running statistics of the normalisation behind them. Gradients come
    from behind, so there the last layer is the first.
    """
    activations = _bad_layers(health.statistics, statistics)
    if activations:
        return activations[0]
    if not np.isfinite(health.loss):
        return "head"
    gradients = _bad_layers(health.gradients, parameters)
    return gradients[-1] if gradients else None


def _bad_layers(values: Any, names: list[str]) -> list[str]:
    """The layers whose values are not finite, in the order in which the images pass them."""
    bad = {name for name, value in zip(names, values, strict=True) if not np.isfinite(value)}
    return sorted(bad, key=_place)


def _place(layer: str) -> list[tuple[int, int, int]]:
    """Where a layer stands: stem, stages, head; conv1, bn1, conv2, …, shortcut in a block."""
    order = ("stem", "stage", "block", "conv", "bn", "shortcut", "head")
    place = []
    for part in layer.split("/"):
        name, number = part.rstrip("0123456789"), re.sub(r"\D", "", part)
        rank = order.index(name) if name in order else len(order)
        if name in ("conv", "bn"):  # Each normalisation follows its convolution.
            place.append((order.index("conv"), int(number or 0), rank))
        else:
            place.append((rank, int(number or 0), 0))
    return place
