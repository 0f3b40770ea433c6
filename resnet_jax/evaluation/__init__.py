"""Exact metrics, the paper's test protocols, recomputed batch statistics, layer responses.

A `Network` (model, variables, normalisation) or several are evaluated by `evaluate_as` with one of
the protocols that `make_protocol` returns.
"""

from .errors import EvaluationError
from .evaluate import evaluate, evaluate_as, make_eval_step
from .metrics import ErrorSums, cross_entropy, error_sums
from .network import Network
from .protocols import PROTOCOLS, Center, MultiScale, Protocol, TenCrop, make_protocol

__all__ = [
    "PROTOCOLS",
    "Center",
    "ErrorSums",
    "EvaluationError",
    "MultiScale",
    "Network",
    "Protocol",
    "TenCrop",
    "cross_entropy",
    "error_sums",
    "evaluate",
    "evaluate_as",
    "make_eval_step",
    "make_protocol",
]
