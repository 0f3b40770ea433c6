"""Reads weights files of any supported format, selected by suffix."""

import os
from typing import Any

from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files
from resnet_jax.interop.keras import KERAS_ENDINGS, from_keras
from resnet_jax.interop.native import is_native, load_weights
from resnet_jax.interop.pytorch import from_torch
from resnet_jax.models import ResNet


def read_weights(
    model: ResNet,
    path: str | os.PathLike[str],
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from any weights file that `--weights FILE` accepts.

    .safetensors files are from `save_weights`, or have PyTorch's names; .pth, .th and .pt are
    PyTorch's; .h5, .weights.h5 and .npz are Keras's.

    Args:
      model: a model of `create_model`.
      path: the file.
      skip_head: whether to initialise a new classifier.
      key: key of the new classifier; by default `jax.random.key(0)`.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: as for `load_weights`, `from_torch` and `from_keras`, or the suffix is unknown.
    """
    path = files.existing_file(path)
    if path.suffix in KERAS_ENDINGS:
        return from_keras(model, path, skip_head=skip_head, key=key)
    if path.suffix == ".safetensors" and is_native(files.read_safetensors(path)[1]):
        return load_weights(path, model, skip_head=skip_head, key=key)
    if path.suffix == ".safetensors" or path.suffix in files.TORCH_ENDINGS:
        return from_torch(model, path, skip_head=skip_head, key=key)
    raise WeightsError(
        f"{path.name} does not end in a known suffix: .safetensors, .pth, .th, .pt, .h5 or .npz"
    )
