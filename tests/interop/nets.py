"""Small nets, their PyTorch twins, and what several tests here do with them."""

import jax
import numpy as np
import torch

from resnet_jax.models import BasicBlock, BottleneckBlock, ResNet
from tests import torch_twins

NUM_CLASSES = 7
_FIELDS = {"stage_sizes": (1, 2), "stage_widths": (4, 8), "stem": "cifar"}


def small_pair(block="bottleneck", seed=0, **options):
    """Returns a model of two stages and its PyTorch twin with random weights and statistics."""
    ours, theirs = {
        "basic": (BasicBlock, torch_twins.BasicBlock),
        "bottleneck": (BottleneckBlock, torch_twins.Bottleneck),
    }[block]
    fields = {**_FIELDS, **options}
    names = {name: fields.pop(name) for name in ("head_name", "shortcut_name") if name in fields}
    model = ResNet(block=ours, num_classes=NUM_CLASSES, **fields)
    sizes, widths = fields.pop("stage_sizes"), fields.pop("stage_widths")
    twin = torch_twins.ResNet(theirs, sizes, NUM_CLASSES, widths=widths, **fields, **names)
    return model, torch_twins.randomise(twin, seed).eval()


def random_images(*size, seed=0, dtype=np.float32, channels=3):
    return np.random.default_rng(seed).normal(size=(*size, channels)).astype(dtype)


def logits_of_twin(twin, images):
    with torch.no_grad():
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
        return twin.eval().to(images.dtype)(images).numpy()


def logits(model, variables, images):
    apply = jax.jit(lambda variables, images: model.apply(variables, images, train=False))
    return np.asarray(apply(variables, images))


def relative_error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_identical(one, other):
    """Checks that two trees hold the same arrays, bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        assert a.dtype == b.dtype, jax.tree_util.keystr(path)
        np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))
