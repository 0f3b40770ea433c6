"""Batches cut on a device from numbers are those that the host cuts from the same seed."""

from functools import partial

import jax
import numpy as np
import pytest

from resnet_jax.data import (
    ArraySource,
    AsIs,
    PadCropMirror,
    RandomResizedCrop,
    cut,
    resident_arrays,
    train_batches,
)


def make_source(channels=3):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (23, 9, 7, channels), dtype=np.uint8)
    labels = rng.integers(0, 4, 23, dtype=np.int32)
    return ArraySource(images, labels, tuple("abcd"))


@pytest.mark.parametrize(
    ("transform", "channels"),
    [
        (AsIs(), 3),
        (PadCropMirror(), 3),
        (PadCropMirror(padding=2, fill=(9, 8, 7)), 3),
        (PadCropMirror(fill=200), 1),
        (PadCropMirror(channels=3), 1),
        (AsIs(channels=1), 3),
    ],
    ids=str,
)
def test_batches_are_those_of_the_host(transform, channels):
    source = make_source(channels)
    settings = {"batch_size": 10, "seed": 5, "shard_count": 2}
    dataset = resident_arrays(source, transform)
    on_device = jax.jit(partial(cut, transform))
    for shard in range(2):
        expected, draws = (
            train_batches(source, transform, shard_index=shard, pixels=pixels, **settings)
            for pixels in (True, False)
        )
        for step in (0, 1, 2, 7):  # The third is of two epochs.
            pixels, label = on_device(dataset, draws[step])
            np.testing.assert_array_equal(pixels, expected[step]["image"])
            np.testing.assert_array_equal(label, expected[step]["label"])
            assert pixels.dtype == np.uint8 and label.dtype == np.int32


class Darker(PadCropMirror):
    """A transform of one's own, which does more than a device would."""

    def batch(self, images, uniforms):
        return super().batch(images, uniforms) // 2


def test_what_cannot_be_kept():
    source = make_source()
    assert resident_arrays(source, RandomResizedCrop(image_size=4)) is None
    assert resident_arrays(source, Darker()) is None

    class Files(list):
        name = split = ""
        class_names, num_classes, image_shape = (), 0, (9, 7, 3)

    assert resident_arrays(Files(), AsIs()) is None
