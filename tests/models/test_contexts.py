"""One network in every context that JAX has, against the same network of stock Flax layers.

Values, gradients by parameters and images, and running statistics, in float64.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from resnet_jax.models import BottleneckBlock, ResNet
from tests.models.flax_twin import Twin

BATCH, HEIGHT, WIDTH, CLASSES = 8, 17, 20, 5
FIELDS = {"stage_sizes": (1, 1), "stage_widths": (4, 8), "num_classes": CLASSES}


def twin(shortcut="B"):
    return Twin(CLASSES, shortcut)


def network(**options):
    return ResNet(block=BottleneckBlock, **FIELDS, **options)


@pytest.fixture(autouse=True)
def float64():
    """And programs that compile fast, as each runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield


@functools.cache
def data(shortcut="B"):
    """Variables, images and cotangents, random."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, HEIGHT, WIDTH, 3))
    shapes = jax.eval_shape(network(shortcut=shortcut).init, jax.random.key(0), images)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("var", "scale"):
            return rng.uniform(0.5, 2, leaf.shape)
        return rng.normal(size=leaf.shape) * (0.5 if len(leaf.shape) > 1 else 0.3)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return variables, images, rng.normal(size=(BATCH, CLASSES))


def everything(model, variables, images, cotangent):
    """Logits, running statistics, gradients, and the logits of evaluation."""

    def loss(params, images):
        logits, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits * cotangent), (logits, updates["batch_stats"])

    grads, (logits, batch_stats) = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], images)
    return {
        "logits": logits,
        "batch_stats": batch_stats,
        "params": grads[0],
        "images": grads[1],
        "evaluation": model.apply(variables, images, train=False),
    }


@functools.cache
def expected(shortcut="B"):
    run = jax.jit(functools.partial(everything, twin(shortcut)))
    return jax.device_get(run(*data(shortcut)))


def assert_near(ours, theirs, tolerance=1e-9):
    ours, theirs = jax.device_get((ours, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        error = np.abs(np.float64(one) - other).max() / np.abs(other).max()
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"


@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_jit(shortcut, kernels):
    model = network(shortcut=shortcut, kernels=kernels)
    run = jax.jit(functools.partial(everything, model))
    assert_near(run(*data(shortcut)), expected(shortcut))


def test_without_jit():
    assert_near(everything(network(), *data()), expected())


def test_disabled_jit():
    with jax.disable_jit():
        assert_near(everything(network(), *data()), expected())


@pytest.mark.parametrize("compiled", [False, True])
def test_debug_nans_names_an_operation(compiled):
    variables, images, cotangent = data()
    images = np.where(np.arange(images.size).reshape(images.shape) == 7, np.inf, images)
    run = functools.partial(everything, network())
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="encountered in [a-z]"):
        jax.block_until_ready((jax.jit(run) if compiled else run)(variables, images, cotangent))


def test_rank_promotion_is_not_needed():
    with jax.numpy_rank_promotion("raise"):
        assert_near(jax.jit(functools.partial(everything, network()))(*data()), expected())


def mesh_of(axis_type=AxisType.Auto):
    return jax.make_mesh((4,), ("data",), axis_types=(axis_type,))


def placed(mesh):
    variables, images, cotangent = data()
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    return jax.device_put(variables, whole), *jax.device_put((images, cotangent), split)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
def test_gradients_inside_of_shard_map(kernels, check_vma, axis_type):
    model = network(norm_axis_name="data", kernels=kernels)

    def step(variables, images, cotangent):
        def loss(params, images):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            loss = jnp.sum(logits * cotangent)
            # With checked types a shared parameter's gradient is that of the sum over devices.
            loss = jax.lax.psum(loss, "data") if check_vma else loss
            return loss, (logits, updates["batch_stats"])

        grads, aux = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], images)
        params = grads[0] if check_vma else jax.lax.psum(grads[0], "data")
        evaluation = model.apply(variables, images, train=False)
        return dict(
            zip(
                ("logits", "batch_stats", "params", "images", "evaluation"),
                (*aux, params, grads[1], evaluation),
                strict=True,
            )
        )

    out = {name: P("data") for name in ("logits", "images", "evaluation")}
    out |= {"batch_stats": P(), "params": P()}
    mesh = mesh_of(axis_type)
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=out, check_vma=check_vma
    )
    assert_near(jax.jit(sharded)(*placed(mesh)), expected())


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
def test_gradients_outside_of_shard_map(kernels, check_vma):
    model = network(norm_axis_name="data", kernels=kernels)
    variables, images, cotangent = data()

    def forward(params, images):
        logits, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return logits, updates["batch_stats"]

    forward = jax.shard_map(
        forward,
        mesh=mesh_of(),
        in_specs=(P(), P("data")),
        out_specs=(P("data"), P()),
        check_vma=check_vma,
    )

    def loss(params, images):
        logits, batch_stats = forward(params, images)
        return jnp.sum(logits * cotangent), (logits, batch_stats)

    grads, aux = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], images)
    found = dict(zip(("logits", "batch_stats"), aux, strict=True))
    found |= {"params": grads[0], "images": grads[1]}
    assert_near(found, {name: expected()[name] for name in found})


@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
def test_default_shard_map_has_right_gradients_without_shared_statistics(kernels):
    """Each device normalises by its own statistics; parameters are shared."""
    variables, images, cotangent = data()

    def loss(model, params, images, cotangent):
        logits, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(logits * cotangent)

    def summed(*args):
        return jax.lax.psum(loss(network(kernels=kernels), *args), "data")

    ours = jax.shard_map(
        jax.grad(summed), mesh=mesh_of(), in_specs=(P(), P("data"), P("data")), out_specs=P()
    )
    theirs = [
        jax.jit(jax.grad(functools.partial(loss, twin())))(variables["params"], *part)
        for part in zip(np.split(images, 4), np.split(cotangent, 4), strict=True)
    ]
    total = jax.tree.map(lambda *leaves: sum(leaves), *theirs)
    assert_near(jax.jit(ours)(variables["params"], images, cotangent), total)


def test_pmap():
    variables, images, cotangent = data()
    model = network(norm_axis_name="data")

    def forward(params, images):
        return model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )

    def loss(params, images, cotangent):
        logits, updates = forward(params, images)
        return jnp.sum(logits * cotangent), (logits, updates["batch_stats"])

    def step(params, images, cotangent):
        grads, aux = jax.grad(loss, (0, 1), has_aux=True)(params, images, cotangent)
        return jax.lax.psum(grads[0], "data"), grads[1], *aux

    split = (a.reshape(4, -1, *a.shape[1:]) for a in (images, cotangent))
    params, by_images, logits, stats = jax.pmap(step, "data", in_axes=(None, 0, 0))(
        variables["params"], *split
    )
    found = {
        "params": jax.tree.map(lambda a: a[0], params),
        "batch_stats": jax.tree.map(lambda a: a[0], stats),
        "images": by_images.reshape(images.shape),
        "logits": logits.reshape(cotangent.shape),
    }
    assert_near(found, {name: expected()[name] for name in found})


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_jit(axis_type):
    run = jax.jit(functools.partial(everything, network()))
    assert_near(run(*placed(mesh_of(axis_type))), expected())


@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
def test_vmap_of_everything(kernels):
    variables, images, cotangent = data()
    run = functools.partial(everything, network(kernels=kernels))
    twice = jax.tree.map(lambda a: np.stack([a, a[::-1]]), (variables, images, cotangent))
    first = jax.tree.map(lambda a: a[0], jax.jit(jax.vmap(run))(*twice))
    assert_near(first, expected())


POLICIES = [
    *("everything_saveable", "nothing_saveable", "dots_saveable"),
    *("checkpoint_dots", "dots_with_no_batch_dims_saveable", "checkpoint_dots_with_no_batch_dims"),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_checkpoint_policies(policy):
    assert all(name in dir(jax.checkpoint_policies) for name in POLICIES)
    variables, images, cotangent = data()
    model = network()

    @functools.partial(jax.checkpoint, policy=getattr(jax.checkpoint_policies, policy))
    def forward(params, images):
        return model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )

    def loss(params, images):
        return jnp.sum(forward(params, images)[0] * cotangent)

    grads = jax.jit(jax.grad(loss, (0, 1)))(variables["params"], images)
    assert_near(grads, (expected()["params"], expected()["images"]))


def test_a_checkpoint_policy_sees_convolutions_by_their_name():
    """As tools do that read jaxprs."""
    model = network()
    variables, images, _ = data()

    def residuals(policy):
        def loss(params):
            apply = jax.checkpoint(
                lambda params: model.apply({**variables, "params": params}, images), policy=policy
            )
            return jnp.sum(apply(params))

        _, vjp = jax.vjp(loss, variables["params"])
        return sum(leaf.size for leaf in jax.tree.leaves(vjp))

    def convolutions(primitive, *_, **__):
        return primitive.name == "conv_general_dilated"

    assert residuals(convolutions) > residuals(jax.checkpoint_policies.nothing_saveable)


def test_forward_mode_linearize_and_hessian_vector_products():
    variables, images, cotangent = data()
    rng = np.random.default_rng(1)
    tangent = jax.tree.map(lambda a: rng.normal(size=a.shape), variables["params"])

    def derivatives(model):
        def loss(params):
            logits, _ = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(logits) * cotangent)

        params = variables["params"]
        _, linear = jax.linearize(loss, params)
        return (
            jax.jvp(loss, (params,), (tangent,)),
            linear(tangent),
            jax.jvp(jax.grad(loss), (params,), (tangent,))[1],
            jax.grad(lambda params: jax.jvp(loss, (params,), (tangent,))[1])(params),
        )

    run = jax.jit(derivatives, static_argnums=0)
    assert_near(run(network()), run(twin()), 1e-7)


@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
def test_gradients_through_the_running_statistics(kernels):
    """As MAML has them, whose outer loss is of a network with the inner step's statistics."""
    variables, images, _ = data()

    def loss(model, params):
        _, updates = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        logits = model.apply({"params": params, **updates}, images, train=False)
        return jnp.sum(jnp.sin(logits))

    grads = [
        jax.jit(jax.grad(functools.partial(loss, model)))(variables["params"])
        for model in (network(kernels=kernels), twin())
    ]
    assert_near(*grads)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_export_with_symbolic_batch_height_and_width(shortcut):
    variables, images, _ = data(shortcut)
    model = network(shortcut=shortcut)
    shape = jax.export.symbolic_shape("n, h, w, 3", constraints=["h >= 8", "w >= 8"])
    apply = jax.jit(lambda images: model.apply(variables, images))
    exported = jax.export.export(apply)(jax.ShapeDtypeStruct(shape, jnp.float64))
    for part in (images, images[:3, 3:, :15]):
        assert_near(exported.call(part), twin(shortcut).apply(variables, part, train=False))


@pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])
@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision(dtype, tolerance, kernels):
    model = network(dtype=dtype, kernels=kernels)
    run = jax.jit(functools.partial(everything, model))
    arguments = jax.tree.map(np.float32, data())
    with jax.enable_x64(False):
        found = run(*arguments)
        assert found["logits"].dtype == jnp.float32
        assert {leaf.dtype for leaf in jax.tree.leaves(found["params"])} == {jnp.dtype("float32")}
    names = ("logits", "batch_stats", "evaluation")
    assert_near({k: found[k] for k in names}, {k: expected()[k] for k in names}, tolerance)
    # An activation may end on the other side of zero, so whole gradients are compared.
    ours, theirs = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree["params"])])
        for tree in (jax.device_get(found), expected())
    )
    assert np.linalg.norm(ours - theirs) < 2 * tolerance * np.linalg.norm(theirs)


def test_eval_shape():
    shapes = jax.eval_shape(functools.partial(everything, network()), *data())
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, expected())


# Flax 0.12.0 calls what JAX 0.8.0 deprecates.
@pytest.mark.filterwarnings("ignore:jax.*is deprecated; use jax.:DeprecationWarning")
def test_nnx_bridge():
    from flax import nnx

    variables, images, cotangent = data()
    model = nnx.bridge.lazy_init(nnx.bridge.ToNNX(network(), rngs=nnx.Rngs(0)), images, train=False)
    for name, value in nnx.bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(model, name, value)

    @nnx.jit
    @functools.partial(nnx.grad, has_aux=True)
    def gradients(model):
        logits = model(images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits * cotangent), logits

    grads, logits = gradients(model)
    # The call moved the running statistics in the model.
    batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    found = {"params": nnx.to_pure_dict(grads), "batch_stats": batch_stats, "logits": logits}
    assert_near(found, {name: expected()[name] for name in found})


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_collective_that_flax_layers_do_not_have(platform):
    def collectives(model):
        def loss(variables, images):
            return jnp.sum(model.apply(variables, images, train=True, mutable=["batch_stats"])[0])

        def step(variables, images):
            return jax.lax.psum(jax.grad(loss)(variables, images), "data")

        for check_vma in (True, False):
            sharded = jax.shard_map(
                step,
                mesh=mesh_of(),
                in_specs=(P(), P("data")),
                out_specs=P(),
                check_vma=check_vma,
            )
            exported = jax.export.export(jax.jit(sharded), platforms=[platform])(*data()[:2])
            yield len(re.findall(r"stablehlo\.all_reduce", exported.mlir_module()))

    assert list(collectives(network())) == list(collectives(twin()))
