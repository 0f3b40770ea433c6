"""SGD with momentum as the paper and PyTorch do it, and the course of its learning rate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from .config import TrainConfig, in_steps, lengths


def make_schedule(config: TrainConfig, train_size: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates done so far.

    Linear warm-up reaches the peak at update `warmup_steps` (the first update already moves: it
    takes a `1 / warmup_steps` part of the peak). Then `constant` stays; `step` multiplies by
    `decay_factor` from each boundary on (paper, Section 4.2: 32k and 48k iterations); `cosine`
    falls to zero at the schedule's end and stays there. `plateau` is
    constant here: the errors move it, see `Feedback`.

    Args:
      config: the run.
      train_size: images in the training split, for lengths that are given in epochs.
    """
    peak = config.learning_rate
    if config.learning_rate_batch_size:
        peak *= config.batch_size / config.learning_rate_batch_size
    warmup = in_steps(config.warmup_steps, config.warmup_epochs, config, train_size)
    run, length = lengths(config, train_size)
    boundaries = np.asarray(config.boundaries)
    if config.scale_schedule:
        stretch = run / length
        warmup, boundaries, length = round(warmup * stretch), np.rint(boundaries * stretch), run

    def schedule(count: Int[Array, ""]) -> Float[Array, ""]:
        count = jnp.asarray(count)
        rate = jnp.asarray(peak, jnp.float32)
        if config.schedule == "step":
            decays = jnp.sum(count >= jnp.asarray(boundaries))
            rate *= jnp.asarray(config.decay_factor, jnp.float32) ** decays
        elif config.schedule == "cosine":
            done = (count - warmup) / max(length - warmup, 1)
            rate *= 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        if warmup:
            rate = jnp.where(count < warmup, peak * (count + 1) / warmup, rate)
        return rate.astype(jnp.float32)

    return schedule


def unfitted_schedule(config: TrainConfig, train_size: int) -> list[str]:
    """Returns what is to be said if the schedule is laid out for another length than the run's.

    Args:
      config: the run.
      train_size: images in the training split, for lengths that are given in epochs.
    """
    run, length = lengths(config, train_size)
    if config.schedule == "step":
        fits = run > config.boundaries[-1]
    else:
        fits = run == length or config.schedule != "cosine"
    if fits or config.scale_schedule:
        return []
    return [
        f"the {config.schedule} schedule is laid out for {length} steps, the run ends after {run}; "
        "--config.scale_schedule=True fits it to the run"
    ]


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Returns SGD with momentum in PyTorch's order (`torch.optim.SGD`), for a learning rate of one.

    gradient += weight_decay * parameter; velocity = momentum * velocity + gradient;
    update = -velocity, which the step multiplies by the learning rate. Weight decay reaches every
    parameter, as in the paper, or the kernels alone.
    """
    return optax.chain(
        optax.add_decayed_weights(
            config.weight_decay, mask=None if config.decay_scales_and_biases else kernels
        ),
        optax.trace(decay=config.momentum),
        optax.scale(-1.0),
    )


def kernels(params: Any) -> Any:
    """Returns the tree of `params` with True at convolution and classifier kernels, else False."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
