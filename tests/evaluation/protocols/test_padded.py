"""A padded image has the logits that it has alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.evaluation import EvaluationError
from resnet_jax.evaluation.protocols.padded import mirrored, padded_logits
from resnet_jax.models import BottleneckBlock, ModelError
from tests.evaluation.networks import DeepStem, apply_quickly, random_variables, small_model

SIZES = [(32, 64), (17, 47), (32, 1), (24, 63)]


def check(model, channels=3, sizes=SIZES, shape=(32, 64)):
    variables = random_variables(model, channels)
    rng = np.random.default_rng(1)
    # What is in the padding must not matter.
    images = rng.normal(size=(len(sizes), *shape, channels)).astype(np.float32)
    logits = jax.jit(lambda images, sizes: padded_logits(model, variables, images, sizes))(
        images, jnp.asarray(sizes)
    )
    apply = apply_quickly(model, variables)
    for row, (height, width) in enumerate(sizes):
        alone = apply(images[row, None, :height, :width])[0]
        np.testing.assert_allclose(logits[row], alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stem": "cifar", "shortcut": "A", "remat": True},
        {"shortcut": "C", "stage_sizes": (1, 2)},
        {"residual": False},
        {"block": BottleneckBlock, "groups": 2, "width_per_group": 32, "stride_on_first": True},
        {"block": BottleneckBlock, "replace_stride_with_dilation": (True,)},
    ],
    ids=str,
)
def test_every_kind_of_network(options):
    check(small_model(**options))


def test_four_stages_and_one_channel():
    model = small_model(stage_sizes=(1, 1, 1, 1), stage_widths=(4, 6, 8, 10))
    check(model, channels=1, sizes=[(64, 64), (39, 26)], shape=(64, 64))


def test_a_folded_network():
    model = small_model(folded=True)
    variables = random_variables(model)
    assert "batch_stats" not in variables
    check(model)


def test_padding_that_the_stride_does_not_divide():
    model = small_model()
    with pytest.raises(ModelError, match="padded to 32x50 .* multiples"):
        check(model, sizes=[(32, 40)], shape=(32, 50))


@pytest.mark.parametrize("width", [1, 4, 5, 8])
def test_mirror_images_stay_in_their_corner(width):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 2), dtype=np.uint8)
    sizes = np.asarray([(3, width), (2, 8)])
    out = mirrored(jnp.asarray(images), jnp.asarray(sizes))
    np.testing.assert_array_equal(out[0, :, :width], images[0, :, :width][:, ::-1])
    np.testing.assert_array_equal(out[1], images[1, :, ::-1])
    np.testing.assert_array_equal(mirrored(jnp.asarray(images)), images[:, :, ::-1])


def test_a_stem_of_ones_own_is_refused():
    model = small_model(stem=DeepStem)
    variables = random_variables(model)
    with pytest.raises(EvaluationError, match="with a named stem; evaluate with one size"):
        padded_logits(model, variables, jnp.zeros((1, 32, 32, 3)), jnp.full((1, 2), 32))
