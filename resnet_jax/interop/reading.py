"""Reads weights of any supported format, with or without a given model."""

import os
import re
from pathlib import Path
from typing import Any

from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files
from resnet_jax.interop.hub import from_hub, read_hub
from resnet_jax.interop.keras import KERAS_ENDINGS, from_keras
from resnet_jax.interop.native import is_native_file, load_model, load_weights
from resnet_jax.interop.pytorch import from_torch
from resnet_jax.models import ResNet, create_model
from resnet_jax.runtime.files import local_path

TORCHVISION = {
    **dict.fromkeys(("resnet18-f37072fd", "resnet18-5c106cde"), 256),
    **dict.fromkeys(("resnet34-b627a593", "resnet34-333f7ec4"), 256),
    **dict.fromkeys(("resnet50-0676ba61", "resnet50-19c8e357"), 256),
    **dict.fromkeys(("resnet101-63fe2227", "resnet101-5d3b4d8f"), 256),
    **dict.fromkeys(("resnet152-394f9c45", "resnet152-b121ed2d"), 256),
    **dict.fromkeys(("resnext50_32x4d-7cdf4587", "resnext101_32x8d-8ba56ff5"), 256),
    **dict.fromkeys(("wide_resnet50_2-95faca4d", "wide_resnet101_2-32ee1156"), 256),
    **dict.fromkeys(("resnet50-11ad3fa6", "resnet101-cd907fc2", "resnet152-f82ba261"), 232),
    **dict.fromkeys(("resnext50_32x4d-1a0047aa", "resnext101_32x8d-110c445d"), 232),
    "resnext101_64x4d-173b62eb": 232,
    **dict.fromkeys(("wide_resnet50_2-9ba9bcbe", "wide_resnet101_2-d733dc28"), 232),
}
"""torchvision's weights, older files too: NAME-HASH → the shorter side from which 224 is cropped.

256 are those of IMAGENET1K_V1; 232 are IMAGENET1K_V2, and V1 of resnext101_64x4d.
"""


def read_weights(
    model: ResNet,
    path: str | os.PathLike[str],
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from any weights that `--weights` accepts.

    .safetensors files are from `save_weights`, or have PyTorch's names; .pth, .th and .pt are
    PyTorch's; .h5, .weights.h5, .keras and .npz are Keras's.

    Args:
      model: a model of `create_model`.
      path: a file, a folder with the files of a repository of the Hugging Face Hub, or the name of
        such a repository.
      skip_head: whether to initialise a new classifier.
      key: key of the new classifier; by default `jax.random.key(0)`.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: as for `load_weights`, `from_torch`, `from_keras` and `from_hub`, or the suffix
        is unknown.
    """
    if is_repository(path):
        return read_hub(model, os.fspath(path), skip_head=skip_head, key=key)
    path = files.existing_file(path)
    if path.suffix in KERAS_ENDINGS:
        return from_keras(model, path, skip_head=skip_head, key=key)
    if is_native_file(path):
        return load_weights(path, model, skip_head=skip_head, key=key)
    if path.suffix == ".safetensors" or path.suffix in files.TORCH_ENDINGS:
        return from_torch(model, path, skip_head=skip_head, key=key)
    raise WeightsError(
        f"{path.name} does not end in a known suffix: .safetensors, .pth, .th, .pt, .h5, .keras or"
        " .npz"
    )


def open_weights(
    source: str | os.PathLike[str],
    model: ResNet | None = None,
    *,
    num_classes: int | None = None,
    key: PRNGKeyArray | None = None,
    revision: str | None = None,
) -> tuple[ResNet, dict[str, Any]]:
    """Returns a model and its variables, from weights that say what network they are for.

    Args:
      source: a file of `save_weights`; one of torchvision's files under its own name, such as
        `resnet50-11ad3fa6.pth`; a folder with the files of a repository of the Hugging Face Hub, or
        the name of such a repository; with a model, all that `read_weights` takes.
      model: the model, for weights that do not say it.
      num_classes: initialises a new classifier of so many classes; by default, it is that of the
        weights.
      key: key of the new classifier; by default `jax.random.key(0)`.
      revision: branch, tag or commit of a repository.

    Raises:
      WeightsError: the weights do not say it, or as for `load_model`, `from_torch` and `from_hub`.
    """
    if model is None and is_repository(source):
        return from_hub(os.fspath(source), revision=revision, num_classes=num_classes, key=key)
    if model is None:
        path = files.existing_file(source)
        name = torchvision_name(path)
        if is_native_file(path):
            model, variables = load_model(path)
            if num_classes is None:
                return model, variables
        elif name is not None:
            model = create_model(name.rpartition("-")[0])
        else:
            raise WeightsError(
                f"{path.name} does not state its network; give it by --model, or"
                " open_weights(path, model)"
            )
    if num_classes is not None:
        model = model.clone(num_classes=num_classes)
    return model, read_weights(model, source, skip_head=num_classes is not None, key=key)


def is_repository(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a folder, or the name of a repository and not of a file."""
    path = local_path(source)
    if path.exists():
        return path.is_dir()
    endings = (".safetensors", *KERAS_ENDINGS, *files.TORCH_ENDINGS)
    is_name = re.fullmatch(r"[\w.-]+/[\w.-]+", os.fspath(source)) is not None
    return is_name and path.suffix not in endings and not os.fspath(source).startswith(".")


def torchvision_name(path: str | os.PathLike[str]) -> str | None:
    """Returns NAME-HASH, a key of `TORCHVISION`, if a file has the name of one of torchvision's."""
    # Browsers name a second copy "NAME-HASH (1).pth".
    stem = re.sub(r" ?\(\d+\)$", "", Path(path).stem)
    return stem if stem in TORCHVISION else None
