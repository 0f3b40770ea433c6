"""Residual networks: blocks, networks, batch normalisation and the list of named models."""

from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Shortcut
from resnet_jax.models.errors import ModelError
from resnet_jax.models.layers import Conv
from resnet_jax.models.masks import parameter_mask, train_only
from resnet_jax.models.registry import create_model, list_models
from resnet_jax.models.resnet import ResNet
from resnet_jax.models.summary import (
    StageSummary,
    count_multiply_adds,
    count_parameters,
    format_summary,
    summarize,
)
from resnet_jax.ops.stock import max_pool

__all__ = [
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "ModelError",
    "ResNet",
    "Shortcut",
    "StageSummary",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "format_summary",
    "list_models",
    "max_pool",
    "parameter_mask",
    "summarize",
    "train_only",
]
