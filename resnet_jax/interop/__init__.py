"""Weights from and to PyTorch, Keras, the Hugging Face Hub and safetensors; folding; export."""

from typing import TYPE_CHECKING, Any

from resnet_jax.errors import WeightsError
from resnet_jax.interop.exporting import export
from resnet_jax.interop.folding import fold_batch_norm
from resnet_jax.interop.hub import from_hub
from resnet_jax.interop.keras import from_keras
from resnet_jax.interop.native import load_model, load_pretrained, load_weights, save_weights
from resnet_jax.interop.pytorch import from_torch, to_torch
from resnet_jax.interop.reading import open_weights, read_weights

if TYPE_CHECKING:
    from resnet_jax.interop.preprocessing import read_preprocessing

__all__ = [
    "WeightsError",
    "export",
    "fold_batch_norm",
    "from_hub",
    "from_keras",
    "from_torch",
    "load_model",
    "load_pretrained",
    "load_weights",
    "open_weights",
    "read_preprocessing",
    "read_weights",
    "save_weights",
    "to_torch",
]


def __getattr__(name: str) -> Any:
    if name == "read_preprocessing":
        # On first use: it needs the packages of the extra `train`.
        from resnet_jax.interop.preprocessing import read_preprocessing

        return read_preprocessing
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
