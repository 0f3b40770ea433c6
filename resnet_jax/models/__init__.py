"""Residual networks: blocks, networks, batch normalisation and the list of named models."""

from resnet_jax.models.batch_norm import BatchNorm
from resnet_jax.models.blocks import BasicBlock, BottleneckBlock, Shortcut
from resnet_jax.models.errors import ModelError
from resnet_jax.models.layers import Conv, max_pool
from resnet_jax.models.registry import create_model, list_models
from resnet_jax.models.resnet import ResNet

__all__ = [
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "ModelError",
    "ResNet",
    "Shortcut",
    "create_model",
    "list_models",
    "max_pool",
]
