"""Mean and variance of data that comes in parts, the same for every way of dividing it."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class ImageMoments(NamedTuple):
    """Moments of each image of a batch, in float32 or wider.

    Attributes:
      mean: the mean, rounded.
      remainder: what the rounded mean lacks.
      squares: the sum of squared deviations from the mean.
      num_elements: how many elements an image has.
    """

    mean: Float[Array, "n *c"]
    remainder: Float[Array, "n *c"]
    squares: Float[Array, "n *c"]
    num_elements: int


def image_moments(x: Float[Array, "n h w c"], *, over_channels: bool) -> ImageMoments:
    """Returns the moments of each image.

    Args:
      x: maps.
      over_channels: whether the channels are taken together or each for itself.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = (1, 2, 3) if over_channels else (1, 2)
    mean = jnp.mean(x, axes, keepdims=True)
    remainder = jnp.mean(x - mean, axes, keepdims=True)
    squares = jnp.sum(jnp.square(x - mean - remainder), axes)
    size = math.prod(x.shape[axis] for axis in axes)
    return ImageMoments(jnp.squeeze(mean, axes), jnp.squeeze(remainder, axes), squares, size)


class Moments:
    """Moments of all elements so far, in float64, combined by Chan's formula.

    Variances of parts do not average: the spread of the parts' means belongs to the variance, too.

    Attributes:
      count: number of elements.
      mean: their mean.
      squares: sum of their squared deviations from it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(())
        self.squares: np.ndarray = np.zeros(())

    def add(self, images: ImageMoments, rows: slice | Bool[np.ndarray, " n"]) -> None:
        """Adds the images of some rows of a batch."""
        means = np.asarray(images.mean, np.float64)[rows] + np.asarray(images.remainder)[rows]
        if not len(means):
            return
        count = int(images.num_elements)
        mean = means.mean(axis=0)
        within = np.asarray(images.squares, np.float64)[rows].sum(axis=0)
        within += count * np.square(means - mean).sum(axis=0)
        added = count * len(means)
        total = self.count + added
        apart = mean - self.mean
        self.squares = self.squares + within + np.square(apart) * (self.count * added / total)
        self.mean = self.mean + apart * (added / total)
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """The biased variance, the mean squared deviation."""
        return self.squares / self.count

    @property
    def unbiased_variance(self) -> np.ndarray:
        """The variance with one less in the denominator; of a single element, zero."""
        return self.squares / max(self.count - 1, 1)
