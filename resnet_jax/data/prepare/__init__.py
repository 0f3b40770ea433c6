"""Prepares data sets as TFDS does, without TensorFlow; see `prepare`."""

from resnet_jax.data.prepare.prepare import RECIPES as RECIPES
from resnet_jax.data.prepare.prepare import prepare as prepare
