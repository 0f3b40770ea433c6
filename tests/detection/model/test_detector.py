"""The whole detector: shapes, padding that never leaks, and its losses."""

import dataclasses
import math
import zlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.detection.model import (
    DenseHead,
    Detector,
    FeaturePyramid,
    Pooling,
    RPNHead,
    StageHead,
    Truth,
    get_style,
)
from resnet_jax.models import BasicBlock, BatchNorm, ResNet
from tests.detection.model.references import (
    greedy_proposals,
    layer,
    looped_detections,
    moved,
    nchw,
    transcript,
)

SIZES = np.array([[64, 96], [50, 70]])


def make(pyramid=False, style="torchvision", **options):
    """A detector of 3 classes with a tiny trunk."""
    numbers = dataclasses.replace(
        get_style(style, pyramid),
        anchor_sizes=((8,), (16,), (32,)) if pyramid else ((16, 32),),
        pre_nms=(60, 40),
        post_nms=(40, 30),
        detections=20,
        anchors_per_image=32,
        regions_per_image=16,
        smallest_proposal=1.0,
        pooling=Pooling(4, 2, style != "torchvision"),
    )
    trunk = ResNet((1, 1, 1), BasicBlock, stage_widths=(8, 8, 16))
    parts = {"stages": ("stage3",), "strides": (16,), "neck": None}
    parts["head"] = StageHead(BasicBlock, 1, BatchNorm, 16)
    if pyramid:
        parts = {"stages": ("stage2", "stage3"), "strides": (8, 16, 32)}
        parts |= {"neck": FeaturePyramid(8), "head": DenseHead(features=16)}
    rpn = RPNHead(3 if pyramid else 6)
    return Detector(trunk=trunk, rpn=rpn, num_classes=3, style=numbers, **parts, **options)


def variables_of(detector, seed=0):
    """Random ones with which there are detections of all classes."""
    images = jnp.zeros((1, 64, 96, 3))
    shapes = jax.eval_shape(detector.init, jax.random.key(0), images, SIZES[:1])

    def fill(path, leaf):
        rng = np.random.default_rng([seed, zlib.crc32(str(path).encode())])
        values = rng.normal(size=leaf.shape) / max(np.prod(leaf.shape[:-1]), 1) ** 0.5
        if path[-1].key in ("var", "scale"):
            return np.float32(values**2 + 0.5)
        small = "deltas" in str(path) or "boxes" in str(path)
        return np.float32(values * (0.2 if small else 1))

    return jax.tree_util.tree_map_with_path(fill, shapes)


def images_on(height, width, sizes=SIZES, noise=0.0):
    rng = np.random.default_rng(1)
    images = np.full((len(sizes), height, width, 3), noise, np.float32)
    for image, (rows, columns) in zip(images, sizes, strict=True):
        image[:rows, :columns] = rng.normal(size=(rows, columns, 3))
    return images


def detect(detector, variables, images, sizes=SIZES):
    return jax.device_get(jax.jit(detector.apply)(variables, images, sizes))


def reference(detector, variables, maps, size):
    """One image's detections by loops, from the maps of its pyramid."""
    style, params = detector.style, variables["params"]
    logits, deltas, anchors = [], [], []
    for one, stride, sides in zip(maps, detector.strides, style.anchor_sizes, strict=True):
        rpn = {"params": params["rpn"]}
        hidden = layer(nchw(one[None]), rpn, "conv1", relu=True)
        logits.append(layer(hidden, rpn, "logits").numpy()[0].transpose(1, 2, 0).reshape(-1))
        deltas.append(layer(hidden, rpn, "deltas").numpy()[0].transpose(1, 2, 0).reshape(-1, 4))
        base = []
        for ratio in (0.5, 1, 2):
            width, height = sides[0] / math.sqrt(ratio), sides[0] * math.sqrt(ratio)
            corners = np.array([-width, -height, width, height]) / 2
            base.append(np.round(corners) if style.anchor_rounding == "corners" else corners)
        places = np.ndindex(one.shape[:2])
        shifts = [np.array([x, y, x, y]) * stride for y, x in places]
        anchors.append(np.array([shift + corners for shift in shifts for corners in base]))
    valid = [np.ones(len(one), bool) for one in logits]
    numbers = style.pre_nms[1], style.post_nms[1], style.smallest_proposal
    boxes = greedy_proposals(logits, deltas, anchors, valid, *size, *numbers)[:, 1:]
    scores, class_boxes = [], []
    for box in boxes:
        level = 4 + math.log2(math.sqrt(np.prod(box[2:] - box[:2])) / 224)
        level = min(max(math.floor(level), 3), 4) - 3
        x = transcript(maps[level], box, 1 / detector.strides[level], style.pooling).reshape(-1)
        for name in ("dense1", "dense2"):
            x = np.maximum(x @ params["head"][name]["kernel"] + params["head"][name]["bias"], 0)
        layers = params["predictor"]
        exponents = np.exp(x @ layers["classes"]["kernel"] + layers["classes"]["bias"])
        scores.append(exponents[:3] / exponents.sum())
        changes = (x @ layers["boxes"]["kernel"] + layers["boxes"]["bias"]).reshape(-1, 4)[:3]
        class_boxes.append([moved(change, box, (10, 10, 5, 5)) for change in changes])
    valid = np.ones(len(boxes), bool)
    numbers = style.nms, style.detections, style.smallest_box, False
    return looped_detections(np.array(scores), np.array(class_boxes), valid, *size, *numbers)


@pytest.mark.parametrize("style", ["torchvision", "detectron2"])
def test_its_detections_are_those_of_loops(style):
    detector = make(pyramid=True, style=style)
    variables = jax.tree.map(np.float64, variables_of(detector))
    sizes = np.array([[64, 96]])
    images = images_on(64, 96, sizes).astype(np.float64)
    with jax.enable_x64(True):
        found = detect(detector, variables, images, sizes)
        features = partial(detector.apply, method="features")
        maps = jax.device_get(jax.jit(features)(variables, images, sizes))
    expected = reference(detector, variables, [one[0] for one in maps], (64, 96))
    count = found.count[0]
    assert count == len(expected) > 10
    assert found.labels[0, :count].tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found.scores[0, :count], [one for one, _, _ in expected], 0, 1e-12)
    np.testing.assert_allclose(found.boxes[0, :count], [one for _, _, one in expected], 0, 1e-9)


KINDS = pytest.mark.parametrize(
    "options",
    [{}, {"pyramid": True}, {"style": "detectron2", "context": True}, {"style": "paper"}],
    ids=str,
)


@KINDS
def test_padding_and_neighbours_change_nothing(options):
    detector = make(**options)
    variables = variables_of(detector)
    found = detect(detector, variables, images_on(64, 96))
    # The same images on a larger canvas with noise, in the other order, with another one.
    sizes = np.concatenate([SIZES, [[128, 160]]])
    images = images_on(128, 160, sizes, noise=7.0)[[2, 1, 0]]
    other = detect(detector, variables, images, sizes[[2, 1, 0]])
    assert np.all(found.count > 5)
    for index in range(2):
        count = found.count[index]
        assert other.count[2 - index] == count
        np.testing.assert_array_equal(found.labels[index], other.labels[2 - index])
        np.testing.assert_allclose(found.boxes[index], other.boxes[2 - index], 0, 1e-3)
        np.testing.assert_allclose(found.scores[index], other.scores[2 - index], 0, 1e-5)
        limits = SIZES[index][[1, 0, 1, 0]]
        assert np.all((found.boxes[index] >= 0) & (found.boxes[index] <= limits))
        assert set(found.labels[index, :count]) <= {0, 1, 2}


def test_visible_padding_leaks():
    """As in other implementations, and so that the test above is one."""
    detector = make(padding="visible")
    variables = variables_of(detector)
    found = detect(detector, variables, images_on(64, 96))
    other = detect(detector, variables, images_on(128, 160))
    assert np.abs(found.boxes - other.boxes).max() > 1


TRUTH = Truth(
    boxes=np.float32(
        [[[4, 4, 30, 40], [40, 20, 80, 60], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 3],
    ),
    labels=np.array([[2, 0, 0], [0, 0, 0]]),
    real=np.array([[True, True, False], [False] * 3]),
    crowd=np.zeros((2, 3), bool),
)


def losses_of(detector, variables, key, images, sizes, truth, places):
    call = partial(detector.apply, method="losses", rngs={"sample": key})
    return call(variables, images, sizes, truth, places)


@pytest.mark.parametrize(
    "options", [{"pyramid": True}, {"style": "paper", "context": True}], ids=str
)
def test_losses_and_gradients_of_images_with_boxes_and_without(options):
    detector = make(**options)
    variables = variables_of(detector)
    args = jax.random.key(0), images_on(64, 96), SIZES, TRUTH, np.arange(2)

    def total(params):
        terms = losses_of(detector, {**variables, "params": params}, *args)
        return sum(term.mean() for term in terms.values()), terms

    call = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, terms), gradients = jax.device_get(call(variables["params"]))
    assert list(terms) == ["box", "class", "objectness", "rpn_box"]  # JAX sorts them.
    assert all(np.isfinite(term.total) and term.total > 0 for term in terms.values())
    assert terms["class"].count == 32
    assert terms["objectness"].count <= 64
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), path
        assert np.any(leaf), path


def test_draws_are_a_function_of_the_key_and_of_each_images_place():
    detector = make()
    call = jax.jit(partial(losses_of, detector, variables_of(detector)))
    args, key = (images_on(64, 96), SIZES, TRUTH, np.arange(2)), jax.random.key(0)
    whole = call(key, *args)
    jax.tree.map(np.testing.assert_array_equal, whole, call(key, *args))
    assert call(jax.random.key(1), *args)["class"].total != whole["class"].total
    parts = [call(key, *jax.tree.map(lambda a, i=i: a[i : i + 1], args)) for i in range(2)]
    added = jax.tree.map(lambda one, other: one + other, *parts)
    for one, other in zip(jax.tree.leaves(added), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, 1e-5)


def test_training_normalises_by_the_batch_unless_frozen():
    images = images_on(64, 96)
    for frozen in (True, False):
        detector = make(freeze_batch_norm=frozen)
        variables = variables_of(detector)
        call = partial(detector.apply, method="losses", mutable=["batch_stats"])
        rngs = {"sample": jax.random.key(0)}
        _, updates = jax.jit(lambda v, c=call, r=rngs: c(v, images, SIZES, TRUTH, rngs=r))(
            variables
        )
        changed = jax.tree.map(np.array_equal, updates["batch_stats"], variables["batch_stats"])
        assert set(jax.tree.leaves(changed)) == {frozen}
