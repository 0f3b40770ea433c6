"""The project's own weights files: safetensors that say which model they belong to."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float, PRNGKeyArray

from ..models import ModelError, ResNet, create_model, list_models
from ..models.errors import did_you_mean, shown
from . import files, layout
from .errors import WeightsError

_ENDING = ".safetensors"
_PRETRAINED = Path(__file__).with_name("pretrained")
# What a file does not say of a model: what every module has, and what computes it.
_NOT_DESCRIBED = ("parent", "name", "kernels")

_DESCRIPTION = ("model", "num_classes", "options")

PIXEL_MEAN = "preprocess.mean"
"""Name of the entry that holds the mean training image, which is no variable of the model."""


def save_weights(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    model: ResNet | None = None,
    *,
    pixel_mean: Float[np.ndarray, "h w c"] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes variables as a .safetensors file, whole or not at all.

    The arrays are named by their place, such as `params.stem.conv.kernel`, and keep their type.

    Args:
      path: the file; it ends in .safetensors, and its folder exists.
      variables: nested dictionaries of arrays, as `model.init` returns them.
      model: what they belong to. Its name, number of classes and options go into the metadata, so
        that `load_model` needs nothing but the file.
      pixel_mean: the mean training image on [0, 1] that was subtracted from the images, if one was;
        it is kept as `preprocess.mean`, where `evaluate --weights` finds it.
      notes: what else the metadata is to say, such as the recipe and the errors.

    Raises:
      WeightsError: the path cannot be written, the variables are not those of the model, or a note
        has a name that the file needs itself.
    """
    from safetensors.numpy import save

    if Path(path).suffix != _ENDING:
        raise WeightsError(f"{Path(path).name} does not end in {_ENDING}; rename it")
    entries = layout.flatten(variables)
    metadata = {"format": "resnet_jax"}
    if model is not None:
        layout.fit(model, layout.OURS, entries, "the variables")
        metadata |= _described(model)
    if pixel_mean is not None:
        entries = entries | {PIXEL_MEAN: np.asarray(pixel_mean, np.float32)}
    if taken := [name for name in notes or () if name in ("format", *_DESCRIPTION)]:
        raise WeightsError(f"the note {taken[0]!r} has a name the file needs; choose another")
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
    """Returns the variables that `save_weights` wrote.

    Args:
      path: the file.
      model: what they must fit; without it they are returned whatever they are.
      skip_head: keep the model's own classifier, freshly initialised, as for another number of
        classes; takes a model.
      key: what it is initialised from, as `model.init(key, images)` does; `jax.random.key(0)` by
        default.

    Returns:
      {"params", "batch_stats"}; {"params"} if batch normalisation was folded away.

    Raises:
      WeightsError: the file cannot be read, or its entries are not those of the model.
    """
    entries, _ = _read(path)
    what = Path(path).name
    if model is None:
        if skip_head:
            raise WeightsError("skip_head=True takes a model; give it, or leave skip_head")
        folders = {name[:i] for name in entries for i, char in enumerate(name) if char == "."}
        if both := sorted(folders & entries.keys()):
            raise WeightsError(f"{what} has an entry {shown(both[0])} and others inside of it")
        tree = {name: jnp.asarray(np.array(array)) for name, array in entries.items()}
        return traverse_util.unflatten_dict(tree, sep=".")
    fitted = layout.fit(model, layout.OURS, entries, what, skip_head=skip_head)
    variables = layout.to_variables(fitted)
    return layout.with_new_head(model, variables, key) if skip_head else variables


def load_model(path: str | os.PathLike[str]) -> tuple[ResNet, dict[str, Any]]:
    """Returns the model and the variables that `save_weights(path, variables, model)` wrote.

    Raises:
      WeightsError: the file cannot be read, says nothing of its model, or holds another's weights.
    """
    entries, metadata = _read(path)
    what = Path(path).name
    if "model" not in metadata:
        raise WeightsError(
            f"{what} does not say which model it is for; create that and call load_weights, or save"
            " it anew with save_weights(path, variables, model)"
        )
    model = _model(what, metadata)
    return model, layout.to_variables(layout.fit(model, layout.OURS, entries, what))


def load_pretrained(name: str) -> tuple[ResNet, dict[str, Any]]:
    """Returns a model and variables that the project trained and ships.

    They are the files of `resnet_jax/interop/pretrained`, NAME.safetensors each; the README beside
    them says what each was trained on.

    Raises:
      WeightsError: there are none of this name; the message lists those there are.
    """
    names = sorted(path.stem for path in _PRETRAINED.glob(f"*{_ENDING}"))
    if name not in names:
        hint = did_you_mean(name, names)
        listed = f"There are {', '.join(names)}" if names else "None are shipped yet"
        raise WeightsError(f"no pretrained weights {shown(name)}{hint} {listed}")
    return load_model(_PRETRAINED / f"{name}{_ENDING}")


def read_pixel_mean(path: str | os.PathLike[str]) -> Float[np.ndarray, "h w c"] | None:
    """Returns the mean training image that a weights file of any kind carries, or None.

    Raises:
      WeightsError: the file is not there, or cannot be read.
    """
    path = files.existing_file(path)
    return None if path.suffix != _ENDING else files.read_safetensors(path)[0].get(PIXEL_MEAN)


def is_native(metadata: Mapping[str, str]) -> bool:
    """Whether `save_weights` wrote a file with this metadata."""
    return metadata.get("format") == "resnet_jax"


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = files.existing_file(path)
    if path.suffix != _ENDING:
        raise WeightsError(
            f"{path.name} does not end in {_ENDING}; from_torch and from_keras read other weights"
        )
    entries, metadata = files.read_safetensors(path)
    if not is_native(metadata):
        raise WeightsError(
            f"{path.name} is none of save_weights' files; try from_torch(model, path)"
        )
    entries.pop(PIXEL_MEAN, None)
    return entries, metadata


def _described(model: ResNet) -> dict[str, str]:
    """Returns the metadata from which `_model` builds the model again."""

    def differing(name: str) -> dict[str, Any]:
        return _differing_fields(model, create_model(name, model.num_classes))

    # A network that nobody named is described by what sets it off from the nearest one.
    named = [name for name in list_models() if create_model(name).block is model.block]
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
            raise ValueError  # None of what `_described` writes.
        if isinstance(options.get("norm_axis_name"), list):
            options["norm_axis_name"] = tuple(options["norm_axis_name"])
        model = create_model(metadata["model"], int(metadata["num_classes"]))
        return model.clone(**options)
    except ModelError as error:
        raise WeightsError(f"{what} is for a model that is not there: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{what} describes its model in a way that this version of resnet_jax cannot read; a"
            " newer one may"
        ) from error
