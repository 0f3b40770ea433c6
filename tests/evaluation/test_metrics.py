"""Errors and losses against plain NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from resnet_jax.evaluation import ErrorSums, cross_entropy, error_sums


def reference(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    order = np.argsort(-logits, axis=1, kind="stable")
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels).long())
    return {
        "loss": float(loss),
        "top1_error": float(np.mean(order[:, 0] != labels)),
        "top5_error": float(
            np.mean([y not in row[:5] for y, row in zip(labels, order, strict=True)])
        ),
    }


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_means(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(257, classes)).astype(np.float32)
    labels = rng.integers(classes, size=257).astype(np.int32)
    assert error_sums(jnp.asarray(logits), jnp.asarray(labels)).means() == pytest.approx(
        reference(logits, labels), rel=1e-5
    )


def test_masked_images_do_not_count_whatever_they_hold():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8, 10)).astype(np.float32)
    labels = rng.integers(10, size=8).astype(np.int32)
    mask = np.asarray([True] * 5 + [False] * 3)
    logits[6] = np.nan
    sums = error_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask))
    assert int(sums.count) == 5
    assert sums.means() == pytest.approx(reference(logits[:5], labels[:5]), rel=1e-5)


def test_sums_over_parts_are_the_sum_over_all():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(30, 10)), jnp.float32)
    labels = jnp.asarray(rng.integers(10, size=30), jnp.int32)
    parts = ErrorSums.zero()
    for part in (slice(0, 7), slice(7, 8), slice(8, 30)):
        parts += error_sums(logits[part], labels[part])
    assert parts.means() == pytest.approx(error_sums(logits, labels).means(), rel=1e-6)


def test_equal_scores_rank_in_the_order_of_classes():
    logits = jnp.zeros((10, 10))
    means = error_sums(logits, jnp.arange(10)).means()
    assert means["top1_error"] == 0.9
    assert means["top5_error"] == 0.5


def test_scores_that_are_not_numbers_are_errors():
    logits = jnp.full((4, 10), jnp.nan)
    means = error_sums(logits, jnp.arange(4)).means()
    assert means["top1_error"] == means["top5_error"] == 1
    logits = jnp.zeros((1, 10)).at[0, 3].set(jnp.nan)
    assert error_sums(logits, jnp.asarray([0])).means()["top1_error"] == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 10)), rng.integers(10, size=9)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    with jax.enable_x64(True):
        losses = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
