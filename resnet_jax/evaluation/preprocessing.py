"""Which normalisation a weights file goes with.

A .safetensors file of `resnet_jax.save_weights` may hold the mean training image of the recipe that
it was trained by, a tensor `preprocess.mean` of shape [h, w, c] on [0, 1].
"""

import os
from pathlib import Path

import numpy as np
from flax import linen as nn
from jaxtyping import Float32

PIXEL_MEAN = "preprocess.mean"
"""Name of the tensor that holds a mean training image."""


def saved_pixel_mean(path: str | os.PathLike[str]) -> Float32[np.ndarray, "h w c"] | None:
    """Returns the mean training image that a weights file carries, None if it carries none."""
    if Path(path).suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.get_tensor(PIXEL_MEAN) if PIXEL_MEAN in file.keys() else None


def default_preprocess(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Returns the preprocessing that weights of a kind usually go with; a guess, not knowledge.

    `"cifar"` for networks with the "cifar" stem, `"caffe"` for Keras's files, which
    `keras.applications` preprocesses as Caffe did, and `"torchvision"` for the others.
    """
    if getattr(model, "stem", None) == "cifar":
        return "cifar"
    return "caffe" if Path(path).suffix in (".h5", ".npz") else "torchvision"
