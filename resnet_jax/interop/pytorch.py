"""Weights from and to PyTorch's implementations of these networks."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files, layout
from resnet_jax.interop.layout import Naming, VariablePath
from resnet_jax.models import ResNet

_logger = logging.getLogger(__name__)

# The usual names of the state_dict in a checkpoint, the preferred one first.
_WRAPPERS = ("state_dict", "model")
# Parts of a checkpoint that hold moving averages of the weights, and that hold no weights.
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?|shadow)(_|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler", re.IGNORECASE)
# The prefix that DataParallel and torch.compile add to each name.
_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)+")
# The name of each network's first block, here and at Hugging Face.
_FIRST_BLOCK = re.compile(
    r"(.*?)(?:layer1\.0\.conv1|(?:resnet\.)?encoder\.stages\.0\.layers\.0\.layer\.0\.convolution)"
    r"\.weight"
)
# The names of classifiers: all their layers are dropped for a new one.
_HEADS = ("fc", "linear", "classifier", "head.fc", "head", "heads", "last_linear")
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
    average: bool | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from the weights of a PyTorch implementation.

    The names may be those of torchvision and timm (`layer1.0.conv1`, `downsample`, `fc`), of
    Hugging Face's `ResNetForImageClassification`, or of the usual CIFAR networks (`shortcut`,
    `linear`; option A has no parameters), all under a prefix such as `module.` or `backbone.` or
    without one. A checkpoint may hold them in a part: "state_dict", "model", or its only part with
    tensors by name. The number of image channels is that of the weights. Half precision becomes
    float32; float64 stays if JAX has it enabled.

    A checkpoint with both weights and their moving average ("model_ema", "state_dict_ema") gives
    the weights, with a warning in the log; `average` chooses.

    No name reveals the position of a bottleneck's stride: in torchvision and timm it is on the 3x3
    convolution, as in "resnet50", not as in "resnet50_v1".

    Args:
      model: a model of `create_model`.
      source: a file (.pth, .th, .pt, .safetensors), or tensors or arrays by name.
      skip_head: whether to initialise a new classifier, such as for another number of classes.
      key: key of the new classifier, as for `model.init(key, images)`; by default
        `jax.random.key(0)`.
      average: whether to read the moving average of the weights; None for the weights, with a
        warning if there are both.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: the file cannot be read or holds objects other than tensors (it is loaded with
        `weights_only=True`), or its entries do not fit the model (the error names all
        differences), or it holds several networks.
    """
    what, entries = _read(source, average)
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


def _read(source: Any, average: bool | None) -> tuple[str, dict[str, Any]]:
    """Returns the source's name and its entries, under bare names and without counters."""
    what = "the mapping"
    if isinstance(source, (str, os.PathLike)):
        path = files.existing_file(source)
        what, source = path.name, _read_file(path)
    if not isinstance(source, Mapping):
        hint = "; give its state_dict()" if hasattr(source, "state_dict") else ""
        kind = type(source).__name__
        raise WeightsError(f"weights must be a file or tensors by name, not a {kind}{hint}")
    source = _state_dict(what, source, average)
    tensors = {
        name: value
        for name, value in source.items()
        if str(name).rpartition(".")[2] not in _COUNTERS
    }
    entries = layout.renamed(tensors, lambda name: _PREFIX.sub("", name, count=1))
    prefixes = {found[1] for name in entries if (found := _FIRST_BLOCK.fullmatch(name))}
    if len(prefixes) > 1:
        raise WeightsError(
            f"{what} holds several networks, under {_listed(prefixes)}; give the tensors of one of"
            " them by name"
        )
    return what, layout.renamed(entries, lambda name: name.removeprefix("".join(prefixes)))


def _state_dict(what: str, source: Mapping[Any, Any], average: bool | None) -> Mapping[Any, Any]:
    """Returns the tensors by name of a checkpoint, from that of its parts which holds them."""
    parts = dict(_parts(source))
    averages = {path for path in parts if any(map(_AVERAGE.search, path))}
    if average and not averages:
        raise WeightsError(f"{what} has no moving average of the weights; omit average=True")
    chosen = averages if average else (parts.keys() - averages or averages)
    for name in _WRAPPERS:
        chosen = {path for path in chosen if path[:1] == (name,)} or chosen
    if len(chosen) > 1 and () not in chosen:
        names = [".".join(path) for path in chosen]
        raise WeightsError(
            f"{what} holds several networks, {_listed(names)}; give the tensors of one of them by"
            " name"
        )
    path = next(iter(chosen)) if len(chosen) == 1 else ()
    if average is None and averages and path not in averages:
        _logger.warning(
            "%s holds weights and their moving average, %s: the weights are read; from_torch(...,"
            " average=True) reads the average",
            what,
            _listed(".".join(path) for path in averages),
        )
    return parts.get(path, source)


def _parts(
    content: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yields the mappings from names to tensors in a checkpoint, with their path in it."""
    # Scalars, such as the best error, are no weights.
    if any(getattr(value, "shape", ()) != () for value in content.values()):
        yield path, content
    for name, value in content.items():
        if isinstance(value, Mapping) and isinstance(name, str) and not _NO_WEIGHTS.search(name):
            yield from _parts(value, (*path, name))


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(map(repr, names)))


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
            return Naming(partial(_hugging_face_name, prefix), _AXES, heads=("classifier.",))
    head = next((head for head in _HEADS if f"{head}.weight" in entries), "fc")
    is_shortcut = any(".shortcut." in name for name in entries)
    return _torch_naming(head, "shortcut" if is_shortcut else "downsample")


def _torch_naming(head: str, shortcut: str) -> Naming:
    heads = tuple(f"{name}." for name in _HEADS)
    return Naming(partial(_torch_name, head, shortcut), _AXES, heads=heads)


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
