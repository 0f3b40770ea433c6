"""Everything that a step changes, in one tree: what is here and in the checkpoint is the run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Int, UInt32

from ..data import Normalization
from ..evaluation.metrics import ErrorSums
from .config import TrainConfig
from .feedback import Feedback


class TrainState(struct.PyTreeNode):
    """The state of a run between two steps.

    Attributes:
      step: number of updates done.
      params: the network's parameters, float32.
      batch_stats: running means and variances of every batch normalisation, float32.
      opt_state: optax's state, the momenta.
      key: data of the key from which step k's is folded: `fold_in(wrap_key_data(key), k)`.
      normalization: what is subtracted from and divided out of the images; computed once.
      average: moving averages of `params` and `batch_stats` (`config.ema_decay`), or None.
      feedback: what the learning rate knows of the errors so far.
      sums: loss and errors of the training batches since the last line in the log.
    """

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    key: UInt32[Array, " 2"]
    normalization: Normalization
    average: Any
    feedback: Feedback
    sums: ErrorSums

    @property
    def variables(self) -> dict[str, Any]:
        """The network to evaluate: the averages where there are any, else what is trained."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    config: TrainConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    normalization: Normalization,
    image_shape: tuple[int, int, int],
    variables: dict[str, Any] | None = None,
) -> TrainState:
    """Returns the state before the first step; it depends on its arguments alone.

    Args:
      config: the run; its seed is that of the initial parameters and of the keys of all steps.
      model: the network.
      optimizer: what updates its parameters.
      normalization: of the images.
      image_shape: height, width and channels of the images that the network is to see.
      variables: `{"params", "batch_stats"}` to begin with; drawn from the seed if not given.
    """
    init_key, step_key = jax.random.split(jax.random.key(config.seed))

    def init(given: dict[str, Any] | None) -> TrainState:
        variables: Any = given
        if given is None:
            variables = model.init(init_key, jnp.zeros((1, *image_shape)), train=False)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(variables["params"]),
            key=jax.random.key_data(step_key),
            normalization=normalization,
            average=None if config.ema_decay is None else jax.tree.map(jnp.copy, variables),
            feedback=Feedback.start(config),
            sums=ErrorSums.zero(),
        )

    # It runs once, and optimising it takes XLA five times as long as running it unoptimised.
    return jax.jit(init, compiler_options={"xla_backend_optimization_level": 0})(variables)
