"""RoIAlign against a scalar transcript of torchvision's C++ operator; levels of boxes."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.detection.model import Pooling, box_levels, roi_align
from tests.detection.model.references import transcript

# Its module hides behind the function of the same name.
MODULE = __import__("sys").modules[roi_align.__module__]
FORMS = pytest.mark.parametrize("form", ["matrices", "gathers"])
MODES = pytest.mark.parametrize(
    "pooling",
    [
        Pooling(bins, samples, aligned)
        for bins, samples, aligned in [(7, 2, False), (3, 2, True), (5, 0, True), (3, 0, False)]
    ],
    ids=str,
)
SIZE = 13, 17


@pytest.fixture
def optimised():
    """Compiled as in use, where products and sums may be fused and rounded once."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def chosen_form(request, monkeypatch):
    if "form" in request.fixturenames:
        cells = {"matrices": 10**9, "gathers": 0}[request.getfixturevalue("form")]
        monkeypatch.setattr(MODULE, "MATRIX_CELLS", cells)


def boxes_on(height, width, rng, count=12):
    """Boxes of an image, random and at its corners and borders: narrow, empty, whole, outside."""
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4)
    boxes = corners * [width, height, width, height]
    special = [
        [0, 0, width, height],
        [width - 1, height - 1, width, height],
        [width - 0.25, 0, width, height],
        [0, height - 0.25, width, height],
        [0, 0, 0.5, 0.5],
        [0, 0, 0, 0],
        [width, height, width, height],
        [-30, -20, 30, 20],
        [width - 10, height - 10, width + 60, height + 80],
        [9, 9, 5, 5],
    ]
    return np.concatenate([boxes, special])


def one_map(dtype, seed=0):
    rng = np.random.default_rng(seed)
    image_map = rng.normal(size=(*SIZE, 3)).astype(dtype)
    # An eighth is exact in float32, so that no coordinate is rounded twice.
    boxes = np.round(boxes_on(SIZE[0] * 16, SIZE[1] * 16, rng) * 8) / 8
    return image_map, boxes.astype(dtype)


def pooled_from(image_map, boxes, pooling, stride=16):
    levels = np.zeros(len(boxes), np.int32)
    lengths = np.array([image_map.shape[:2]])
    call = jax.jit(partial(roi_align, strides=(stride,), pooling=pooling))
    return call((image_map,), boxes, levels, lengths)


@MODES
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-12)])
def test_the_operators_values(optimised, pooling, dtype, tolerance, monkeypatch):
    image_map, boxes = one_map(dtype)
    expected = [transcript(image_map, box, 1 / 16, pooling) for box in boxes]
    for cells in (0, 10**9):
        monkeypatch.setattr(MODULE, "MATRIX_CELLS", cells)
        with jax.enable_x64(dtype == "float64"):
            ours = pooled_from(image_map, boxes, pooling)
            assert ours.dtype == dtype
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance)


@FORMS
def test_a_sample_more_than_a_pixel_outside_counts_as_zero(form):
    """torchvision's fallback in Python takes the border there, which is not the operator."""
    ones = np.ones((4, 4, 1), np.float32)
    # Not aligned, a box is a pixel wide: from 3.75 to 4.75, and 4 is the last place inside.
    pooled = pooled_from(ones, np.float32([[15, 0, 16, 16]]), Pooling(2, 2, False), 4)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[0.5, 0]] * 2)
    pooled = pooled_from(ones, np.float32([[15, 0, 16, 16]]), Pooling(2, 2, True), 4)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[1, 1]] * 2)


PYRAMID = ((12, 16), (6, 8), (3, 4))
STRIDES = (4, 8, 16)
# The image takes up a part of its canvas of 48x64.
LENGTHS = np.array([[9, 14], [5, 7], [3, 4]])


def pyramid(dtype):
    rng = np.random.default_rng(1)
    maps = tuple(rng.normal(size=(*size, 2)).astype(dtype) for size in PYRAMID)
    boxes = boxes_on(36, 56, rng, 20).astype(dtype)
    return maps, boxes, rng.integers(0, 3, len(boxes)).astype(np.int32)


@FORMS
@pytest.mark.parametrize("pooling", [Pooling(3, 2, False), Pooling(3, 0, True)], ids=str)
def test_a_pyramid_of_an_image_with_padding(form, pooling):
    """Each box on its own level's map, of which only the image's part counts."""
    maps, boxes, levels = pyramid("float64")
    expected = [
        transcript(
            maps[level][: LENGTHS[level, 0], : LENGTHS[level, 1]], box, 1 / STRIDES[level], pooling
        )
        for box, level in zip(boxes, levels, strict=True)
    ]
    call = jax.jit(partial(roi_align, strides=STRIDES, pooling=pooling))
    with jax.enable_x64(True):
        ours = call(maps, boxes, levels, LENGTHS)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", [Pooling(3, 2, False), Pooling(3, 0, True)], ids=str)
def test_gradients_are_those_of_the_operators_sum(pooling):
    """The operator is linear in the map: its matrix, pixel by pixel, gives its gradient."""
    maps, boxes, levels = pyramid("float64")
    maps = tuple(one[:, :, :1] for one in maps)
    cotangent = np.random.default_rng(2).normal(size=(len(boxes), pooling.bins, pooling.bins, 1))
    expected = [np.zeros(one.shape) for one in maps]
    for box, level, weights in zip(boxes, levels, cotangent, strict=True):
        height, width = LENGTHS[level]
        # One channel per pixel of the image's part, which is 1 there.
        units = np.eye(height * width).reshape(height, width, -1)
        matrix = transcript(units, box, 1 / STRIDES[level], pooling)
        part = np.einsum("ijp,ij->p", matrix, weights[:, :, 0]).reshape(height, width)
        expected[level][:height, :width, 0] += part

    def total(maps, boxes):
        pooled = roi_align(maps, boxes, levels, LENGTHS, STRIDES, pooling)
        return jnp.sum(pooled * cotangent)

    with jax.enable_x64(True):
        ours, of_boxes = jax.jit(jax.grad(total, argnums=(0, 1)))(maps, jnp.asarray(boxes))
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    assert not np.any(of_boxes)


def test_both_forms_agree_in_a_batch_in_float32(monkeypatch):
    pooling = Pooling(3, 0, True)
    maps, boxes, levels = pyramid("float32")
    batch = [tuple(np.stack([one, 2 * one]) for one in maps), np.stack([boxes, boxes[::-1]])]
    batch += [np.stack([levels, levels[::-1]]), np.stack([LENGTHS, LENGTHS])]

    def both(cells):
        monkeypatch.setattr(MODULE, "MATRIX_CELLS", cells)

        def total(*batch):
            call = partial(roi_align, strides=STRIDES, pooling=pooling)
            pooled = jax.vmap(call)(*batch)
            return jnp.sum(pooled**2), pooled

        (_, pooled), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(*batch)
        return jax.device_get((pooled, gradient))

    matrices, gathers = both(10**9), both(0)
    np.testing.assert_allclose(matrices[0][1], 2 * matrices[0][0][::-1], 0, 1e-5)
    for one, other in zip(jax.tree.leaves(matrices), jax.tree.leaves(gathers), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@FORMS
def test_bfloat16_maps_give_bfloat16(form):
    image_map, boxes = one_map("float32")
    boxes = boxes[:12]
    exact = pooled_from(image_map, boxes, Pooling(7, 2, True))

    def total(image_map):
        pooled = pooled_from(image_map, boxes, Pooling(7, 2, True))
        return jnp.sum(pooled.astype(jnp.float32)), pooled

    gradient, pooled = jax.jit(jax.grad(total, has_aux=True))(jnp.bfloat16(image_map))
    assert pooled.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(pooled.astype(np.float32), exact, 0, 0.05)


@FORMS
def test_empty_regions_fill_up_the_rest(form):
    """As proposals after the last are: they stay finite and take no gradient away."""
    image_map, boxes = one_map("float32")
    padded = np.concatenate([boxes[:3], np.zeros((2, 4), np.float32)])
    pooled = pooled_from(image_map, padded, Pooling(7, 0, True))
    np.testing.assert_array_equal(
        pooled[:3], pooled_from(image_map, boxes[:3], Pooling(7, 0, True))
    )
    assert np.all(np.isfinite(pooled))


@pytest.mark.parametrize("inside", [False, True])
def test_levels_are_the_formulas(inside):
    def formula(box):
        area = max((box[2] - box[0]) * (box[3] - box[1]), 0)
        ratio = math.sqrt(area) / 224
        if ratio == 0:
            return 0
        level = math.log2(ratio + 1e-8) if inside else math.log2(ratio) + 1e-6
        return min(max(math.floor(4 + level), 2), 5) - 2

    rng = np.random.default_rng(0)
    sides = [0, 1, 111.9, 112, 223, 224, 447, 448, 449, 896, 2000, *np.exp(rng.uniform(0, 8, 200))]
    boxes = np.float32([[3, 5, 3 + side, 5 + side] for side in sides] + [[9, 9, 4, 4]])
    boxes[-1] = [9, 9, 4, 12]  # Turned inside out: no area.
    call = jax.jit(partial(box_levels, lowest=2, highest=5, inside=inside))
    assert call(boxes).tolist() == [formula(np.float64(box)) for box in boxes]
    # Just below a limit; the houses' small numbers matter.
    sides = [112 * (1 - share) for share in (5e-9, 1.5e-8, 5e-8, 5e-7, 1e-6)]
    near = np.array([[0, 0, side, side] for side in sides])
    with jax.enable_x64(True):
        levels = call(near).tolist()
    assert levels == [formula(box) for box in near]
    assert levels == ([1, 1, 0, 0, 0] if inside else [1, 1, 1, 1, 0])
