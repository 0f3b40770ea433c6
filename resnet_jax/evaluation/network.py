"""A network that is to be evaluated, and its logits for images of one size or of several."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from ..data import Normalization
from ..parallel import jit
from .padded import padded_logits


@dataclasses.dataclass(frozen=True)
class Network:
    """What it takes to score images.

    Attributes:
      model: the network.
      variables: `{"params", "batch_stats"}`, or `{"params"}` if it was folded.
      normalization: of uint8 images.
    """

    model: nn.Module
    variables: Any
    normalization: Normalization

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.variables["params"]["head"]["bias"].shape[0]

    def logits(
        self, images: UInt8[Array, "n h w c"], sizes: Int[Array, "n 2"] | None = None
    ) -> Float[Array, "n classes"]:
        """Returns the logits, by one compiled program for each shape of images.

        Args:
          images: not yet normalised; see `normalize`.
          sizes: height and width of each image, where they are padded below and to the right. The
            logits are those of each image alone, without the padding; of a mean image, the channel
            means are subtracted. See `padded_logits`.
        """
        return _logits(self.model, self.variables, self.normalization, images, sizes)


def channel_means(normalization: Normalization) -> Normalization:
    """Returns the normalisation with its mean image, if it has one, averaged over all pixels."""
    if normalization.mean.ndim == 1:
        return normalization
    return normalization.replace(mean=jnp.mean(normalization.mean, axis=(0, 1)))


def fitted(normalization: Normalization, size: tuple[int, ...]) -> Normalization:
    """Returns the normalisation for images of a height and width.

    By the channel means where it has a mean image, and that is of another size.
    """
    mean = normalization.mean
    return normalization if mean.shape[:-1] in ((), size) else channel_means(normalization)


def normalize(
    normalization: Normalization, images: UInt8[Array, "n h w c"]
) -> Float[Array, "n h w c"]:
    """Normalises images; by the channel means where a mean image is of another size than theirs."""
    return fitted(normalization, images.shape[1:3])(images)


@partial(jit, static_argnames="model")
def _logits(
    model: nn.Module,
    variables: Any,
    normalization: Normalization,
    images: UInt8[Array, "n h w c"],
    sizes: Int[Array, "n 2"] | None,
) -> Any:
    if sizes is not None:
        return padded_logits(model, variables, channel_means(normalization)(images), sizes)
    return model.apply(variables, normalize(normalization, images), train=False)
