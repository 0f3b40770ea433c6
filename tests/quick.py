"""What a test runs once: compiled without optimisation, in a fifth of the time."""

import jax

OPTIONS = {"xla_backend_optimization_level": 0}


def init(model, images, seed=0):
    """The variables of `model.init`."""
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    return jax.jit(model.init, compiler_options=OPTIONS)(key, images)


def apply(model, *args, **kwargs):
    """What `model.apply` returns."""
    call = jax.jit(lambda *args: model.apply(*args, **kwargs), compiler_options=OPTIONS)
    return call(*args)
