"""Exact evaluation: each image of a split counts once, for any batch size and device count."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from ..data import EvalBatch, Normalization
from ..parallel import replicated, shard_batch
from .metrics import ErrorSums, error_sums

EvalStep = Callable[[Any, Normalization, dict[str, jax.Array]], ErrorSums]


def make_eval_step(model: nn.Module, mesh: Mesh) -> EvalStep:
    """Returns a compiled `(variables, normalization, batch) -> ErrorSums` over all devices.

    Args:
      model: the network; it normalises with its running statistics.
      mesh: the devices; the batch comes split over them, the sums come out on each.
    """

    def eval_step(
        variables: Any, normalization: Normalization, batch: dict[str, jax.Array]
    ) -> ErrorSums:
        logits: Any = model.apply(variables, normalization(batch["image"]), train=False)
        return error_sums(logits, batch["label"], batch["mask"])

    return jax.jit(eval_step, out_shardings=replicated(mesh))


def evaluate(
    eval_step: EvalStep,
    variables: Any,
    normalization: Normalization,
    batches: Iterable[EvalBatch],
    mesh: Mesh,
) -> dict[str, float]:
    """Returns `num_examples`, `loss`, `top1_error` and `top5_error` over all batches.

    Args:
      eval_step: from `make_eval_step`.
      variables: `{"params", "batch_stats"}`, replicated.
      normalization: of the images.
      batches: this host's batches of one shape, with a `mask` that is false for padding. Errors and
        images are counted in integers; the loss is added up in float64.
      mesh: the devices.
    """
    totals = {"num_examples": 0, "loss": 0.0, "top1_error": 0, "top5_error": 0}
    pending: list[ErrorSums] = []

    def collect(sums: ErrorSums) -> None:
        totals["num_examples"] += int(sums.count)
        totals["loss"] += float(sums.loss)
        totals["top1_error"] += int(sums.top1_wrong)
        totals["top5_error"] += int(sums.top5_wrong)

    for batch in batches:
        pending.append(eval_step(variables, normalization, shard_batch(batch, mesh)))
        if len(pending) > 2:  # The devices stay busy, and batches do not pile up in their memory.
            collect(pending.pop(0))
    for sums in pending:
        collect(sums)
    count = totals.pop("num_examples")
    return {"num_examples": count} | {name: total / count for name, total in totals.items()}
