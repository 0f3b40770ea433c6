"""Max pooling: XLA's own, and on the CPU a form with a fast gradient."""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, UInt8

from resnet_jax.models.fusion import apart


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Returns the maxima of 3x3 windows two apart, as `torch.nn.MaxPool2d(3, 2, padding=1)`.

    The padding never wins, whatever the sign of the input. Where several elements of a window are
    the greatest, the first one takes the gradient.
    """
    return _plain(x) if jax.default_backend() != "cpu" else _max_pool(x)


def _plain(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@jax.custom_vjp
def _max_pool(x: Array) -> Array:
    return _plain(x)


def _max_pool_fwd(x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = apart(lambda x: reduce(jnp.maximum, _taps(x)), x)
    return y, (apart(_first_greatest, x, y), x)


def _max_pool_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    winners, x = residuals
    return (apart(_scatter, g, winners)[:, : x.shape[1], : x.shape[2]],)


_max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _taps(x: Array) -> list[Array]:
    """Returns, for each of the nine places in a window, that element of every window."""
    n, h, w, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=-jnp.inf)
    x = x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, channels)
    return [tap for row in _triples(x, axis=1) for tap in _triples(row, axis=2)]


def _triples(x: Array, axis: int) -> tuple[Array, Array, Array]:
    """Returns the elements 2i - 1, 2i and 2i + 1 of an axis that is split into pairs."""
    even, odd = (lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1))
    before = lax.slice_in_dim(odd, 0, odd.shape[axis] - 1, axis=axis)
    return _padded(before, axis, (1, 0), -jnp.inf), even, odd


def _first_greatest(x: Array, y: Array) -> UInt8[Array, "n h2 w2 c"]:
    """Returns the first place, of nine, where each window has its maximum y."""
    winners = jnp.full(y.shape, 8, jnp.uint8)
    for place, tap in reversed(list(enumerate(_taps(x)))):
        winners = jnp.where(tap == y, jnp.uint8(place), winners)
    return winners


def _scatter(g: Array, winners: UInt8[Array, "n h2 w2 c"]) -> Array:
    """Returns the transpose of `_taps`, applied to the gradients of the winners alone."""
    n, h, w, channels = g.shape
    taps = [jnp.where(winners == place, g, 0) for place in range(9)]
    rows = [_paired(taps[row : row + 3], axis=2) for row in (0, 3, 6)]
    return _paired(rows, axis=1).reshape(n, 2 * h, 2 * w, channels)


def _paired(triple: Sequence[Array], axis: int) -> Array:
    """Returns the transpose of `_triples`: what three elements receive, as an axis of pairs."""
    before, even, odd = triple
    after = lax.slice_in_dim(before, 1, before.shape[axis], axis=axis)
    return jnp.stack([even, odd + _padded(after, axis, (0, 1), 0)], axis + 1)


def _padded(x: Array, axis: int, widths: tuple[int, int], value: float) -> Array:
    pads = [widths if i == axis else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, pads, constant_values=value)
