"""Small networks with random, non-trivial batch statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from resnet_jax.models import BasicBlock, ResNet
from tests.quick import OPTIONS, init


class DeepStem(nn.Module):
    """ResNet-D's: three 3x3 convolutions for the 7x7 one, and the pool."""

    conv: Any
    norm: Any
    features: int

    @nn.compact
    def __call__(self, x):
        for number, (width, stride) in enumerate([(4, 2), (4, 1), (self.features, 1)], start=1):
            x = self.conv(width, 3, stride, name=f"conv{number}")(x)
            x = nn.relu(self.norm(name=f"bn{number}")(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def small_model(**options):
    """A ResNet of two stages, which compiles in a moment."""
    fields = {"stage_sizes": (1, 1), "stage_widths": (8, 12), "num_classes": 7}
    return ResNet(**({"block": BasicBlock} | fields | options))


def apply_quickly(model, variables):
    """The logits of normalised images, by a program that takes less time to compile than to run."""
    return jax.jit(lambda images: model.apply(variables, images), compiler_options=OPTIONS)


def random_variables(model, channels=3, seed=0):
    """Parameters and statistics drawn at random; scales, biases and means matter."""
    rng = np.random.default_rng(seed)
    variables = init(model, jnp.zeros((1, 32, 32, channels)), seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        if name in ("bias", "mean"):
            return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)
        return leaf

    variables = jax.tree_util.tree_map_with_path(draw, variables)
    # Scores that differ from image to image and from class to class.
    variables["params"]["head"]["kernel"] *= 5
    return variables
