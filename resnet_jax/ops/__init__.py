"""Convolution, max pool, batch normalisation: JAX's own by default, faster ones on request."""

from resnet_jax.ops.kernels import NAMES, STOCK, Kernels, get_kernels

__all__ = ["NAMES", "STOCK", "Kernels", "get_kernels"]
