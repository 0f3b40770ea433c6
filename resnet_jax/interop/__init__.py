"""Weights from and to PyTorch, Keras, the Hugging Face Hub and safetensors; folding; export."""

from .errors import WeightsError
from .exporting import export
from .folding import fold_batch_norm
from .hub import from_hub
from .keras import from_keras
from .native import load_model, load_pretrained, load_weights, save_weights
from .pytorch import from_torch, to_torch
from .reading import read_weights

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
    "read_weights",
    "save_weights",
    "to_torch",
]
