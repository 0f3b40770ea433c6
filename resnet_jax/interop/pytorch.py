"""Weights from and to PyTorch's implementations of these networks."""

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files, layout
from resnet_jax.interop.layout import Naming, VariablePath
from resnet_jax.models import ResNet

_WRAPPERS = ("state_dict", "model", "model_ema")
# The prefix that DataParallel and torch.compile add to each name.
_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)+")
# Counters of batch normalisation and of weight averaging.
_COUNTERS = ("num_batches_tracked", "n_averaged")
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
# PyTorch stores convolutions as [out, in, height, width] and linear layers as [out, in].
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def from_torch(
    model: ResNet,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from the weights of a PyTorch implementation.

    The names may be those of torchvision and timm (`layer1.0.conv1`, `downsample`, `fc`), of
    Hugging Face's `ResNetForImageClassification`, or of the usual CIFAR networks (`shortcut`,
    `linear`; option A has no parameters), with or without the prefix `module.`, at the top level or
    under "state_dict", "model" or "model_ema" (the first one present). The number of image channels
    is that of the weights. Half precision becomes float32; float64 stays if JAX has it enabled.

    No name reveals the position of a bottleneck's stride: in torchvision and timm it is on the 3x3
    convolution, as in "resnet50", not as in "resnet50_v1".

    Args:
      model: a model of `create_model`.
      source: a file (.pth, .th, .pt, .safetensors), or tensors or arrays by name.
      skip_head: whether to initialise a new classifier, such as for another number of classes.
      key: key of the new classifier, as for `model.init(key, images)`; by default
        `jax.random.key(0)`.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: the file cannot be read or holds objects other than tensors (it is loaded with
        `weights_only=True`), or its entries do not fit the model; the error names all differences.
    """
    what, entries = _read(source)
    naming = _naming_of(entries)
    fitted = layout.fit(model, naming, entries, what, skip_head=skip_head)
    variables = layout.to_variables(fitted)
    return layout.with_new_head(model, variables, key) if skip_head else variables


def to_torch(model: ResNet, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns a model's variables under PyTorch's names.

    The names and their order are torchvision's; CIFAR networks, with three stages, use those of the
    usual implementations (`shortcut`, `linear`). `from_torch` recovers the same variables bit for
    bit. `torch.from_numpy` converts each array to a tensor for `load_state_dict`.

    Args:
      model: a model of `create_model`.
      variables: its variables.

    Returns:
      Arrays by name, without shared memory: float64 where the variables are, otherwise float32.
      `num_batches_tracked`, which only PyTorch has, is an int64 zero.

    Raises:
      WeightsError: the variables do not fit the model.
    """
    if not isinstance(model.stem, str):
        raise WeightsError(
            "a stem of your own has no names in PyTorch's implementations; to_torch takes the "
            "stems 'imagenet' and 'cifar'"
        )
    fitted = layout.fit(model, layout.OURS, layout.flatten(variables), "the variables")
    is_cifar = len(model.stage_sizes) == 3
    naming = _torch_naming(*(("linear", "shortcut") if is_cifar else ("fc", "downsample")))
    state_dict = {}
    for path in sorted(fitted, key=_module_order):
        name = naming.name(path)
        state_dict[name] = np.array(naming.to_theirs(fitted[path]), order="C")
        if path[-1] == "var":
            counter = name.replace("running_var", "num_batches_tracked")
            state_dict[counter] = np.zeros((), np.int64)
    return state_dict


def _read(source: Any) -> tuple[str, dict[str, Any]]:
    """Returns the source's name and its entries, under bare names and without counters."""
    what = "the mapping"
    if isinstance(source, (str, os.PathLike)):
        path = files.existing_file(source)
        what, source = path.name, _read_file(path)
    if not isinstance(source, Mapping):
        hint = "; give its state_dict()" if hasattr(source, "state_dict") else ""
        kind = type(source).__name__
        raise WeightsError(f"weights must be a file or tensors by name, not a {kind}{hint}")
    for name in _WRAPPERS:
        if isinstance(source.get(name), Mapping):
            source = source[name]
            break
    return what, layout.renamed(
        {
            name: value
            for name, value in source.items()
            if str(name).rpartition(".")[2] not in _COUNTERS
        },
        lambda name: _PREFIX.sub("", name, count=1),
    )


def _read_file(path: Path) -> Any:
    if path.suffix == ".safetensors":
        entries, _ = files.read_safetensors(path)
        if any(name.startswith("params.") for name in entries):
            raise WeightsError(f"{path.name} has resnet_jax's own names; read it by load_weights")
        return entries
    if path.suffix not in files.TORCH_ENDINGS:
        endings = ", ".join((".safetensors", *files.TORCH_ENDINGS))
        raise WeightsError(
            f"{path.name} does not end in a suffix of PyTorch's weights; rename it to one of"
            f" {endings}"
        )
    content = files.read_torch(path)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise WeightsError(f"{path.name} holds a {kind}, not tensors by name; save a state_dict()")
    return content


def _naming_of(entries: Mapping[str, Any]) -> Naming:
    for prefix in ("resnet.", ""):
        if f"{prefix}embedder.embedder.convolution.weight" in entries:
            return Naming(partial(_hugging_face_name, prefix), _AXES)
    head = "linear" if "linear.weight" in entries else "fc"
    is_shortcut = any(".shortcut." in name for name in entries)
    return _torch_naming(head, "shortcut" if is_shortcut else "downsample")


def _torch_naming(head: str, shortcut: str) -> Naming:
    return Naming(partial(_torch_name, head, shortcut), _AXES)


def _torch_name(head: str, shortcut: str, path: VariablePath) -> str:
    _, *modules, leaf = path
    match modules:
        case ["head"]:
            module = head
        case ["stem", part]:
            module = f"{part}1"
        case [stage, block, "shortcut", part]:
            module = f"{_layer(stage, block)}.{shortcut}.{('conv', 'bn').index(part)}"
        case [stage, block, part]:
            module = f"{_layer(stage, block)}.{part}"
    return f"{module}.{_LEAVES.get(leaf, leaf)}"


def _layer(stage: str, block: str) -> str:
    return f"layer{stage.removeprefix('stage')}.{int(block.removeprefix('block')) - 1}"


def _hugging_face_name(prefix: str, path: VariablePath) -> str:
    _, *modules, leaf = path
    if modules == ["head"]:
        return f"classifier.1.{_LEAVES.get(leaf, leaf)}"
    *parents, part = modules
    kind = "convolution" if part.startswith("conv") else "normalization"
    if parents == ["stem"]:
        module = "embedder.embedder"
    else:
        stage, block, *shortcut = parents
        layer = _layer(stage, block).removeprefix("layer").split(".")
        index = int(layer[0]) - 1
        inner = "shortcut" if shortcut else f"layer.{int(part[-1]) - 1}"
        module = f"encoder.stages.{index}.layers.{layer[1]}.{inner}"
    return f"{prefix}{module}.{kind}.{_LEAVES.get(leaf, leaf)}"


def _module_order(path: VariablePath) -> list[tuple[int, int]]:
    """Returns the sorting key of a variable in the order of torchvision's modules."""
    order = ("stem", "stage", "block", "conv", "bn", "shortcut", "head")
    leaves = ("kernel", "scale", "bias", "mean", "var")
    key = []
    for part in path[1:-1]:
        kind = part.rstrip("0123456789")
        rank, number = order.index(kind), int(part[len(kind) :] or 0)
        # conv1, bn1, conv2, bn2, ..., shortcut: here the number comes first.
        key.append((number, rank) if kind in ("conv", "bn") else (rank, number))
    return [*key, (leaves.index(path[-1]), 0)]
