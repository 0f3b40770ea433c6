"""Folds batch normalisation into convolutions, for inference."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_jax.errors import WeightsError
from resnet_jax.interop import layout
from resnet_jax.interop.layout import VariablePath
from resnet_jax.models import BatchNorm, ResNet

_NORM_VARIABLES = (
    ("params", "scale"),
    ("params", "bias"),
    ("batch_stats", "mean"),
    ("batch_stats", "var"),
)


def fold_batch_norm(model: ResNet, variables: Mapping[str, Any]) -> tuple[ResNet, dict[str, Any]]:
    r"""Returns a model without batch normalisation but with the same logits, and its variables.

    With running statistics, batch normalisation is a factor and a shift per channel, which the
    convolution before it absorbs: its kernel becomes
    $kernel \cdot scale / \sqrt{var + \epsilon}$, and its bias
    $bias - mean \cdot scale / \sqrt{var + \epsilon}$. They are computed in float64; the logits
    agree up to rounding, in float32 within 1e-5 of the largest.

    Args:
      model: a model of `create_model`.
      variables: its variables.

    Returns:
      The model with `folded=True`, and {"params"} without `batch_stats`; a folded model is returned
      unchanged.

    Raises:
      WeightsError: layers of a stem of your own have other names than `conv*` and `bn*`, or the
        variables do not fit the model.
    """
    if model.folded:
        return model, dict(variables)
    fitted = layout.fit(model, layout.OURS, layout.flatten(variables), "the variables")
    for path in fitted:
        if path[-2] != "head" and not path[-2].startswith(("conv", "bn")):
            raise WeightsError(
                f"{'.'.join(path[1:-1])} cannot be folded; name the layers of a stem conv1, bn1, "
                "conv2, bn2, …"
            )
    return model.clone(folded=True), layout.to_variables(_folded(fitted))


def _folded(variables: Mapping[VariablePath, np.ndarray]) -> dict[VariablePath, np.ndarray]:
    folded = {}
    for path, array in variables.items():
        _, *parents, module, _ = path
        if module == "head":
            folded[path] = array
        elif module.startswith("conv"):
            norm = (*parents, module.replace("conv", "bn"))
            scale, bias, mean, var = (
                variables[collection, *norm, leaf].astype(np.float64)
                for collection, leaf in _NORM_VARIABLES
            )
            factor = scale / np.sqrt(var + BatchNorm.epsilon)
            folded[path] = (array * factor).astype(array.dtype)
            folded[*path[:-1], "bias"] = (bias - mean * factor).astype(array.dtype)
    return folded
