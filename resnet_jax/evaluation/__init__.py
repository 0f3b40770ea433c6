"""Exact metrics, the paper's test protocols, recomputed batch statistics, layer responses.

`evaluate_as` evaluates one `Network` (model, variables, normalisation) or an ensemble by a protocol
of `make_protocol`.
"""

from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.analyses.batch_statistics import (
    recompute_batch_statistics,
    training_images,
)
from resnet_jax.evaluation.analyses.responses import (
    format_responses,
    layer_responses,
    plot_responses,
)
from resnet_jax.evaluation.evaluate import evaluate, evaluate_as, make_eval_step
from resnet_jax.evaluation.metrics import ErrorSums, cross_entropy, error_sums
from resnet_jax.evaluation.network import Network
from resnet_jax.evaluation.observers.classes import ClassErrors
from resnet_jax.evaluation.observers.predictions import Predictions
from resnet_jax.evaluation.protocols.named import (
    PROTOCOLS,
    Center,
    MultiScale,
    Protocol,
    TenCrop,
    make_protocol,
    register_protocol,
)
from resnet_jax.evaluation.scoring import ScoredBatch

__all__ = [
    "PROTOCOLS",
    "Center",
    "ClassErrors",
    "ErrorSums",
    "EvaluationError",
    "MultiScale",
    "Network",
    "Predictions",
    "Protocol",
    "ScoredBatch",
    "TenCrop",
    "cross_entropy",
    "error_sums",
    "evaluate",
    "evaluate_as",
    "format_responses",
    "layer_responses",
    "make_eval_step",
    "make_protocol",
    "plot_responses",
    "recompute_batch_statistics",
    "register_protocol",
    "training_images",
]
