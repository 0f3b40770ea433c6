"""Exact evaluation: each image of a split counts once, for any batch size and device count."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from resnet_jax.data import EvalBatch, Normalization, Source
from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.metrics import ErrorSums, error_sums
from resnet_jax.evaluation.network import Network
from resnet_jax.evaluation.protocols.named import Protocol
from resnet_jax.evaluation.scoring import ScoredBatch, score_batches
from resnet_jax.runtime.devices import compiler_options, replicated, shard_batch

EvalStep = Callable[[Any, Normalization, dict[str, jax.Array]], ErrorSums]


def make_eval_step(model: nn.Module, mesh: Mesh) -> EvalStep:
    """Returns a compiled `(variables, normalization, batch) -> ErrorSums` over all devices.

    Args:
      model: the network; it normalises with its running statistics.
      mesh: the devices; the batch is split over them, the sums are replicated.
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
      eval_step: the result of `make_eval_step`.
      variables: `{"params", "batch_stats"}`, replicated.
      normalization: the images' normalisation.
      batches: this host's batches of one shape, with a `mask` that is False for padding. Errors and
        images are counted in integers; the loss is summed in float64.
      mesh: the devices.

    Raises:
      EvaluationError: there are no images.
    """
    return totalled(eval_step(variables, normalization, shard_batch(b, mesh)) for b in batches)


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
      protocol: selects the views of an image to score.
      networks: one, or several whose softmax scores are averaged.
      source: the split.
      mesh: the devices, all of this process.
      batch_size: images per batch; rounded up to a multiple of the device count.
      observers: called with each batch's scores, such as `ClassErrors` and `Predictions`.

    Returns:
      `num_examples`, `loss` (nats, of the averaged scores), `top1_error`, `top5_error` (fractions).

    Raises:
      EvaluationError: there are no networks or no images.
      DataError: an image cannot be decoded, or images do not fit the transform.
    """
    if not networks:
        raise EvaluationError("there is no network to evaluate; give at least one")
    batches = protocol.batches(source, -(-batch_size // mesh.size) * mesh.size)

    def scored() -> Iterator[ErrorSums]:
        for batch in score_batches(networks, batches, protocol.mirrored, mesh):
            for observe in observers:
                observe(batch)
            yield batch.sums

    return totalled(scored())


def totalled(batches: Iterable[ErrorSums]) -> dict[str, float]:
    """Returns the mean loss and the errors over all batches.

    Counts are summed in integers, the loss in float64. Sums are read two batches late, which keeps
    the devices busy without piling up batches in their memory.

    Args:
      batches: sums per batch, on the devices.

    Raises:
      EvaluationError: there are no images.
    """
    count = top1_wrong = top5_wrong = 0
    loss = 0.0
    for sums in _two_late(batches):
        count += int(sums.count)
        loss += float(sums.loss)
        top1_wrong += int(sums.top1_wrong)
        top5_wrong += int(sums.top5_wrong)
    if not count:
        raise EvaluationError("no image of the split can be decoded; repair the data set")
    return {
        "num_examples": count,
        "loss": loss / count,
        "top1_error": top1_wrong / count,
        "top5_error": top5_wrong / count,
    }


def _two_late(batches: Iterable[ErrorSums]) -> Iterator[ErrorSums]:
    pending: deque[ErrorSums] = deque()
    for sums in batches:
        pending.append(sums)
        if len(pending) > 2:
            yield pending.popleft()
    yield from pending
