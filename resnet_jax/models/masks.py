"""Training a part of a network: which parameters an optimiser moves."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from resnet_jax.models.errors import ModelError, did_you_mean, shown


def parameter_mask(params: Mapping[str, Any], parts: str | Sequence[str]) -> dict[str, Any]:
    """Returns a tree like `params` with True at the parameters of the named parts, else False.

    Args:
        params: a network's parameters, `variables["params"]`.
        parts: one or more of its parts: "stem", "stage1", "stage2", ..., "head".

    Raises:
        ModelError: if the network has no such part, or none is named.
    """
    names = (parts,) if isinstance(parts, str) else tuple(parts)
    listed = ", ".join(sorted(params, key=_order))
    if not names:
        raise ModelError(f"no part to train is named. There are {listed}")
    for name in names:
        if name not in params:
            hint = did_you_mean(name, params)
            raise ModelError(f"unknown part {shown(name)}{hint} There are {listed}")
    return {
        name: jax.tree.map(lambda _, chosen=name in names: chosen, subtree)
        for name, subtree in params.items()
    }


def train_only(
    optimizer: optax.GradientTransformation, parts: str | Sequence[str]
) -> optax.GradientTransformation:
    """Returns an optimiser that trains the named parts of a network and leaves the others alone.

    The updates of all other parameters are zero, so that they stay as they are bit for bit: no
    weight decay reaches them, and there is no momentum of theirs in the state. (`optax.masked`
    alone hands their gradients through as updates.) Running statistics are no parameters: with
    `freeze_batch_norm=True` the model leaves them alone, too.

    Args:
        optimizer: what trains the named parts.
        parts: one or more of "stem", "stage1", "stage2", ..., "head".

    Raises:
        ModelError: from `init`, if the network has no such part, or none is named.
    """

    def labels(params: Mapping[str, Any]) -> Any:
        mask = parameter_mask(params, parts)
        return jax.tree.map(lambda chosen: "train" if chosen else "keep", mask)

    return optax.multi_transform({"train": optimizer, "keep": optax.set_to_zero()}, labels)


def _order(name: str) -> tuple[int, str]:
    """Sorts a network's parts from the first to the last."""
    return {"stem": 0, "head": 2}.get(name, 1), name
