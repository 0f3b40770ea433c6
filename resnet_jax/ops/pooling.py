"""Max pooling that stores each window's winner, with a gradient that does not scatter."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8

from resnet_jax.ops.stock import Images, Pooled


@jax.custom_vjp
def max_pool(x: Images) -> Pooled:
    """Pools as `stock.max_pool` does; stores each window's winning element for the gradient."""
    return _pool(x)[0]


def _pool(x: Images) -> tuple[Pooled, tuple[Int8[Array, "n h2 w2 c"], Array]]:
    n, h, w, channels = x.shape
    h2, w2 = (h + 1) // 2, (w + 1) // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    y = jnp.full((n, h2, w2, channels), -jnp.inf, x.dtype)
    winners = jnp.zeros(y.shape, jnp.int8)
    for row, column in np.ndindex(3, 3):
        tap = padded[:, row : row + 2 * h2 - 1 : 2, column : column + 2 * w2 - 1 : 2]
        winners = jnp.where(tap <= y, winners, jnp.int8(4 * row + column))
        y = jnp.maximum(y, tap)
    return y, (winners, jnp.zeros((h, w, 0)))


def _pool_gradient(kept: tuple[Array, Array], g: Pooled) -> tuple[Array]:
    winners, like = kept
    h, w, _ = like.shape
    # A pixel's position in the window at half its row and column: the middle, or the edge after it.
    row = jnp.arange(h, dtype=jnp.int8)[None, :, None, None] % 2 + 1
    column = jnp.arange(w, dtype=jnp.int8)[None, None, :, None] % 2 + 1

    def of_window(a: Array, below: int, after: int) -> Array:
        """Returns, per pixel, the value of that window, or of the one below or after it."""
        a = jnp.pad(a[:, below:, after:], ((0, 0), (0, below), (0, after), (0, 0)))
        return jnp.repeat(jnp.repeat(a, 2, 1), 2, 2)[:, :h, :w]

    gradient = jnp.zeros((), g.dtype)
    for below, after in np.ndindex(2, 2):
        # With four positions per row, row or column -1, outside the window, matches no winner.
        wins = of_window(winners, below, after) == 4 * (row - 2 * below) + column - 2 * after
        gradient += jnp.where(wins, of_window(g, below, after), 0)
    return (gradient,)


max_pool.defvjp(_pool, _pool_gradient)
