"""Max pooling: `flax.linen.max_pool`, and on the CPU a form with a fast gradient."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.interpreters import ad
from jaxtyping import Array, Float, UInt8

from resnet_jax.models.fusion import apart
from resnet_jax.models.primitives import has_sharding_in_type, primitive


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Returns the maxima of 3x3 windows two apart, as `torch.nn.MaxPool2d(3, 2, padding=1)`.

    The padding never wins, whatever the sign of the input. Where several elements of a window are
    the greatest, the first one takes the gradient.
    """
    return _plain(x) if has_sharding_in_type(x) else _max_pool.bind(x)


def _plain(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _plain_tangent(x_dot: Array, x: Array, _: Array) -> Array:
    return jax.jvp(_plain, (x,), (x_dot,))[1]


def _plain_gradient(g: Array, x: Array, _: Array) -> Array:
    return jax.vjp(_plain, x)[1](g)[0]


def _max_pool_on_cpu(x: Array) -> Array:
    return apart(lambda x: reduce(jnp.maximum, _taps(x, -jnp.inf)), x)


def _tangent_on_cpu(x_dot: Array, x: Array, y: Array) -> Array:
    winners = _first_greatest(x, y)
    taps = enumerate(_taps(x_dot, 0.0))
    return reduce(jnp.add, [jnp.where(winners == place, tap, 0) for place, tap in taps])


def _gradient_on_cpu(g: Array, x: Array, y: Array) -> Array:
    winners = apart(_first_greatest, x, y, g)
    return apart(_scatter, g, winners)[:, : x.shape[1], : x.shape[2]]


# The second and the third are linear in their first argument, and each the transpose of the other.
_max_pool = primitive("max_pool", _plain, _max_pool_on_cpu)
_tangent = primitive("max_pool_tangent", _plain_tangent, _tangent_on_cpu)
_gradient = primitive("max_pool_gradient", _plain_gradient, _gradient_on_cpu)


def _linear_in_first(operation: Any, transposed: Any) -> None:
    ad.defjvp(operation, lambda a_dot, a, x, y: operation.bind(a_dot, x, y), None, None)
    ad.primitive_transposes[operation] = lambda b, a, x, y: [transposed.bind(b, x, y), None, None]


ad.defjvp2(_max_pool, lambda x_dot, y, x: _tangent.bind(x_dot, x, y))
_linear_in_first(_tangent, _gradient)
_linear_in_first(_gradient, _tangent)


def _taps(x: Array, padding: float) -> list[Array]:
    """Returns, for each of the nine places in a window, that element of every window."""
    n, h, w, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), constant_values=padding)
    x = x.reshape(n, (h + 1) // 2, 2, (w + 1) // 2, 2, channels)
    rows = _triples(x, axis=1, padding=padding)
    return [tap for row in rows for tap in _triples(row, axis=2, padding=padding)]


def _triples(x: Array, axis: int, padding: float) -> tuple[Array, Array, Array]:
    """Returns the elements 2i - 1, 2i and 2i + 1 of an axis that is split into pairs."""
    even, odd = (lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1))
    before = lax.slice_in_dim(odd, 0, odd.shape[axis] - 1, axis=axis)
    return _padded(before, axis, (1, 0), padding), even, odd


def _first_greatest(x: Array, y: Array, *_: Array) -> UInt8[Array, "n h2 w2 c"]:
    """Returns the first place, of nine, where each window has its maximum y."""
    winners = jnp.full(y.shape, 8, jnp.uint8)
    for place, tap in reversed(list(enumerate(_taps(x, -jnp.inf)))):
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
