"""Where the learning rate listens to the errors: the plateau schedule and the paper's warm-up."""

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from .config import TrainConfig

ERROR_DECAY = 0.98
"""Of the moving average of the training error: it looks back over some fifty steps."""

PLATEAU_THRESHOLD = 1e-4
"""An evaluation error is an improvement if it is lower than the best by this fraction of it."""


class Feedback(struct.PyTreeNode):
    """What the learning rate has to know of the run so far; it is part of the checkpoint.

    Attributes:
      train_error: moving average of the batches' top-1 errors, one before the first.
      warm: whether the warm-up by training error is over.
      scale: what the plateau schedule and rollbacks multiply the learning rate by.
      best_error: lowest evaluation error so far.
      stale: evaluations in a row that did not improve on it.
    """

    train_error: Float[Array, ""]
    warm: Bool[Array, ""]
    scale: Float[Array, ""]
    best_error: Float[Array, ""]
    stale: Int[Array, ""]

    @classmethod
    def start(cls, config: TrainConfig) -> "Feedback":
        """Returns the state before the first step."""
        return cls(
            train_error=jnp.ones((), jnp.float32),
            warm=jnp.asarray(config.warmup_until_error is None),
            scale=jnp.ones((), jnp.float32),
            best_error=jnp.full((), jnp.inf, jnp.float32),
            stale=jnp.zeros((), jnp.int32),
        )

    def learning_rate(self, config: TrainConfig, scheduled: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the learning rate of the next step, given the schedule's.

        Until the training error has once been below `warmup_until_error` it is
        `warmup_learning_rate` (paper, Section 4.2, for 110 layers: 0.01 until below 80 %).
        """
        rate = scheduled * self.scale
        if config.warmup_until_error is None:
            return rate
        return jnp.where(self.warm, rate, jnp.float32(config.warmup_learning_rate) * self.scale)

    def after_step(self, config: TrainConfig, error: Float[Array, ""]) -> "Feedback":
        """Takes a batch's top-1 error (a fraction) into account."""
        train_error = ERROR_DECAY * self.train_error + (1 - ERROR_DECAY) * error
        train_error = train_error.astype(jnp.float32)
        warm = self.warm
        if config.warmup_until_error is not None:
            warm |= train_error < config.warmup_until_error
        return self.replace(train_error=train_error, warm=warm)

    def after_evaluation(self, config: TrainConfig, error: float) -> "Feedback":
        """Takes an evaluation's top-1 error (a fraction) into account.

        With `schedule="plateau"` the learning rate is multiplied by `decay_factor` once more than
        `plateau_patience` evaluations in a row have not improved on the best, as
        `torch.optim.lr_scheduler.ReduceLROnPlateau` does.
        """
        improved = error < self.best_error * (1 - PLATEAU_THRESHOLD)
        stale = jnp.where(improved, 0, self.stale + 1)
        decays = (stale > config.plateau_patience) & (config.schedule == "plateau")
        return self.replace(
            scale=jnp.where(decays, self.scale * config.decay_factor, self.scale),
            best_error=jnp.where(improved, jnp.float32(error), self.best_error),
            stale=jnp.where(decays, 0, stale),
        )
