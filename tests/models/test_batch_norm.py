"""BatchNorm against torch.nn.BatchNorm2d, and against NumPy where PyTorch is no judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import PartitionSpec as P

from resnet_jax.models import BatchNorm
from resnet_jax.ops import get_kernels

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}

KERNELS = pytest.mark.parametrize("kernels", ["stock", "cpu", "gpu"])


def training(kernels, **options):
    return BatchNorm(use_running_average=False, kernels=get_kernels(kernels), **options)


def random_variables(rng, channels, dtype="float32"):
    def uniform(low, high):
        return rng.uniform(low, high, channels).astype(dtype)

    return {
        "params": {"scale": uniform(0.5, 1.5), "bias": uniform(-1, 1)},
        "batch_stats": {"mean": uniform(-1, 1), "var": uniform(0.5, 2)},
    }


def make_torch(variables, momentum=0.1):
    channels = variables["params"]["scale"].shape[0]
    norm = torch.nn.BatchNorm2d(channels, momentum=momentum)
    state = {
        "weight": variables["params"]["scale"],
        "bias": variables["params"]["bias"],
        "running_mean": variables["batch_stats"]["mean"],
        "running_var": variables["batch_stats"]["var"],
    }
    norm = norm.to(torch.tensor(state["weight"]).dtype)
    norm.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    return norm


def nchw(x):
    return torch.tensor(np.moveaxis(x, -1, 1))


def nhwc(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (2, 1, 1, 3)])
@KERNELS
def test_training_equals_torch(kernels, shape, dtype):
    rng = np.random.default_rng(0)
    variables = random_variables(rng, shape[-1], dtype)
    x = (rng.normal(size=shape) * 2 + rng.normal(size=shape[-1])).astype(dtype)
    cotangent = rng.normal(size=shape).astype(dtype)

    norm = make_torch(variables, momentum=0.3)
    x_torch = nchw(x).requires_grad_()
    y_torch = norm(x_torch)
    y_torch.backward(nchw(cotangent))

    @jax.jit
    def run(variables, x, cotangent):
        def apply(params, x):
            return training(kernels, momentum=0.3).apply(
                {**variables, "params": params}, x, mutable=["batch_stats"]
            )

        y, vjp, updates = jax.vjp(apply, variables["params"], x, has_aux=True)
        return y, updates["batch_stats"], *vjp(cotangent)

    with jax.enable_x64(dtype == "float64"):
        y, stats, grads, grad_x = jax.device_get(run(variables, x, cotangent))
    expected = {
        "y": (y, nhwc(y_torch)),
        "mean": (stats["mean"], norm.running_mean.numpy()),
        "var": (stats["var"], norm.running_var.numpy()),
        "scale": (grads["scale"], norm.weight.grad.numpy()),
        "bias": (grads["bias"], norm.bias.grad.numpy()),
    }
    if shape[0] * shape[1] * shape[2] > 2:  # With two elements the gradient is rounding alone.
        expected["x"] = grad_x, nhwc(x_torch.grad)
    for name, (ours, theirs) in expected.items():
        assert ours.dtype == dtype
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, 0, 4 * TOLERANCE[dtype] * scale, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inference_equals_torch_and_leaves_the_statistics(dtype):
    rng = np.random.default_rng(1)
    variables = random_variables(rng, 5, dtype)
    x = rng.normal(size=(2, 3, 3, 5)).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        y, updates = BatchNorm(use_running_average=True).apply(
            variables, x, mutable=["batch_stats"]
        )
    expected = nhwc(make_torch(variables).eval()(nchw(x)))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, TOLERANCE[dtype], TOLERANCE[dtype])
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("mean", [1e4, -3e5])
@KERNELS
def test_first_step_is_exact_where_the_mean_dwarfs_the_deviation(kernels, mean):
    rng = np.random.default_rng(2)
    x = (mean + rng.normal(size=(8, 6, 7, 3))).astype(np.float32)
    norm = training(kernels, momentum=1.0)
    variables = norm.init(jax.random.key(0), x)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    exact = x.astype(np.float64).reshape(-1, 3)
    expected = (x - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, 1e-5, 1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], exact.var(0, ddof=1), 1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], exact.mean(0), 1e-7)


def test_forward_mode_agrees_with_reverse_mode():
    rng = np.random.default_rng(8)
    variables = random_variables(rng, 3)
    x, x_dot, cotangent = (rng.normal(size=(4, 3, 5, 3)).astype(np.float32) for _ in range(3))

    def apply(params, x):
        norm = BatchNorm(use_running_average=False)
        return norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    primals, tangents = (variables["params"], x), (random_variables(rng, 3)["params"], x_dot)
    _, y_dot = jax.jvp(apply, primals, tangents)
    gradients = jax.vjp(apply, *primals)[1](cotangent)
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradients, tangents)
    np.testing.assert_allclose(jnp.sum(y_dot * cotangent), sum(jax.tree.leaves(products)), 1e-4)


@KERNELS
def test_constant_channel_gives_the_bias(kernels):
    variables = random_variables(np.random.default_rng(3), 2)
    x = np.broadcast_to(np.float32([1e6, 0.1]), (4, 3, 3, 2))
    y, updates = training(kernels, momentum=1.0).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y, np.broadcast_to(variables["params"]["bias"], x.shape), 1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [0, 0], atol=1e-12)


@KERNELS
def test_single_element_a_channel_has_variance_zero_where_torch_raises(kernels):
    variables = random_variables(np.random.default_rng(4), 3)
    x = np.float32([[[[1, 2, 3]]]])
    with pytest.raises(ValueError, match="more than 1 value"):
        make_torch(variables)(nchw(x))
    y, updates = training(kernels).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(y[0, 0, 0], variables["params"]["bias"], 1e-6)
    old = variables["batch_stats"]
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.9 * old["mean"] + 0.1 * x[0, 0, 0])
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 * old["var"], 1e-6)


@KERNELS
def test_bfloat16_is_normalised_in_float32(kernels):
    rng = np.random.default_rng(5)
    variables = random_variables(rng, 4)
    x = jnp.asarray(100 + rng.normal(size=(8, 5, 5, 4)), jnp.bfloat16)
    norm = training(kernels, dtype=jnp.bfloat16)
    y, updates = norm.apply(variables, x, mutable=["batch_stats"])
    exact, exact_updates = training(kernels).apply(
        variables, x.astype(jnp.float32), mutable=["batch_stats"]
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, updates, exact_updates)


@pytest.mark.parametrize("num_axes", [1, 2])
@KERNELS
def test_shared_moments_are_those_of_one_batch(kernels, num_axes):
    rng = np.random.default_rng(6)
    variables = random_variables(rng, 3)
    # Every shard has a mean of its own, far from the others'.
    x = rng.normal(size=(16, 3, 2, 3)) + 50 * rng.normal(size=(8, 1, 1, 3)).repeat(2, axis=0)
    x = x.astype(np.float32)
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    sizes, axes = ((8,), ("data",)) if num_axes == 1 else ((2, 4), ("hosts", "devices"))
    mesh = jax.make_mesh(sizes, axes, axis_types=(jax.sharding.AxisType.Auto,) * num_axes)

    def step(variables, x, cotangent, axis_name):
        norm = training(kernels if axis_name else "stock", axis_name=axis_name)

        def loss(params, x):
            y, updates = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            loss = jnp.sum(y * cotangent)
            if axis_name is not None:
                loss = jax.lax.psum(loss, axis_name)
            return loss, (y, updates["batch_stats"])

        grads, (y, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)
        return y, grads[1], grads[0], stats

    axis_name = axes[0] if num_axes == 1 else axes
    sharded = jax.shard_map(
        lambda *args: step(*args, axis_name),
        mesh=mesh,
        in_specs=(P(), P(axes), P(axes)),
        out_specs=(P(axes), P(axes), P(), P()),
    )
    with jax.enable_x64(True):
        double = jax.tree.map(np.float64, (variables, x, cotangent))
        expected = step(*double, None)
    for ours, exact in zip(
        jax.tree.leaves(jax.jit(sharded)(variables, x, cotangent)),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_allclose(ours, exact, 0, 1e-6 * np.abs(exact).max())


def test_moments_are_the_shards_own_without_an_axis_name():
    rng = np.random.default_rng(7)
    variables = random_variables(rng, 3)
    x = rng.normal(size=(8, 3, 2, 3)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def apply(variables, x):
        norm = BatchNorm(use_running_average=False)
        return norm.apply(variables, x, mutable=["batch_stats"])[0]

    y = jax.jit(jax.shard_map(apply, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data")))
    for ours, image in zip(y(variables, x), x, strict=True):
        np.testing.assert_allclose(ours, apply(variables, image[None])[0], 1e-5, 1e-6)
