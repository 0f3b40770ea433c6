"""Weights from Keras: `keras.applications` ResNet50, ResNet101 and ResNet152."""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import PRNGKeyArray

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files, layout
from resnet_jax.interop.layout import Naming, VariablePath
from resnet_jax.models import BatchNorm, BottleneckBlock, ResNet

KERAS_ENDINGS = (".h5", ".hdf5", ".keras", ".npz")
# Keras's epsilon of batch normalisation; the old networks use its default.
_EPSILON = 1.001e-5
_OLD_EPSILON = 1e-3

# The weights of a layer in Keras's order → their names here.
_WEIGHTS = {
    "conv": {"kernel": "kernel", "bias": "bias"},
    "bn": {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"},
}
# Their names in Keras 1, whose "std" is the variance.
_OLD_WEIGHTS = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}

_NEW_STEM = {"conv": "conv1_conv", "bn": "conv1_bn"}
_OLD_STEM = {"conv": "conv1", "bn": "bn_conv1"}
_HEADS = ("predictions", "probs", "fc1000")
_NEW_LAYER = re.compile(r"conv([2-5])_block(\d+)_([0-3])_(conv|bn)")
# Blocks are a, b, c, ... or, in the authors' deeper networks, a, b1, b2, ...
_OLD_LAYER = re.compile(r"(res|bn)([2-5])([a-z])(\d*)_branch(?:1|2([a-c]))")
# Keras 3 stores a layer under its class and a number; some versions write no other name.
_UNNAMED_LAYER = re.compile(r"(conv2d|batch_normalization|dense)(?:_(\d+))?")

Modules = tuple[str, ...]


def from_keras(
    model: ResNet,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns a model's variables from the weights of `keras.applications`' ResNets.

    The layers may have today's names (`conv2_block1_1_conv`, `predictions`) or the old ones
    (`res2a_branch2a`, `bn2a_branch2a`, `fc1000`). The stride of these networks is on the first
    1x1 convolution of a block, so the model is "resnet50_v1", "resnet101_v1" or "resnet152_v1".

    Keras's convolutions have biases, and its batch normalisation adds 1.001e-5 (old networks: 1e-3)
    to the variance; here, there are no biases and epsilon is 1e-5. The running statistics absorb
    both: the mean becomes mean - bias, the variance becomes variance + epsilon - 1e-5, and the
    logits stay the same.

    Args:
      model: a model of `create_model`.
      source: a file (.h5, .weights.h5, .keras, .npz), or arrays by name: "LAYER/WEIGHT", as in a
        Keras variable's `path`, or the result of `get_weights()` per layer.
      skip_head: whether to initialise a new classifier, such as for another number of classes.
      key: key of the new classifier, as for `model.init(key, images)`; by default
        `jax.random.key(0)`.

    Returns:
      {"params", "batch_stats"}.

    Raises:
      WeightsError: the file cannot be read, its entries do not fit the model (the error names all
        differences), or the model's strides are elsewhere.
    """
    if model.block is BottleneckBlock and not model.stride_on_first:
        raise WeightsError(
            "Keras's ResNets have the stride on a block's first 1x1 convolution, this model on the"
            " 3x3, so the logits would differ; create 'resnet50_v1', 'resnet101_v1' or"
            " 'resnet152_v1'"
        )
    if model.folded:
        raise WeightsError("the model has no batch normalisation; call fold_batch_norm afterwards")
    what = "the mapping"
    if isinstance(source, Mapping):
        entries = dict(_flat(source))
    else:
        path = files.existing_file(source)
        if path.suffix not in KERAS_ENDINGS:
            endings = ", ".join(KERAS_ENDINGS)
            raise WeightsError(f"{path.name} does not end in a suffix of Keras weights: {endings}")
        what, entries = path.name, files.read_keras(path)

    is_old = any(_OLD_LAYER.search(name) for name in entries)
    naming = Naming(partial(_name, is_old), conv_biases=True)

    paths = {name: _path(name, model) for name in entries}
    if skip_head:
        heads = {name for name, found in paths.items() if found and found[1] == "head"}
        entries = {name: value for name, value in entries.items() if name not in heads}

    def usual_name(name: str) -> str:
        found = paths[name]
        return name if found is None else naming.name(found)

    entries = layout.renamed(entries, usual_name)
    fitted = layout.fit(model, naming, entries, what, skip_head=skip_head)
    variables = layout.to_variables(_folded(fitted, _OLD_EPSILON if is_old else _EPSILON))
    return layout.with_new_head(model, variables, key) if skip_head else variables


def _folded(
    variables: Mapping[VariablePath, np.ndarray], epsilon: float
) -> dict[VariablePath, np.ndarray]:
    """Returns the variables without convolution biases, for our epsilon."""
    folded = {}
    for path, array in variables.items():
        *parents, module, leaf = path
        if module.startswith("conv") and leaf == "bias":
            continue
        if leaf in ("mean", "var"):
            conv = (*parents[1:], module.replace("bn", "conv"))
            exact = array.astype(np.float64)
            if leaf == "mean":
                exact -= variables.get(("params", *conv, "bias"), 0.0)
            else:
                exact += epsilon - BatchNorm.epsilon
            array = exact.astype(array.dtype)
        folded[path] = array
    return folded


def _flat(source: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields a mapping's arrays by ".../LAYER/WEIGHT"; in a list, the weight is a number."""
    for name, value in source.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{weight}", array) for weight, array in value.items())
        elif isinstance(value, list | tuple):
            yield from ((f"{name}/{index}", array) for index, array in enumerate(value))
        else:
            yield str(name), value


def _path(name: str, model: ResNet) -> VariablePath | None:
    """Returns the variable's path of ".../LAYER/WEIGHT", or None if it has none."""
    *groups, weight = name.split("/")
    # A layer's group may contain another one with the same name and a number.
    for layer in reversed(groups):
        if modules := _modules(layer) or _modules_of_unnamed(layer, model):
            break
    else:
        return None
    weights = _WEIGHTS["bn" if modules[-1].startswith("bn") else "conv"]
    weight = weight.removesuffix(":0").removeprefix(f"{layer}_")
    if weight.isdecimal():
        leaf = dict(enumerate(weights.values())).get(int(weight))
    else:
        weight = re.sub(r"_\d+$", "", weight)
        leaf = weights.get(_OLD_WEIGHTS.get(weight, weight))
    if leaf is None:
        return None
    return ("batch_stats" if leaf in ("mean", "var") else "params", *modules, leaf)


def _modules(layer: str) -> Modules | None:
    """Returns the modules of a layer, such as ("stage1", "block1", "conv1"), or None."""
    for stem in (_NEW_STEM, _OLD_STEM):
        for kind, name in stem.items():
            if layer == name:
                return "stem", kind
    if layer in _HEADS:
        return ("head",)
    if found := _NEW_LAYER.fullmatch(layer):
        stage, block, part, kind = found.groups()
        return _in_block(int(stage), int(block), int(part), kind)
    if found := _OLD_LAYER.fullmatch(layer):
        kind, stage, letter, number, part = found.groups()
        block = ord(letter) - ord("a") + int(number or 1)
        part = 0 if part is None else ord(part) - ord("a") + 1
        return _in_block(int(stage), block, part, "bn" if kind == "bn" else "conv")
    return None


def _in_block(stage: int, block: int, part: int, kind: str) -> Modules:
    inner = (f"{kind}{part}",) if part else ("shortcut", kind)
    return f"stage{stage - 1}", f"block{block}", *inner


def _modules_of_unnamed(layer: str, model: ResNet) -> Modules | None:
    """Returns the modules of a layer from its class and number, or None."""
    found = _UNNAMED_LAYER.fullmatch(layer)
    if not found:
        return None
    if found[1] == "dense":
        return ("head",)
    kind = "conv" if found[1] == "conv2d" else "bn"
    layers: list[Modules] = [("stem", kind)]
    for stage, size in enumerate(model.stage_sizes, start=2):
        for block in range(1, size + 1):
            # A block's last convolution follows that of its shortcut.
            parts = (1, 2, 0, 3) if block == 1 else (1, 2, 3)
            layers += [_in_block(stage, block, part, kind) for part in parts]
    number = int(found[2] or 0)
    return layers[number] if number < len(layers) else None


def _name(is_old: bool, path: VariablePath) -> str:
    """Returns Keras's name of a variable, "LAYER/WEIGHT"."""
    _, *modules, leaf = path
    kind = modules[-1].rstrip("0123456789")
    if modules == ["head"]:
        layer = _HEADS[-1] if is_old else _HEADS[0]
    elif modules[0] == "stem":
        layer = (_OLD_STEM if is_old else _NEW_STEM)[kind]
    else:
        stage = int(modules[0].removeprefix("stage")) + 1
        block = int(modules[1].removeprefix("block"))
        part = int(modules[-1][len(kind) :] or 0)
        if is_old:
            prefix = "bn" if kind == "bn" else "res"
            branch = "1" if part == 0 else "2" + "abc"[part - 1]
            letter = chr(ord("a") + block - 1) if block <= 26 else f"b{block - 1}"
            layer = f"{prefix}{stage}{letter}_branch{branch}"
        else:
            layer = f"conv{stage}_block{block}_{part}_{kind}"
    names = {ours: theirs for theirs, ours in _WEIGHTS["bn" if kind == "bn" else "conv"].items()}
    return f"{layer}/{names[leaf]}"
