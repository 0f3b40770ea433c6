"""Networks to evaluate, and their logits for images of one size or several."""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from resnet_jax.data import Normalization
from resnet_jax.evaluation.protocols.padded import padded_logits
from resnet_jax.runtime.devices import jit


@dataclasses.dataclass(frozen=True)
class Network:
    """A model with everything needed to score images.

    Attributes:
      model: the model.
      variables: `{"params", "batch_stats"}`, or `{"params"}` if it was folded.
      normalization: the normalisation of uint8 images.
    """

    model: nn.Module
    variables: Any
    normalization: Normalization

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        own = getattr(self.model, "num_classes", None)
        return int(own or self.variables["params"]["head"]["bias"].shape[0])

    def logits(
        self, images: UInt8[Array | np.ndarray, "n h w c"], sizes: Int[Array, "n 2"] | None = None
    ) -> Float[Array, "n classes"]:
        """Returns the logits; compiles one program per shape of images.

        Args:
          images: images before normalisation; see `normalize`.
          sizes: height and width of each image, if they are padded below and to the right. The
            logits are those of each image without padding (`padded_logits`). Instead of a mean
            image, its channel means are subtracted.
        """
        return _logits(self.model, self.variables, self.normalization, images, sizes)


def channel_means(normalization: Normalization) -> Normalization:
    """Returns the normalisation with a mean image, if any, replaced by its channel means."""
    if normalization.mean.ndim == 1:
        return normalization
    return normalization.replace(mean=jnp.mean(normalization.mean, axis=(0, 1)))


def fitted(normalization: Normalization, size: tuple[int, ...]) -> Normalization:
    """Returns the normalisation for images of a height and width.

    It uses the channel means if the mean image has another size.
    """
    mean = normalization.mean
    return normalization if mean.shape[:-1] in ((), size) else channel_means(normalization)


def normalize(
    normalization: Normalization, images: UInt8[Array, "n h w c"]
) -> Float[Array, "n h w c"]:
    """Normalises images; uses the channel means if the mean image has another size."""
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
