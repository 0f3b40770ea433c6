import jax
import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.transforms.color import EIGENVALUES, EIGENVECTORS, pca_color, pca_shift

# fb.resnet.torch, datasets/imagenet.lua: what its `Lighting` transform is given.
EIGVAL = np.array([0.2175, 0.0188, 0.0045])
EIGVEC = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


def lighting(images, alpha):
    """`Lighting`, an image at a time: rgb = (eigvec * alpha * eigval).sum(2); image + rgb."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        rgb = (EIGVEC * alpha[i][np.newaxis] * EIGVAL[np.newaxis]).sum(axis=1)
        for channel in range(3):
            out[i, :, :, channel] = image[:, :, channel] + rgb[channel]
    return out


def test_the_published_values_are_used():
    np.testing.assert_array_equal(EIGENVALUES, EIGVAL)
    np.testing.assert_array_equal(EIGENVECTORS, EIGVEC)
    # Columns are eigenvectors: of length one and at right angles, as far as they were rounded.
    np.testing.assert_allclose(EIGVEC.T @ EIGVEC, np.eye(3), atol=3e-4)


def test_equals_lighting():
    images = np.random.default_rng(0).random((5, 4, 6, 3)).astype(np.float32)
    key = jax.random.key(3)
    alpha = 0.1 * np.asarray(jax.random.normal(key, (5, 3)), np.float64)
    out = jax.jit(pca_color)(key, images)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, lighting(images.astype(np.float64), alpha), rtol=0, atol=2e-7)


def test_every_image_has_its_own_shift():
    images = np.zeros((64, 2, 2, 3), np.float32)
    out = np.asarray(pca_color(jax.random.key(0), images))
    assert len(np.unique(out[:, 0, 0, 0])) == 64
    np.testing.assert_array_equal(out, np.broadcast_to(out[:, :1, :1], out.shape))
    assert (out != np.asarray(pca_color(jax.random.key(1), images))).any()


def test_shifts_are_distributed_as_said():
    n = 10_000
    shift = np.asarray(pca_shift(jax.random.key(5), n), np.float64)
    # In the directions of the eigenvectors: independent, deviation 0.1 * eigenvalue.
    alpha = np.linalg.solve(EIGVEC, shift.T) / EIGVAL[:, np.newaxis]
    assert np.abs(alpha.mean(axis=1)).max() < 5 * 0.1 / np.sqrt(n)
    assert np.abs(alpha.std(axis=1) / 0.1 - 1).max() < 5 / np.sqrt(2 * n)
    assert np.abs(np.corrcoef(alpha) - np.eye(3)).max() < 5 / np.sqrt(n)


def test_normalization_adds_the_shift_before_the_mean():
    images = np.random.default_rng(1).integers(0, 256, (4, 3, 3, 3), np.uint8)
    shift = pca_shift(jax.random.key(2), 4)
    for preprocess in ("torchvision", "caffe", "none"):
        normalization = data.make_normalization(preprocess, 3)
        shifted = images / 255.0 + np.asarray(shift)[:, np.newaxis, np.newaxis]
        if preprocess == "caffe":
            shifted = shifted[..., ::-1]
        expected = (shifted - np.asarray(normalization.mean)) / np.asarray(normalization.deviation)
        np.testing.assert_allclose(normalization(images, shift), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.usefixtures("unchecked")
def test_grey_images_are_refused():
    with pytest.raises(data.DataError, match="'pca' needs images of 3 channels, not 1"):
        pca_color(jax.random.key(0), np.zeros((2, 4, 4, 1), np.float32))
