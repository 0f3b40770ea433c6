"""Networks without batch normalisation, for inference."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..models import BatchNorm, ResNet
from . import layout
from .layout import Path

_NORM_VARIABLES = (
    ("params", "scale"),
    ("params", "bias"),
    ("batch_stats", "mean"),
    ("batch_stats", "var"),
)


def fold_batch_norm(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    r"""Returns a model without batch normalisation that has the same logits, and its variables.

    Evaluated with its running statistics, batch normalisation is a factor and a shift for each
    channel, and the convolution before it takes them up: its kernel becomes
    $kernel \cdot scale / \sqrt{var + \epsilon}$, and it has the bias
    $bias - mean \cdot scale / \sqrt{var + \epsilon}$. Computed in float64; the logits agree up to
    rounding, in float32 within 1e-5 of the largest.

    Args:
      model: what `create_model` returns.
      variables: its variables.

    Returns:
      The model with `folded=True`, and {"params"}, without `batch_stats`; what is folded already is
      returned as it is.

    Raises:
      WeightsError: the variables are not those of the model.
    """
    if model.folded:
        return model, dict(variables)
    fitted = layout.fit(model, layout.OURS, layout.flatten(variables), "the variables")
    return model.clone(folded=True), layout.to_variables(_folded(fitted))


def _folded(variables: Mapping[Path, np.ndarray]) -> dict[Path, np.ndarray]:
    folded = {}
    for path, array in variables.items():
        _, *place, module, _ = path
        if module == "head":
            folded[path] = array
        elif module.startswith("conv"):
            norm = (*place, module.replace("conv", "bn"))
            scale, bias, mean, var = (
                variables[collection, *norm, leaf].astype(np.float64)
                for collection, leaf in _NORM_VARIABLES
            )
            factor = scale / np.sqrt(var + BatchNorm.epsilon)
            folded[path] = (array * factor).astype(array.dtype)
            folded[*path[:-1], "bias"] = (bias - mean * factor).astype(array.dtype)
    return folded
