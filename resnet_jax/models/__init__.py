"""Residual networks: blocks, networks, batch normalisation and the named models."""

from resnet_jax.errors import ModelError
from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Shortcut
from resnet_jax.models.images import input_channels, usual_image_size
from resnet_jax.models.layers import Conv, MaxPool
from resnet_jax.models.masks import parameter_mask, train_only
from resnet_jax.models.named import MODELS, create_model, list_models, register_model
from resnet_jax.models.resnet import ResNet, Stem
from resnet_jax.models.summary import (
    StageSummary,
    count_multiply_adds,
    count_parameters,
    format_summary,
    summarize,
)
from resnet_jax.ops.stock import max_pool

__all__ = [
    "MODELS",
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "MaxPool",
    "ModelError",
    "ResNet",
    "Shortcut",
    "StageSummary",
    "Stem",
    "count_multiply_adds",
    "count_parameters",
    "create_model",
    "format_summary",
    "input_channels",
    "list_models",
    "max_pool",
    "parameter_mask",
    "register_model",
    "summarize",
    "train_only",
    "usual_image_size",
]
