"""Colour augmentation, on the device and inside the step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .errors import DataError

EIGENVALUES = (0.2175, 0.0188, 0.0045)
"""Of the covariance of ImageNet's RGB values on [0, 1], over all pixels."""

EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
"""A row a channel (red, green, blue), a column an eigenvalue."""


def pca_shift(
    key: PRNGKeyArray, num_images: int, deviation: float = 0.1
) -> Float[Array, "num_images 3"]:
    """Returns what AlexNet's colour augmentation adds to each image, the same at every pixel.

    `sum_i alpha_i * eigenvalue_i * eigenvector_i` with each `alpha_i` from N(0, `deviation`) and
    new for every image: Section 4.1 of Krizhevsky, Sutskever and Hinton (2012), to which the
    paper's Section 3.4 refers. The eigenvalues and -vectors are those of fb.resnet.torch.

    Args:
      key: decides the `alpha`s.
      num_images: how many images to draw for.
      deviation: of each `alpha`.

    Returns:
      Red, green and blue on [0, 1] for each image, float32 (float64 under x64).
    """
    alpha = deviation * jax.random.normal(key, (num_images, 3))
    return (alpha * jnp.array(EIGENVALUES)) @ jnp.array(EIGENVECTORS).T


def pca_color(
    key: PRNGKeyArray, images: Float[Array, "n h w 3"], deviation: float = 0.1
) -> Float[Array, "n h w 3"]:
    """Shifts the colour of each image at random, see `pca_shift`; nothing is clipped.

    Args:
      key: decides the shifts.
      images: RGB on [0, 1].
      deviation: of the shifts, in units of the eigenvalues.

    Raises:
      DataError: images that do not have three channels.
    """
    if images.shape[-1] != 3:
        raise DataError(
            f"colour augmentation 'pca' needs images of 3 channels, not {images.shape[-1]}; "
            "set channels=3 or leave it out"
        )
    shift = pca_shift(key, images.shape[0], deviation)
    return images + shift[:, jnp.newaxis, jnp.newaxis, :].astype(images.dtype)
