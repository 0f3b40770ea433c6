"""A weights file of whatever origin, by its ending."""

import os
from typing import Any

from jaxtyping import PRNGKeyArray

from ..models import ResNet
from . import files
from .errors import WeightsError
from .keras import KERAS_ENDINGS, from_keras
from .native import is_native, load_weights
from .pytorch import from_torch


def read_weights(
    model: ResNet,
    path: str | os.PathLike[str],
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from any weights file, which is what `--weights FILE` takes.

    .safetensors are `save_weights`'s own, or have PyTorch's names; .pth, .th and .pt are PyTorch's;
    .h5, .weights.h5 and .npz are Keras's.

    Args:
      model: what `create_model` returns.
      path: the file.
      skip_head: keep the model's own classifier, freshly initialised.
      key: what it is initialised from; `jax.random.key(0)` by default.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: as `load_weights`, `from_torch` and `from_keras` do, or for another ending.
    """
    path = files.existing_file(path)
    if path.suffix in KERAS_ENDINGS:
        return from_keras(model, path, skip_head=skip_head, key=key)
    if path.suffix == ".safetensors" and is_native(files.read_safetensors(path)[1]):
        return load_weights(path, model, skip_head=skip_head, key=key)
    if path.suffix == ".safetensors" or path.suffix in files.TORCH_ENDINGS:
        return from_torch(model, path, skip_head=skip_head, key=key)
    raise WeightsError(
        f"{path.name} does not end as weights do: .safetensors, .pth, .th, .pt, .h5 or .npz"
    )
