"""Small networks with random, non-trivial batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax.models import BasicBlock, ResNet


def small_model(**options):
    """A ResNet of two stages, which compiles in a moment."""
    fields = {"stage_sizes": (1, 1), "stage_widths": (8, 12), "num_classes": 7}
    return ResNet(**({"block": BasicBlock} | fields | options))


def apply_quickly(model, variables):
    """The logits of normalised images, by a program that takes less time to compile than to run."""
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda images: model.apply(variables, images), compiler_options=options)


def random_variables(model, channels=3, seed=0):
    """Parameters and statistics drawn at random; scales, biases and means matter."""
    rng = np.random.default_rng(seed)
    images = jnp.zeros((1, 32, 32, channels))
    options = {"xla_backend_optimization_level": 0}
    init = jax.jit(lambda key: model.init(key, images), compiler_options=options)
    variables = init(jax.random.key(seed))

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
