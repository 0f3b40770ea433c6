"""Exact metrics, the paper's test protocols, recomputed batch statistics, layer responses.

A `Network` (model, variables, normalisation) or several are evaluated by `evaluate_as` with one of
the protocols that `make_protocol` returns.
"""

from .batch_statistics import recompute_batch_statistics, training_images
from .classes import ClassErrors
from .errors import EvaluationError
from .evaluate import evaluate, evaluate_as, make_eval_step
from .metrics import ErrorSums, cross_entropy, error_sums
from .network import Network
from .predictions import Predictions
from .protocols import PROTOCOLS, Center, MultiScale, Protocol, TenCrop, make_protocol
from .responses import format_responses, layer_responses, plot_responses
from .scoring import ScoredBatch

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
    "training_images",
]
