"""Data sets as TFDS would prepare them, without TensorFlow: see `prepare`."""

from .prepare import RECIPES as RECIPES
from .prepare import prepare as prepare
