"""Networks against their PyTorch twins: logits, features, gradients and running statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from resnet_jax.models import BasicBlock, BottleneckBlock, Conv, ResNet, create_model
from tests import torch_twins
from tests.quick import apply, init

# Relative to the largest entry of each array.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
NUM_CLASSES = 10


def assert_near(ours, theirs, tolerance, what=""):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        error = np.abs(one - other).max() / np.abs(other).max()
        assert error < tolerance, f"{what}{jax.tree_util.keystr(path)}: {error:.1e}"


def assert_equal_to_twin(model, twin, image_size, batch_size, dtype):
    """Compares everything that a step of training and an evaluation compute."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *image_size, 3)).astype(dtype)
    cotangent = rng.normal(size=(batch_size, NUM_CLASSES)).astype(dtype)
    images_torch = torch.tensor(images).permute(0, 3, 1, 2)
    torch_twins.randomise(twin, seed=1).to(images_torch.dtype)
    torch_twins.keep_off_kinks(twin, images_torch)
    variables = torch_twins.to_variables(twin)
    theirs = {"logits": twin.eval()(images_torch).detach().numpy()}
    logits = twin.train()(images_torch)
    logits.backward(torch.tensor(cotangent))
    theirs |= {
        "train_logits": logits.detach().numpy(),
        "batch_stats": torch_twins.to_tree(twin.named_buffers()),
        "grads": torch_twins.to_tree((name, p.grad) for name, p in twin.named_parameters()),
    }

    @jax.jit
    def run(variables, images, cotangent):
        def apply(params):
            return model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )

        logits, vjp, updates = jax.vjp(apply, variables["params"], has_aux=True)
        return {
            "logits": model.apply(variables, images, train=False),
            "train_logits": logits,
            "batch_stats": updates["batch_stats"],
            "grads": vjp(cotangent)[0],
        }

    with jax.enable_x64(dtype == "float64"):
        ours = jax.device_get(run(variables, images, cotangent))
    assert ours["logits"].dtype == dtype
    for what in theirs:
        assert_near(ours[what], theirs[what], TOLERANCE[dtype], what)


@pytest.mark.parametrize(
    "name, image_size, batch_size, dtype",
    [
        ("resnet20_cifar", (32, 32), 4, "float32"),
        ("resnet20_cifar", (15, 18), 4, "float64"),
        ("resnet18", (64, 49), 4, "float32"),
    ],
)
def test_named_network_equals_its_twin(name, image_size, batch_size, dtype):
    """As one program; test_family.py has all ImageNet networks in both types, block by block.

    test_sgd_equivalence.py has two of them as one program with gradients.
    """
    model = create_model(name, NUM_CLASSES)
    twin = torch_twins.make_twin(name, NUM_CLASSES)
    assert_equal_to_twin(model, twin, image_size, batch_size, dtype)


SMALL = {"stage_sizes": (1, 2), "stage_widths": (8, 16), "stem": "cifar"}


@pytest.mark.parametrize(
    "block, options",
    [
        ("basic", {"shortcut": "A"}),
        ("basic", {"shortcut": "B"}),
        ("basic", {"shortcut": "C"}),
        ("basic", {"residual": False}),
        ("bottleneck", {"shortcut": "A"}),
        ("bottleneck", {"shortcut": "C", "stem": "imagenet"}),
        ("bottleneck", {"residual": False, "groups": 4, "width_per_group": 16}),
        ("bottleneck", {"stride_on_first": True, "width_per_group": 128}),
        (
            "bottleneck",
            {
                "replace_stride_with_dilation": (True, False, True),
                "stage_sizes": (1, 2, 1, 2),
                "stage_widths": (8, 8, 8, 8),
            },
        ),
    ],
    ids=str,
)
def test_options_equal_the_twins(block, options):
    fields = {**SMALL, **options}
    ours, theirs = {
        "basic": (BasicBlock, torch_twins.BasicBlock),
        "bottleneck": (BottleneckBlock, torch_twins.Bottleneck),
    }[block]
    model = ResNet(block=ours, num_classes=NUM_CLASSES, **fields)
    sizes, widths = fields.pop("stage_sizes"), fields.pop("stage_widths")
    twin = torch_twins.ResNet(theirs, sizes, NUM_CLASSES, widths=widths, **fields)
    assert_equal_to_twin(model, twin, (13, 10), 3, "float64")


def test_features_are_the_twins_maps_in_order():
    twin = torch_twins.randomise(torch_twins.make_twin("resnet18", NUM_CLASSES), seed=2).eval()
    images = np.random.default_rng(2).normal(size=(2, 33, 40, 3)).astype(np.float32)
    theirs = {
        name: value.detach().permute(0, 2, 3, 1).numpy()
        for name, value in twin.features(torch.tensor(images).permute(0, 3, 1, 2)).items()
    }
    model = create_model("resnet18", NUM_CLASSES)
    # Under jit as well, which sorts the keys of a plain dictionary.
    apply = jax.jit(lambda *args: model.apply(*args, train=False, method="features"))
    ours = apply(torch_twins.to_variables(twin), images)
    assert list(ours) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert_near(dict(ours), theirs, 1e-5)


def small_model(**options):
    return ResNet(**{**SMALL, "block": BasicBlock, "num_classes": NUM_CLASSES, **options})


def in_float64(variables):
    """For gradients that two programs compute: at a kink they may differ much in float32."""
    return jax.tree.map(np.float64, variables)


def test_init_has_the_documented_layout_and_scale():
    variables = init(create_model("resnet18", 100), jnp.ones((1, 32, 32, 1)))
    assert set(variables) == {"params", "batch_stats"}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    params = variables["params"]
    assert set(params["stage2"]["block1"]["shortcut"]) == {"conv", "bn"}
    assert params["stem"]["conv"]["kernel"].shape == (7, 7, 1, 64)
    assert set(params["stage1"]["block1"]) == {"conv1", "bn1", "conv2", "bn2"}
    kernel = params["stage4"]["block2"]["conv2"]["kernel"]
    np.testing.assert_allclose(jnp.std(kernel), np.sqrt(2 / (9 * 512)), 0.01)
    for name, leaf in params["head"].items():  # torch.nn.Linear's.
        bound = 1 / np.sqrt(512)
        assert jnp.abs(leaf).max() <= bound, name
        np.testing.assert_allclose(jnp.std(leaf), bound / np.sqrt(3), 0.2, err_msg=name)
        assert jnp.abs(jnp.mean(leaf)) < 0.2 * bound, name


def test_zero_init_residual_makes_every_block_its_shortcut():
    model = small_model(zero_init_residual=True)
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = init(model, images)
    maps = jax.jit(lambda *args: model.apply(*args, method="features"))(variables, images)
    block = variables["params"]["stage2"]["block1"]
    assert not np.any(block["bn2"]["scale"])
    assert np.all(block["bn1"]["scale"] == 1)
    assert np.all(block["shortcut"]["bn"]["scale"] == 1)
    np.testing.assert_array_equal(maps["stage1"], maps["stem"])


def test_frozen_batch_norm_keeps_its_statistics_while_training():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    model = small_model(freeze_batch_norm=True)
    variables = torch_twins.to_variables(
        torch_twins.randomise(
            torch_twins.ResNet(
                torch_twins.BasicBlock, (1, 2), NUM_CLASSES, widths=(8, 16), stem="cifar"
            ),
            seed=3,
        )
    )
    logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, small_model().apply(variables, images, train=False))
    jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


def test_bfloat16_computes_maps_in_bfloat16_and_logits_in_float32():
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    variables = init(small_model(), images)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    for dtype in ("bfloat16", jnp.bfloat16):
        model = small_model(dtype=dtype)
        maps = jax.eval_shape(lambda m=model: m.apply(variables, images, method="features"))
        assert {leaf.dtype for leaf in jax.tree.leaves(maps)} == {jnp.dtype("bfloat16")}
        logits = apply(model, variables, images)
        assert logits.dtype == jnp.float32
        exact = apply(small_model(), variables, images)
        np.testing.assert_allclose(logits, exact, 0, 0.03 * np.abs(exact).max())


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_sharded_batch_is_one_batch_under_jit(axis_type, stem):
    """Also on a mesh that makes the sharding a part of the arrays' types, `make_mesh`'s default."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    images = np.random.default_rng(6).normal(size=(8, 17, 16, 3))
    model = small_model(stem=stem)
    variables = in_float64(init(model, images.astype(np.float32)))

    def gradients(variables, images):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.square(logits)), updates

        return jax.grad(loss, has_aux=True)(variables["params"])

    with jax.enable_x64(True):
        sharded = jax.device_put(images, NamedSharding(mesh, P("data")))
        replicated = jax.device_put(variables, NamedSharding(mesh, P()))
        in_type = jax.typeof(sharded).sharding.spec[0] == "data"
        assert in_type == (axis_type is AxisType.Explicit)
        ours, expected = (
            jax.device_get((jax.jit(gradients)(*args), model.apply(*args, train=False)))
            for args in ((replicated, sharded), (variables, images))
        )
    assert_near(ours, expected, 1e-9)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("norm_axis_name", [None, "data"])
def test_shards_train_as_one_batch_if_they_share_their_statistics(norm_axis_name, axis_type):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    rng = np.random.default_rng(4)
    images = rng.normal(size=(8, 8, 8, 3)).astype(np.float32)
    variables = init(small_model(), images)
    model = small_model(norm_axis_name=norm_axis_name)

    def step(variables, images):
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return logits, jax.lax.pmean(updates, "data")

    images = jax.device_put(images, NamedSharding(mesh, P("data")))
    step = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("data")), out_specs=(P("data"), P()))
    logits, updates = jax.jit(step)(variables, images)
    parts = [jax.device_get(images)]
    parts = parts if norm_axis_name else np.split(parts[0], 4)
    expected = [
        small_model().apply(variables, part, train=True, mutable=["batch_stats"]) for part in parts
    ]
    np.testing.assert_allclose(logits, np.concatenate([one for one, _ in expected]), 1e-4, 1e-4)
    stats = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *(two for _, two in expected))
    assert_near(jax.device_get(updates), jax.device_get(stats), 1e-5)


def test_remat_gives_the_same_gradients():
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 3))
    models = [small_model(remat=remat) for remat in (False, True)]
    variables = in_float64(init(models[0], images.astype(np.float32)))

    def gradients(model):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.square(logits)), updates

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    with jax.enable_x64(True):
        kept, recomputed = map(jax.device_get, map(gradients, models))
    assert_near(recomputed, kept, 1e-9)


@pytest.mark.parametrize("block", [BasicBlock, BottleneckBlock])
def test_a_block_takes_any_normalisation(block):
    """As a user's own network may have it; checked against the block's formula."""
    norm = partial(nn.GroupNorm, num_groups=2)
    module = block(conv=Conv, norm=norm, last_norm=norm, shortcut=None, width=4, stride=1)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    variables = module.init(jax.random.key(0), x)
    params, y = variables["params"], x
    count = len([name for name in params if name.startswith("conv")])
    for index in range(1, count + 1):
        kernel = params[f"conv{index}"]["kernel"]
        y = jax.lax.conv(
            y.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "SAME"
        ).transpose(0, 2, 3, 1)
        y = jnp.maximum(norm().apply({"params": params[f"bn{index}"]}, y), 0)
    np.testing.assert_allclose(module.apply(variables, x), y, 1e-5, 1e-5)
