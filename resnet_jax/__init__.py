"""Deep residual networks (He et al., 2015) in JAX: models, a trainer, and checks that hold them."""

from .interop import (
    WeightsError,
    export,
    fold_batch_norm,
    from_hub,
    from_keras,
    from_torch,
    load_model,
    load_pretrained,
    load_weights,
    save_weights,
    to_torch,
)
from .models import (
    ModelError,
    count_multiply_adds,
    count_parameters,
    create_model,
    list_models,
    parameter_mask,
    train_only,
)

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
    "save_weights",
    "to_torch",
    "train_only",
]
