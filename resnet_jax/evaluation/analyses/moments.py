"""Mean and variance of data in parts; the result does not depend on the division."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Statistic = np.ndarray | np.floating
"""Numbers per channel, or one number."""


class ImageMoments(NamedTuple):
    """Moments of each image of a batch, in float32 or wider.

    Attributes:
      mean: the rounded mean.
      remainder: the correction to add to the rounded mean.
      squares: the sum of squared deviations from the mean.
      num_elements: number of elements per image.
    """

    mean: Float[Array, "n *c"]
    remainder: Float[Array, "n *c"]
    squares: Float[Array, "n *c"]
    num_elements: int


def image_moments(x: Float[Array, "n h w c"], *, over_channels: bool) -> ImageMoments:
    """Returns the moments of each image.

    Args:
      x: feature maps.
      over_channels: whether to pool the channels; otherwise moments are per channel.
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

    Averaging the parts' variances would omit the variance between the parts' means.

    Attributes:
      count: number of elements.
      mean: their mean.
      squares: sum of their squared deviations from it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Statistic = np.zeros(())
        self.squares: Statistic = np.zeros(())

    def add(self, images: ImageMoments, rows: slice | Bool[np.ndarray, " n"]) -> None:
        """Adds the images in some rows of a batch."""
        means = np.asarray(images.mean, np.float64)[rows] + np.asarray(images.remainder)[rows]
        if not len(means):
            return
        count = int(images.num_elements)
        mean = means.mean(axis=0)
        within = np.asarray(images.squares, np.float64)[rows].sum(axis=0)
        within += count * np.square(means - mean).sum(axis=0)
        added = count * len(means)
        total = self.count + added
        delta = mean - self.mean
        self.squares = self.squares + within + np.square(delta) * (self.count * added / total)
        self.mean = self.mean + delta * (added / total)
        self.count = total

    @property
    def variance(self) -> Statistic:
        """The biased variance: the mean squared deviation."""
        return self.squares / self.count

    @property
    def unbiased_variance(self) -> Statistic:
        """The unbiased variance, with `count - 1` in the denominator; zero for one element."""
        return self.squares / max(self.count - 1, 1)
