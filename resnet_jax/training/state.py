"""The training state: everything that a step changes, in one tree; checkpoints hold it whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int, UInt32

from resnet_jax.data import Normalization
from resnet_jax.training.optimizer import Feedback, LearningRate, Optimizer, transformation
from resnet_jax.training.task import Task


class TrainState(struct.PyTreeNode):
    """The state of a run between two steps.

    Attributes:
      step: number of completed updates.
      params: the network's parameters, float32.
      batch_stats: running means and variances of every batch normalisation, float32.
      opt_state: optax's state of the optimiser.
      key: data of the random key; step k uses `fold_in(wrap_key_data(key), k)`.
      normalization: the images' normalisation; computed once.
      average: moving averages of `params` and `batch_stats` (`config.ema_decay`), or None.
      feedback: the errors' effect on the learning rate so far.
      sums: the task's sums over the training batches since the last line of the log.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key: UInt32[Array, " 2"]
    normalization: Normalization
    average: Any
    feedback: Feedback
    sums: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to evaluate: the averages if there are any, else the trained ones."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    task: Task,
    optimizer: Optimizer,
    learning_rate: LearningRate,
    normalization: Normalization,
    image_shape: tuple[int, int, int],
    *,
    seed: int = 0,
    averaged: bool = False,
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """Returns the state before the first step; it depends only on the arguments.

    Args:
      task: draws the initial parameters.
      optimizer: updates the parameters.
      learning_rate: provides the initial feedback.
      normalization: the images' normalisation.
      image_shape: height, width and channels of the network's input.
      seed: seed of the initial parameters and of all steps' keys.
      averaged: whether the state holds moving averages of the variables.
      variables: initial `{"params", "batch_stats"}`; by default drawn from the seed.
    """
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def init(given: dict[str, Any] | None) -> TrainState:
        variables = task.initialize(init_key, image_shape) if given is None else given
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=transformation(optimizer).init(variables["params"]),
            key=jax.random.key_data(step_key),
            normalization=normalization,
            average=jax.tree.map(jnp.copy, variables) if averaged else None,
            feedback=learning_rate.start(),
            sums=task.zero_sums(),
        )

    # It runs once, and XLA takes five times as long to optimise it as to run it unoptimised.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(variables)


class Health(struct.PyTreeNode):
    """Magnitudes of a step's results, small enough to keep for many steps.

    Non-finite values propagate through the parameters, so checking the last step suffices; the
    others are read only to find the first bad one.

    Attributes:
      loss: mean over the batch.
      gradients: sum of squares of each parameter's gradient, in the order of `jax.tree.leaves`.
      statistics: sum of each running statistic, in the same order.
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
        """Whether all values are finite; waits for the step."""
        return all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(jax.device_get(self)))
