"""Exact evaluation: each image of a split counts once, for any batch size and device count."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from ..data import EvalBatch, Normalization, Source
from ..parallel import compiler_options, replicated, shard_batch
from .errors import EvaluationError
from .metrics import ErrorSums, error_sums
from .network import Network
from .protocols import Protocol
from .scoring import ScoredBatch, score_batches

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

    options = compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(eval_step, out_shardings=replicated(mesh), compiler_options=options)


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

    Raises:
      EvaluationError: there is no image at all.
    """
    totals = _Totals()
    pending: list[ErrorSums] = []
    for batch in batches:
        pending.append(eval_step(variables, normalization, shard_batch(batch, mesh)))
        if len(pending) > 2:  # The devices stay busy, and batches do not pile up in their memory.
            totals.add(pending.pop(0))
    for sums in pending:
        totals.add(sums)
    return totals.means()


def evaluate_as(
    protocol: Protocol,
    networks: Sequence[Network],
    source: Source,
    mesh: Mesh,
    *,
    batch_size: int,
    observers: Sequence[Callable[[ScoredBatch], None]] = (),
) -> dict[str, float]:
    """Evaluates a network, or an ensemble, by one of the paper's protocols.

    Args:
      protocol: which views of an image are scored.
      networks: one, or several whose softmax scores are averaged.
      source: the split.
      mesh: the devices, all of this process.
      batch_size: images a batch; rounded up to a multiple of the device count.
      observers: called with each batch's scores, such as `ClassErrors` and `Predictions`.

    Returns:
      `num_examples`, `loss` (nats, of the averaged scores), `top1_error`, `top5_error` (fractions).

    Raises:
      EvaluationError: no network, or no image.
      DataError: an image that cannot be decoded, or images that do not fit the transform.
    """
    if not networks:
        raise EvaluationError("there is no network to evaluate; give one or more")
    batches = protocol.batches(source, -(-batch_size // mesh.size) * mesh.size)
    totals = _Totals()
    for batch in score_batches(networks, batches, protocol.mirrored, mesh):
        totals.add(batch.sums)
        for observe in observers:
            observe(batch)
    return totals.means()


class _Totals:
    """Sums over batches, on the host: counts in integers, the loss in float64."""

    def __init__(self) -> None:
        self._count = self._top1_wrong = self._top5_wrong = 0
        self._loss = 0.0

    def add(self, sums: ErrorSums) -> None:
        self._count += int(sums.count)
        self._loss += float(sums.loss)
        self._top1_wrong += int(sums.top1_wrong)
        self._top5_wrong += int(sums.top5_wrong)

    def means(self) -> dict[str, float]:
        if not self._count:
            raise EvaluationError("no image of the split can be decoded; mend the data set")
        return {
            "num_examples": self._count,
            "loss": self._loss / self._count,
            "top1_error": self._top1_wrong / self._count,
            "top5_error": self._top5_wrong / self._count,
        }
