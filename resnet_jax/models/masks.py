"""Training only a part of a network: masks of the parameters that an optimiser updates."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from resnet_jax.errors import ModelError, did_you_mean, shown


def parameter_mask(params: Mapping[str, Any], parts: str | Sequence[str]) -> Any:
    """Returns a tree like `params`: True for parameters of the named parts, False for others.

    Args:
      params: a network's parameters, `variables["params"]`.
      parts: one or more of its parts: "stem", "stage1", "stage2", ..., "head".

    Raises:
      ModelError: the network has no such part, or none is named.
    """
    names = (parts,) if isinstance(parts, str) else tuple(parts)
    listed = ", ".join(sorted(params, key=_order))
    if not names:
        raise ModelError(f"no part to train is named; choose from {listed}")
    for name in names:
        if name not in params:
            hint = did_you_mean(name, params)
            raise ModelError(f"unknown part {shown(name)}{hint}; choose from {listed}")
    # The tree may hold other mappings than dictionaries, such as FrozenDicts.
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in names, params)


def train_only(
    optimizer: optax.GradientTransformation, parts: str | Sequence[str]
) -> optax.GradientTransformation:
    """Returns an optimiser that trains only the named parts of a network.

    The updates of all other parameters are zero, so they stay unchanged bit for bit: they have no
    weight decay and no momentum in the state. (`optax.masked` alone passes their gradients through
    as updates.) Running statistics are not parameters: freeze them, too, by a model with
    `freeze_batch_norm=True`.

    Args:
      optimizer: the optimiser of the named parts.
      parts: one or more of "stem", "stage1", "stage2", ..., "head".

    Raises:
      ModelError: from `init`, if the network has no such part, or none is named.
    """

    def labels(params: Mapping[str, Any]) -> Any:
        mask = parameter_mask(params, parts)
        return jax.tree.map(lambda chosen: "train" if chosen else "keep", mask)

    return optax.multi_transform({"train": optimizer, "keep": optax.set_to_zero()}, labels)


def _order(name: str) -> tuple[int, str]:
    """Returns the sorting key of a network's parts, from first to last."""
    return {"stem": 0, "head": 2}.get(name, 1), name
