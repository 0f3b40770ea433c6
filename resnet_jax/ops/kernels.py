"""Sets of kernels by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from resnet_jax.ops import cpu, gpu, pooling, stock


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The operations that a network is made of.

    Attributes:
      conv: `stock.conv`, or a function like it.
      max_pool: `stock.max_pool`, or a function like it.
      batch_norm: `stock.batch_norm`, or a function like it.
    """

    conv: Callable[..., Any] = stock.conv
    max_pool: Callable[..., Any] = stock.max_pool
    batch_norm: Callable[..., Any] = stock.batch_norm


STOCK = Kernels()

_SETS = {
    "stock": STOCK,
    "cpu": Kernels(cpu.conv, pooling.max_pool),
    "gpu": Kernels(gpu.conv, pooling.max_pool, gpu.batch_norm),
}

NAMES = (*_SETS, "auto")  # What `get_kernels` takes.


def get_kernels(name: str) -> Kernels:
    """Returns the kernels of a name: "stock", "cpu", "gpu", or "auto" for JAX's default device."""
    return _SETS.get(jax.default_backend() if name == "auto" else name, STOCK)
