"""The losses and their gradients against PyTorch's own functions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnet_jax.detection.model import head_losses, rpn_losses, smooth_l1


def tensor(x):
    return torch.tensor(x, requires_grad=np.issubdtype(x.dtype, np.floating))


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1(beta):
    x = np.random.default_rng(0).normal(size=100)
    x[:4] = [0, 1 / 9, -1 / 9, 1]
    theirs = tensor(x)
    expected = F.smooth_l1_loss(theirs, torch.zeros(100), reduction="none", beta=beta)
    expected.sum().backward()
    with jax.enable_x64(True):
        np.testing.assert_allclose(smooth_l1(x, beta), expected.detach(), 1e-12, 1e-15)
        gradient = jax.grad(lambda x: jnp.sum(smooth_l1(x, beta)))(jnp.asarray(x))
        np.testing.assert_allclose(gradient, theirs.grad, 1e-12, 1e-15)


def rpn_case(dtype=np.float64):
    rng = np.random.default_rng(1)
    logits, deltas = rng.normal(size=(3, 50)) * 3, rng.normal(size=(3, 50, 4))
    labels, targets = rng.integers(-1, 2, (3, 50)), rng.normal(size=(3, 50, 4))
    labels[2] = np.minimum(labels[2], 0)  # An image without boxes.
    return logits.astype(dtype), deltas.astype(dtype), labels, targets.astype(dtype)


@pytest.mark.parametrize(
    "beta, per_image", [(1 / 9, None), (0.0, 20)], ids=["torchvision", "detectron2"]
)
def test_rpn_losses(beta, per_image):
    logits, deltas, labels, targets = rpn_case()
    theirs = tensor(logits), tensor(deltas)
    sampled, positive = labels >= 0, labels == 1
    count = sampled.sum() if per_image is None else 3 * per_image
    objectness = F.binary_cross_entropy_with_logits(
        theirs[0][sampled], torch.tensor(labels[sampled], dtype=torch.float64), reduction="sum"
    )
    box = F.smooth_l1_loss(
        theirs[1][positive], torch.tensor(targets[positive]), reduction="sum", beta=beta
    )
    expected = [objectness / count, box / count]
    sum(expected).backward()

    def losses(logits, deltas):
        terms = rpn_losses(logits, deltas, labels, targets, beta, per_image)
        means = [term.mean() for term in terms]
        return sum(means), means

    with jax.enable_x64(True):
        ours, gradients = jax.jit(
            lambda *args: (losses(*args)[1], jax.grad(losses, (0, 1), has_aux=True)(*args)[0])
        )(logits, deltas)
    np.testing.assert_allclose(ours, [one.item() for one in expected], 1e-12)
    for one, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(one, other.grad, 1e-12, 1e-15)


@pytest.mark.parametrize("background_rows", [0, 1])
def test_head_losses(background_rows):
    """With 5 classes, and background last, with a regressor of its own or without."""
    rng = np.random.default_rng(2)
    logits, deltas = rng.normal(size=(2, 40, 6)), rng.normal(size=(2, 40, 5 + background_rows, 4))
    labels, targets = rng.integers(-1, 6, (2, 40)), rng.normal(size=(2, 40, 4))
    theirs = tensor(logits), tensor(deltas)
    sampled, positive = labels >= 0, (labels >= 0) & (labels < 5)
    classes = F.cross_entropy(theirs[0][sampled], torch.tensor(labels[sampled]))
    own = theirs[1][positive][np.arange(positive.sum()), labels[positive]]
    box = F.smooth_l1_loss(own, torch.tensor(targets[positive]), reduction="sum", beta=1.0)
    expected = [classes, box / sampled.sum()]
    sum(expected).backward()

    def losses(logits, deltas):
        means = [term.mean() for term in head_losses(logits, deltas, labels, targets, 1.0)]
        return sum(means), means

    with jax.enable_x64(True):
        ours, gradients = jax.jit(
            lambda *args: (losses(*args)[1], jax.grad(losses, (0, 1), has_aux=True)(*args)[0])
        )(logits, deltas)
    np.testing.assert_allclose(ours, [one.item() for one in expected], 1e-12)
    for one, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(one, other.grad, 1e-12, 1e-15)


def test_sums_and_counts_of_parts_add_up():
    """So that devices and accumulated steps may hold any share of the positives."""
    logits, deltas, labels, targets = rpn_case(np.float32)
    call = jax.jit(partial(rpn_losses, beta=1.0))
    whole = call(logits, deltas, labels, targets)
    parts = [call(*(a[i : i + 1] for a in (logits, deltas, labels, targets))) for i in range(3)]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    for one, other in zip(jax.tree.leaves(added), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, 1e-5)


def test_nothing_sampled_is_no_loss_and_no_nan():
    logits, deltas, labels, targets = (jnp.asarray(a) for a in rpn_case(np.float32))

    def total(logits, deltas):
        rpn = rpn_losses(logits, deltas, jnp.full_like(labels, -1), targets, 1.0)
        head = head_losses(deltas, deltas[..., None, :], jnp.full_like(labels, -1), targets, 1.0)
        return sum(term.mean() for term in (*rpn, *head))

    loss, gradients = jax.value_and_grad(total, (0, 1))(logits, deltas)
    assert loss == 0
    assert not any(np.any(gradient) for gradient in gradients)


def test_losses_of_bfloat16_are_float32():
    logits, deltas, labels, targets = rpn_case(np.float32)
    terms = rpn_losses(jnp.bfloat16(logits), jnp.bfloat16(deltas), labels, targets, 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(terms)} == {jnp.dtype("float32")}
