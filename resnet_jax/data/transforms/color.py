"""Colour augmentation, on the device and inside the step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from resnet_jax.errors import DataError

EIGENVALUES = (0.2175, 0.0188, 0.0045)
"""Eigenvalues of the covariance of ImageNet's RGB values on [0, 1], over all pixels."""

EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
"""Eigenvectors: one row per channel (red, green, blue), one column per eigenvalue."""


def pca_shift(
    key: PRNGKeyArray, num_images: int, deviation: float = 0.1
) -> Float[Array, "num_images 3"]:
    """Returns the colour that AlexNet's augmentation adds to each pixel of an image, per image.

    It is `sum_i alpha_i * eigenvalue_i * eigenvector_i`, with `alpha_i` drawn per image from
    N(0, `deviation`): Section 4.1 of Krizhevsky, Sutskever and Hinton (2012), cited in the paper's
    Section 3.4. The eigenvalues and eigenvectors are those of fb.resnet.torch.

    Args:
      key: random key of the `alpha`s.
      num_images: number of images.
      deviation: standard deviation of each `alpha`.

    Returns:
      Red, green and blue on [0, 1] per image, float32 (float64 under x64).
    """
    alpha = deviation * jax.random.normal(key, (num_images, 3))
    return (alpha * jnp.array(EIGENVALUES)) @ jnp.array(EIGENVECTORS).T


def pca_color(
    key: PRNGKeyArray, images: Float[Array | np.ndarray, "n h w 3"], deviation: float = 0.1
) -> Float[Array, "n h w 3"]:
    """Shifts the colour of each image randomly, without clipping; see `pca_shift`.

    Args:
      key: random key of the shifts.
      images: RGB images on [0, 1].
      deviation: standard deviation of the shifts, in units of the eigenvalues.

    Raises:
      DataError: the images do not have three channels.
    """
    if images.shape[-1] != 3:
        raise DataError(
            f"colour augmentation 'pca' needs images of 3 channels, not {images.shape[-1]}; "
            "set channels=3 or omit it"
        )
    shift = pca_shift(key, images.shape[0], deviation)
    return shift[:, jnp.newaxis, jnp.newaxis, :].astype(images.dtype) + images
