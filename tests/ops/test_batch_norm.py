"""Every form of batch normalisation against the formula, in float64: values and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from resnet_jax.ops import gpu, stock

EPSILON = 1e-5
FORMS = {"stock": stock.batch_norm, "gpu": gpu.batch_norm}


def formula(x, scale, bias, relu):
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    y = (x - mean) / jnp.sqrt(var + EPSILON) * scale + bias
    return jnp.where(y > 0, y, 0) if relu else y, mean, var


def draw(narrow, wide):
    """Input and kernel of a 1x1 convolution, scale and bias; cotangents of result and moments."""
    rng = np.random.default_rng(0)
    u, kernel = rng.normal(size=(8, 5, 4, narrow)) + 1, rng.normal(size=(1, 1, narrow, wide))
    primals = (u, kernel, rng.uniform(0.5, 1.5, wide), rng.normal(size=wide))
    return primals, (rng.normal(size=(8, 5, 4, wide)), rng.normal(size=wide), rng.normal(size=wide))


def convolved(u, kernel):
    return jnp.einsum("nhwb,bc->nhwc", u, kernel[0, 0])


def our_losses(form, relu, source, axis_name, u, kernel, scale, bias, cotangents):
    """The loss of the result and that of the moments."""
    x = convolved(u, kernel)
    outputs = FORMS[form](
        x,
        scale,
        bias,
        epsilon=EPSILON,
        dtype=x.dtype,
        axis_name=axis_name,
        relu=relu,
        source=(u, kernel) if source else None,
    )
    y, mean, var = (jnp.sum(a * b) for a, b in zip(outputs, cotangents, strict=True))
    return y, mean + var


def their_loss(relu, parts, u, kernel, scale, bias, cotangents):
    """The same number by the formula, where each of some parts of the batch is a batch."""
    total = 0
    for part, g in zip(jnp.split(u, parts), jnp.split(cotangents[0], parts), strict=True):
        y, mean, var = formula(convolved(part, kernel), scale, bias, relu)
        total += jnp.sum(y * g)
        total += jnp.sum(mean * cotangents[1] + var * cotangents[2]) / parts
    return total


def assert_near(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, 0, 1e-12 * np.abs(other).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("narrow, wide", [(2, 6), (6, 4)])
@pytest.mark.parametrize(
    "relu, source", [(False, False), (False, True), (True, False), (True, True)]
)
def test_results_and_moments_are_the_formulas(form, relu, source, narrow, wide):
    with jax.enable_x64(True):
        (u, kernel, scale, bias), _ = draw(narrow, wide)
        x = convolved(u, kernel)
        options = {"relu": relu, "source": (u, kernel) if source else None}
        run = partial(FORMS[form], epsilon=EPSILON, dtype=np.float64, **options)
        assert_near(jax.jit(run)(x, scale, bias), formula(x, scale, bias, relu))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("narrow, wide", [(2, 6), (6, 4)])
@pytest.mark.parametrize(
    "relu, source", [(False, False), (False, True), (True, False), (True, True)]
)
def test_gradients_are_the_formulas_also_through_the_moments(form, relu, source, narrow, wide):
    with jax.enable_x64(True):
        primals, cotangents = draw(narrow, wide)

        @jax.jit
        @partial(jax.grad, argnums=(0, 1, 2, 3))
        def ours(*args):
            return sum(our_losses(form, relu, source, None, *args))

        theirs = jax.grad(partial(their_loss, relu, 1), (0, 1, 2, 3))
        assert_near(ours(*primals, cotangents), theirs(*primals, cotangents))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("axis_name", [None, "data"])
@pytest.mark.parametrize("relu, source", [(False, True), (True, False)])
def test_gradients_in_shards_are_the_formulas(form, relu, source, axis_name, check_vma):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def in_a_shard(*args):
        def loss(*args):
            of_result, of_moments = our_losses(form, relu, source, axis_name, *args)
            if check_vma:
                return jax.lax.psum(of_result, "data") + jax.lax.pmean(of_moments, "data")
            return of_result + of_moments / 4

        by_u, *others = jax.grad(loss, (0, 1, 2, 3))(*args)
        return by_u, others if check_vma else jax.lax.psum(others, "data")

    ours = jax.shard_map(
        in_a_shard,
        mesh=mesh,
        in_specs=(P("data"), P(), P(), P(), (P("data"), P(), P())),
        out_specs=(P("data"), P()),
        check_vma=check_vma,
    )
    theirs = jax.grad(partial(their_loss, relu, 1 if axis_name else 4), (0, 1, 2, 3))
    with jax.enable_x64(True):
        primals, cotangents = draw(2, 6)
        assert_near(jax.jit(ours)(*primals, cotangents), theirs(*primals, cotangents))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", [False, True])
def test_bfloat16_is_normalised_by_float32_moments(form, source):
    (u, kernel, scale, bias), (cotangent, *_) = draw(2, 6)
    u, kernel = jnp.asarray(u, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)

    def run(u, kernel, scale, bias):
        return FORMS[form](
            convolved(u, kernel),
            *(scale, bias),
            epsilon=EPSILON,
            dtype=jnp.bfloat16,
            source=(u, kernel) if source else None,
        )

    def exact(u, kernel, scale, bias):
        return formula(convolved(u, kernel), scale, bias, False)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradients(function, *args):
        outputs, vjp = jax.vjp(function, *args)
        zero = jnp.zeros_like(outputs[1])
        return outputs, vjp((jnp.asarray(cotangent, outputs[0].dtype), zero, zero))

    ours = value_and_gradients(run, u, kernel, np.float32(scale), np.float32(bias))
    assert [leaf.dtype for leaf in ours[0]] == ["bfloat16", "float32", "float32"]
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, (u, kernel, np.float32(scale), np.float32(bias)))
        theirs = value_and_gradients(exact, *wide)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.float64(one), other, 0, 2e-2 * np.abs(other).max())
