"""Where XLA's CPU back end is to stop fusing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def apart(function: Callable[..., Any], *args: Array) -> Any:
    """Returns `function(*args)`, computed from arrays in memory into arrays in memory.

    XLA's CPU back end fuses without counting: a transposition, fast on its own, repeats the chain
    of operations behind its input at a tenth of the speed, and what is used nine times is computed
    nine times. `lax.optimization_barrier` does not help, as it is gone before the fusion begins. A
    conditional stays. This one always takes the same branch, which XLA cannot know.

    It also orders: nothing in `function` runs before all of `args` are there.

    Args:
        function: from arrays to a tree of arrays.
        *args: arrays with at least one element.
    """
    shapes = jax.eval_shape(function, *args)

    def never(*args: Array) -> Any:
        element = jnp.sum(jnp.stack([_first(arg) for arg in args]))
        return jax.tree.map(
            lambda shape: jnp.broadcast_to(element.astype(shape.dtype), shape.shape), shapes
        )

    return lax.cond(jnp.sin(_first(args[0])) > 2, never, function, *args)


def _first(x: Array) -> Array:
    return x[(0,) * x.ndim].astype(jnp.float32)
