"""Moments of parts against those of the whole, by NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.evaluation.analyses.moments import Moments, image_moments


@pytest.mark.parametrize("over_channels", [True, False])
@pytest.mark.parametrize("parts", [[11], [1] * 11, [4, 0, 7], [10, 1]])
def test_any_division_gives_the_moments_of_the_whole(over_channels, parts):
    rng = np.random.default_rng(0)
    # Images of very different means, which averaging the variances would leave out.
    x = (rng.normal(size=(11, 3, 5, 2)) + rng.normal(0, 100, (11, 1, 1, 2))).astype(np.float32)
    moments = Moments()
    for part in np.split(x, np.cumsum(parts)[:-1]):
        # Rows of padding may hold anything.
        padded = jnp.pad(jnp.asarray(part), ((0, 2), (0, 0), (0, 0), (0, 0)), constant_values=9)
        rows = np.arange(len(padded)) < len(part)
        moments.add(image_moments(padded, over_channels=over_channels), rows)
    axes = None if over_channels else (0, 1, 2)
    whole = x.astype(np.float64)
    count = 11 * 15 * (2 if over_channels else 1)
    assert moments.count == count
    np.testing.assert_allclose(moments.mean, whole.mean(axes), rtol=0, atol=1e-5)
    np.testing.assert_allclose(moments.variance, whole.var(axes), rtol=1e-6)
    np.testing.assert_allclose(moments.unbiased_variance, whole.var(axes, ddof=1), rtol=1e-6)


def test_a_mean_far_from_zero_costs_no_accuracy():
    x = np.random.default_rng(0).normal(1e4, 1, (7, 8, 8, 3)).astype(np.float32)
    moments = Moments()
    moments.add(image_moments(jnp.asarray(x), over_channels=False), slice(None))
    np.testing.assert_allclose(moments.variance, x.astype(np.float64).var((0, 1, 2)), rtol=1e-6)


def test_a_single_element_has_no_variance():
    moments = Moments()
    moments.add(image_moments(jnp.full((1, 1, 1, 1), 3.0), over_channels=True), slice(None))
    assert moments.count == 1 and moments.mean == 3
    assert moments.variance == moments.unbiased_variance == 0
