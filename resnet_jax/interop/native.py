"""The project's own weights files: safetensors with a description of their model."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, PRNGKeyArray

from resnet_jax.errors import WeightsError, did_you_mean, shown
from resnet_jax.interop import files, layout
from resnet_jax.models import (
    MODELS,
    BasicBlock,
    BottleneckBlock,
    ModelError,
    ResNet,
    create_model,
    list_models,
)

_ENDING = ".safetensors"
# Fields that a file does not describe: those of all modules, and the implementation.
_NOT_DESCRIBED = ("parent", "name", "kernels")

_DESCRIPTION = ("model", "num_classes", "options")
# A part of a flattened variable's name, whatever separates the parts: ".", "/", "__", "']['".
_PART = re.compile(r"[^\W_]+(?:_[^\W_]+)*")

PIXEL_MEAN = "preprocess.mean"
"""Name of the entry with the mean training image, which is not a variable of the model."""

PREPROCESSING = "preprocessing"
"""Name of the metadata with a `Preprocessing`."""


def save_weights(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    model: ResNet | None = None,
    *,
    pixel_mean: Float[Array | np.ndarray, "h w c"] | None = None,
    preprocessing: Any = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes variables to a .safetensors file atomically.

    The arrays are named by their path, such as `params.stem.conv.kernel`, and keep their dtype.

    Args:
      path: the file; it ends in .safetensors, and its folder exists.
      variables: nested dictionaries of arrays, as `model.init` returns them.
      model: the variables' model. Its name, number of classes and options go into the metadata, so
        that `load_model` needs only the file.
      pixel_mean: the mean training image on [0, 1] that was subtracted from the images, if any; it
        is stored as `preprocess.mean`, where `evaluate --weights` finds it.
      preprocessing: the `resnet_jax.data.Preprocessing` of the images, if known, with or without a
        mean image. `resnet_jax.preprocessing(path)` returns it.
      notes: further metadata, such as the recipe and the errors.

    Raises:
      WeightsError: the path cannot be written, the variables do not fit the model, or a note has a
        reserved name.
    """
    from safetensors.numpy import save

    if Path(path).suffix != _ENDING:
        raise WeightsError(f"{Path(path).name} does not end in {_ENDING}; rename it")
    entries = layout.flatten(variables)
    metadata = {"format": "resnet_jax"}
    if model is not None:
        layout.fit(model, layout.OURS, entries, "the variables")
        metadata |= _described(model)
    if preprocessing is not None:
        metadata[PREPROCESSING] = preprocessing.to_json()
        if isinstance(preprocessing.mean, np.ndarray):
            pixel_mean = preprocessing.mean
    if pixel_mean is not None:
        entries = entries | {PIXEL_MEAN: np.asarray(pixel_mean, np.float32)}
    if taken := [name for name in notes or () if name in ("format", PREPROCESSING, *_DESCRIPTION)]:
        raise WeightsError(f"the note {taken[0]!r} has a reserved name; choose another")
    metadata |= notes or {}
    arrays = {name: np.ascontiguousarray(value) for name, value in entries.items()}
    files.write_file(path, save(arrays, metadata))


def load_weights(
    path: str | os.PathLike[str],
    model: ResNet | None = None,
    *,
    skip_head: bool = False,
    key: PRNGKeyArray | None = None,
) -> dict[str, Any]:
    """Returns the variables that `save_weights` wrote, or `safetensors.flax` from flat names.

    Args:
      path: the file.
      model: the model that they must fit; without it, they are returned unchecked.
      skip_head: whether to initialise a new classifier, such as for another number of classes;
        needs a model.
      key: key of the new classifier, as for `model.init(key, images)`; by default
        `jax.random.key(0)`.

    Returns:
      {"params", "batch_stats"}; {"params"} if batch normalisation was folded.

    Raises:
      WeightsError: the file cannot be read, its entries do not fit the model, or it says that they
        are of a variant with another stride, stem or shortcuts.
    """
    entries, metadata = _read(path)
    what = Path(path).name
    if model is None:
        if skip_head:
            raise WeightsError("skip_head=True needs a model; give it, or omit skip_head")
        folders = {name[:i] for name in entries for i, char in enumerate(name) if char == "."}
        if both := sorted(folders & entries.keys()):
            raise WeightsError(f"{what} has an entry {shown(both[0])} and others inside it")
        tree = {name: jnp.asarray(np.array(array)) for name, array in entries.items()}
        return traverse_util.unflatten_dict(tree, sep=".")
    if metadata.get("model") in MODELS:
        layout.check_variant(what, _model(what, metadata), model)
    fitted = layout.fit(model, layout.OURS, entries, what, skip_head=skip_head)
    variables = layout.to_variables(fitted)
    return layout.with_new_head(model, variables, key) if skip_head else variables


def load_model(path: str | os.PathLike[str]) -> tuple[ResNet, dict[str, Any]]:
    """Returns the model and the variables that `save_weights(path, variables, model)` wrote.

    Raises:
      WeightsError: the file cannot be read, or its model is not described or does not fit.
    """
    entries, metadata = _read(path)
    what = Path(path).name
    if "model" not in metadata:
        raise WeightsError(
            f"{what} does not state its model; create that and call load_weights, or save it again"
            " with save_weights(path, variables, model)"
        )
    model = _model(what, metadata)
    return model, layout.to_variables(layout.fit(model, layout.OURS, entries, what))


def load_pretrained(name: str) -> tuple[ResNet, dict[str, Any]]:
    """Returns a model and variables that the project trained and ships.

    They are the files NAME.safetensors in `resnet_jax/interop/pretrained`; the README there
    describes their training.

    Raises:
      WeightsError: there are none with this name; the message lists the names.
    """
    names = sorted(path.stem for path in files.SHIPPED.glob(f"*{_ENDING}"))
    if name not in names:
        hint = did_you_mean(name, names)
        listed = f"choose from {', '.join(names)}" if names else "none are shipped yet"
        raise WeightsError(f"no pretrained weights {shown(name)}{hint}; {listed}")
    return load_model(files.SHIPPED / f"{name}{_ENDING}")


def read_pixel_mean(path: str | os.PathLike[str]) -> Float[np.ndarray, "h w c"] | None:
    """Returns the mean training image in a weights file of any format, or None.

    Raises:
      WeightsError: the file does not exist or cannot be read.
    """
    path = files.existing_file(path)
    return None if path.suffix != _ENDING else files.read_safetensors(path)[0].get(PIXEL_MEAN)


def is_native(metadata: Mapping[str, str]) -> bool:
    """Whether `save_weights` wrote a file with this metadata."""
    return metadata.get("format") == "resnet_jax"


def is_native_file(path: str | os.PathLike[str]) -> bool:
    """Whether `load_weights` reads a file, by its ending, metadata and names.

    Raises:
      WeightsError: the file does not exist or cannot be read.
    """
    path = files.existing_file(path)
    if path.suffix != _ENDING:
        return False
    names, metadata = files.safetensors_header(path)
    return is_native(metadata) or _is_flat(names)


def _is_flat(names: Iterable[str]) -> bool:
    return any(_own_name(name).startswith("params.") for name in names)


def _own_name(name: str) -> str:
    """Returns the name that `save_weights` gives a variable, such as "params.head.bias"."""
    return ".".join(_PART.findall(name))


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = files.existing_file(path)
    if path.suffix != _ENDING:
        raise WeightsError(
            f"{path.name} does not end in {_ENDING}; from_torch and from_keras read other weights"
        )
    entries, metadata = files.read_safetensors(path)
    if not is_native(metadata) and _is_flat(entries):
        return {_own_name(name): array for name, array in entries.items()}, {}
    if not is_native(metadata):
        raise WeightsError(
            f"{path.name} was not written by save_weights; try from_torch(model, path)"
        )
    entries.pop(PIXEL_MEAN, None)
    return entries, metadata


def _described(model: ResNet) -> dict[str, str]:
    """Returns the metadata from which `_model` rebuilds the model."""
    if not isinstance(model.stem, str):
        raise WeightsError(
            "a file can name the stems 'imagenet' and 'cifar', not one of your own; save the "
            "variables without the model, and load them with load_weights(path, model)"
        )

    def differing(name: str) -> dict[str, Any]:
        return _differing_fields(model, create_model(name, model.num_classes))

    own = model.block if type(model) is ResNet else type(model)
    if own not in (BasicBlock, BottleneckBlock):
        raise WeightsError(
            f"a file cannot describe {own.__name__}, a class of your own; save the variables"
            " without the model, and load them with load_weights(path, model)"
        )
    # An unnamed network is described by its differences from the most similar named one.
    networks = {name: create_model(name) for name in list_models()}
    named = [name for name, net in networks.items() if getattr(net, "block", None) is model.block]
    name = min(named, key=lambda name: len(differing(name)))
    return {
        "model": name,
        "num_classes": str(model.num_classes),
        "options": json.dumps(differing(name), sort_keys=True, default=int),
    }


def _differing_fields(model: ResNet, other: ResNet) -> dict[str, Any]:
    differing = {}
    for field in fields(ResNet):
        value = getattr(model, field.name)
        if field.name not in _NOT_DESCRIBED and value != getattr(other, field.name):
            differing[field.name] = jnp.dtype(value).name if field.name == "dtype" else value
    return differing


def _model(what: str, metadata: Mapping[str, str]) -> ResNet:
    try:
        options = json.loads(metadata["options"])
        if {"block", *_NOT_DESCRIBED} & options.keys():
            raise ValueError  # `_described` never writes these.
        if isinstance(options.get("norm_axis_name"), list):
            options["norm_axis_name"] = tuple(options["norm_axis_name"])
        model = create_model(metadata["model"], int(metadata["num_classes"]))
        return model.clone(**options)
    except ModelError as error:
        raise WeightsError(f"{what} is for an unknown model: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{what} describes its model in a form that this version of resnet_jax cannot read; a"
            " newer one may"
        ) from error
