"""Deep residual networks (He et al., 2015) in JAX: models, weights, a trainer and evaluation."""

import importlib
from typing import TYPE_CHECKING, Any

from resnet_jax.interop import (
    WeightsError,
    export,
    fold_batch_norm,
    from_hub,
    from_keras,
    from_torch,
    load_pretrained,
    load_weights,
    save_weights,
    to_torch,
)
from resnet_jax.models import (
    ModelError,
    count_multiply_adds,
    count_parameters,
    create_model,
    list_models,
    parameter_mask,
    register_model,
    train_only,
)
from resnet_jax.trained import load_model, preprocessing

if TYPE_CHECKING:
    from resnet_jax import data as data
    from resnet_jax import evaluation as evaluation
    from resnet_jax import training as training

__version__ = "0.2.0"

# Imported on first use: they need the packages of the extra `train`.
_SUBPACKAGES = ("data", "evaluation", "training")

__all__ = [
    "ModelError",
    "WeightsError",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "export",
    "fold_batch_norm",
    "from_hub",
    "from_keras",
    "from_torch",
    "list_models",
    "load_model",
    "load_pretrained",
    "load_weights",
    "parameter_mask",
    "preprocessing",
    "register_model",
    "save_weights",
    "to_torch",
    "train_only",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
