"""Exact metrics and the paper's test protocols."""

from .evaluate import evaluate, make_eval_step
from .metrics import ErrorSums, cross_entropy, error_sums

__all__ = ["ErrorSums", "cross_entropy", "error_sums", "evaluate", "make_eval_step"]
