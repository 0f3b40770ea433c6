"""The pyramid, the RPN and the heads against PyTorch's layers with the same random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnet_jax.detection.model import (
    DenseHead,
    FeaturePyramid,
    Predictor,
    RPNHead,
    StageHead,
    propose,
    with_context,
)
from resnet_jax.models import BasicBlock, BatchNorm, BottleneckBlock
from tests import quick, torch_twins
from tests.detection.model.references import greedy_proposals, layer, nchw

NORM = BatchNorm


def randomised(module, images, seed=0):
    """Variables with random values everywhere, in float64."""
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 1) ** 0.5
        return values**2 + 0.5 if path[-1].key in ("var", "scale") else values

    return jax.tree_util.tree_map_with_path(fill, variables)


def apply(module, variables, *args):
    with jax.enable_x64(True):
        return jax.device_get(quick.apply(module, variables, *args))


@pytest.mark.parametrize("norm", [None, NORM], ids=["biases", "normalised"])
@pytest.mark.parametrize("sizes", [[(16, 8), (8, 4), (4, 2)], [(13, 7), (7, 4), (4, 2)]], ids=str)
def test_the_pyramid_is_torchvisions(norm, sizes):
    """Also of an odd size, for which the interpolation to a size is the doubled map, cut."""
    rng = np.random.default_rng(1)
    maps = [rng.normal(size=(2, *size, 3 + i)) for i, size in enumerate(sizes)]
    pyramid = FeaturePyramid(8, norm)
    variables = randomised(pyramid, [jnp.float32(one) for one in maps])
    above, expected = None, []
    for index in (3, 2, 1):
        lateral = layer(nchw(maps[index - 1]), variables, f"lateral{index}")
        if above is not None:
            lateral = lateral + F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
        above = lateral
        expected.insert(0, layer(above, variables, f"output{index}"))
    expected.append(F.max_pool2d(expected[-1], 1, 2, 0))
    ours = apply(pyramid, variables, maps)
    assert len(ours) == 4
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, np.moveaxis(other.numpy(), 1, -1), 1e-10, 1e-12)


@pytest.mark.parametrize("num_convs", [1, 2])
def test_the_rpns_head_is_torchvisions(num_convs):
    x = np.random.default_rng(2).normal(size=(2, 5, 4, 6))
    head = RPNHead(3, num_convs)
    variables = randomised(head, jnp.float32(x))
    y = nchw(x)
    for index in range(1, num_convs + 1):
        y = layer(y, variables, f"conv{index}", relu=True)
    # As torchvision flattens them: by row, column and anchor.
    logits = layer(y, variables, "logits").permute(0, 2, 3, 1).reshape(2, -1)
    deltas = layer(y, variables, "deltas").reshape(2, 3, 4, 5, 4).permute(0, 3, 4, 1, 2)
    ours = apply(head, variables, x)
    np.testing.assert_allclose(ours[0], logits, 1e-10, 1e-12)
    np.testing.assert_allclose(ours[1], deltas.reshape(2, -1, 4), 1e-10, 1e-12)


def test_initial_predictions_are_small():
    variables = quick.init(RPNHead(3, channels=64), jnp.ones((1, 2, 2, 64)))["params"]
    for name, values in variables.items():
        np.testing.assert_allclose(jnp.std(values["conv"]["kernel"]), 0.01, 0.3, err_msg=name)
        assert not np.any(values["conv"]["bias"])


@pytest.mark.parametrize("num_convs, num_dense", [(0, 2), (4, 1)])
def test_dense_heads_are_torchvisions(num_convs, num_dense):
    regions = np.random.default_rng(3).normal(size=(5, 3, 3, 4))
    head = DenseHead(num_convs, num_dense, 6, NORM)
    variables = randomised(head, jnp.float32(regions))
    y = nchw(regions)
    for index in range(1, num_convs + 1):
        y = layer(y, variables, f"conv{index}", relu=True)
    for index in range(1, num_dense + 1):
        params = variables["params"][f"dense{index}"]
        kernel = params["kernel"]
        if index == 1:  # PyTorch's input is by channel, row and column.
            kernel = kernel.reshape(3, 3, 4, 6).transpose(2, 0, 1, 3).reshape(36, 6)
        y = F.relu(F.linear(y.flatten(1), torch.tensor(kernel.T), torch.tensor(params["bias"])))
    np.testing.assert_allclose(apply(head, variables, regions), y, 1e-10, 1e-12)


@pytest.mark.parametrize(
    "name, block, size, width, options",
    [
        ("resnet18", BasicBlock, 2, 512, ()),
        ("resnet50_v1", BottleneckBlock, 3, 512, (("stride_on_first", True),)),
    ],
)
def test_the_last_stage_of_each_region(name, block, size, width, options):
    twin = torch_twins.randomise(torch_twins.make_twin(name, 2), seed=1).double().eval()
    stage = twin.layer4
    channels = next(stage.parameters()).shape[1]
    regions = np.random.default_rng(4).normal(size=(3, 6, 6, channels))
    with torch.no_grad():
        expected = stage(nchw(regions)).mean((2, 3))
    variables = torch_twins.to_variables(twin)
    ours = {part: {"stage4": variables[part]["stage4"]} for part in ("params", "batch_stats")}
    head = StageHead(block, size, NORM, width, options=options)
    np.testing.assert_allclose(apply(head, ours, regions), expected, 1e-9, 1e-9)


@pytest.mark.parametrize("background_box", [False, True])
def test_the_sibling_layers(background_box):
    x = np.random.default_rng(5).normal(size=(7, 6))
    module = Predictor(3, background_box)
    variables = randomised(module, jnp.float32(x))
    logits, deltas = apply(module, variables, x)
    assert logits.shape == (7, 4)
    assert deltas.shape == (7, 3 + background_box, 4)
    params = variables["params"]["boxes"]
    expected = x @ params["kernel"] + params["bias"]
    # By class and coordinate, as in both houses.
    np.testing.assert_allclose(deltas[:, 2, 1], expected[:, 9], 1e-10)


def test_context_comes_after_each_regions_features():
    features, context = np.float32([[1, 2], [3, 4]]), np.float32([5, 6])
    joined = with_context(jnp.asarray(features), jnp.asarray(context))
    assert joined.tolist() == [[1, 2, 5, 6], [3, 4, 5, 6]]


def proposals_case():
    rng = np.random.default_rng(6)
    lengths = (60, 15)
    corners = [rng.uniform(-10, 80, (length, 2)) for length in lengths]
    anchors = [np.concatenate([c, c + rng.uniform(4, 40, c.shape)], 1) for c in corners]
    logits = [rng.normal(size=length) for length in lengths]
    logits[0][:3] = np.nan, 50, np.inf
    deltas = [rng.normal(size=(length, 4)) * 0.3 for length in lengths]
    valid = [rng.random(length) < 0.8 for length in lengths]
    return logits, deltas, anchors, valid


@pytest.mark.parametrize("pre, post, smallest", [(30, 20, 6.0), (1000, 100, 1e-3)])
def test_proposals_are_those_of_a_loop(pre, post, smallest):
    arrays = proposals_case()
    call = partial(propose, pre_nms=pre, post_nms=post, threshold=0.7, smallest=smallest)
    with jax.enable_x64(True):
        expected = greedy_proposals(*arrays, 70, 90, pre, post, smallest)
        ours = jax.device_get(jax.jit(call)(*arrays, np.array([70, 90])))
    assert ours.count == len(expected)
    np.testing.assert_allclose(ours.boxes[: ours.count], expected[:, 1:], 1e-12, 1e-12)
    np.testing.assert_array_equal(ours.scores[: ours.count], -expected[:, 0])
    assert not np.any(ours.boxes[ours.count :])
    assert ours.valid.sum() == ours.count


def test_no_gradient_flows_through_proposals():
    logits, deltas, anchors, valid = proposals_case()

    def total(logits, deltas):
        found = propose(logits, deltas, anchors, valid, np.array([70, 90]), 30, 20, 0.7, 1.0)
        return jnp.sum(found.boxes) + jnp.sum(jnp.where(found.scores < 10, found.scores, 0))

    logits[0][:3] = 0
    logits, deltas = ([jnp.float32(a) for a in arrays] for arrays in (logits, deltas))
    gradients = jax.jit(jax.grad(total, (0, 1)))(logits, deltas)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_levels_by_probability_put_the_finer_one_first_among_equals():
    """In float32 the probabilities of logits 20 and 30 are both 1."""
    boxes = np.float32([[0, 0, 9, 9]])
    arrays = [np.float32([20]), np.float32([30])], [np.zeros((1, 4), np.float32)] * 2
    arrays += [boxes, boxes + 20], [np.ones(1, bool)] * 2

    def first(by_probability):
        call = partial(
            propose,
            pre_nms=5,
            post_nms=2,
            threshold=0.7,
            smallest=0.0,
            by_probability=by_probability,
        )
        return jax.jit(call)(*arrays, np.array([90, 90])).boxes[0, 0]

    assert first(True) == 0
    assert first(False) == 20
