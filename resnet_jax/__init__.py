"""Deep residual networks (He et al., 2015) in JAX: models, a trainer, and checks that hold them."""

from .models import ModelError, create_model, list_models

__all__ = ["ModelError", "create_model", "list_models"]
