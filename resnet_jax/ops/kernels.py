"""Sets of kernels by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from resnet_jax.ops import gpu, pooling, stock


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The implementations of a network's operations.

    Attributes:
      conv: `stock.conv` or an equivalent function.
      max_pool: `stock.max_pool` or an equivalent function.
      batch_norm: `stock.batch_norm` or an equivalent function.
    """

    conv: Callable[..., Any] = stock.conv
    max_pool: Callable[..., Any] = stock.max_pool
    batch_norm: Callable[..., Any] = stock.batch_norm


STOCK = Kernels()
"""JAX's own operations."""

_SETS = {
    "stock": STOCK,
    "cpu": Kernels(max_pool=pooling.max_pool),
    "gpu": Kernels(gpu.conv, pooling.max_pool, gpu.batch_norm),
    "tpu": Kernels(batch_norm=gpu.batch_norm),
}

NAMES = (*_SETS, "auto")
"""Names that `get_kernels` accepts."""


def get_kernels(name: str) -> Kernels:
    """Returns the kernels of a name: "stock", "cpu", "gpu", or "auto" for JAX's default device."""
    return _SETS.get(jax.default_backend() if name == "auto" else name, STOCK)
