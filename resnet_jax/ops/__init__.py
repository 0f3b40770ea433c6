"""Convolution, max pool and batch normalisation: JAX's own by default, faster forms on request."""

from resnet_jax.ops.kernels import NAMES, STOCK, Kernels, get_kernels

__all__ = ["NAMES", "STOCK", "Kernels", "get_kernels"]
