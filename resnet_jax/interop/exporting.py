"""Exports networks as programs that need only JAX to run."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array, Float

from resnet_jax.errors import WeightsError
from resnet_jax.interop import files, layout
from resnet_jax.models import ModelError, ResNet
from resnet_jax.models.images import image_sides, input_channels

_PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    model: ResNet,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
) -> None:
    """Writes a trained model to one file that another process runs with only JAX.

    The file is a `jax.export` artifact with the weights inside, for any batch size, on CPUs, NVIDIA
    GPUs and TPUs:

        exported = jax.export.deserialize(open(path, "rb").read())
        logits = exported.call(images)  # float32 [n, h, w, c] -> float32 [n, num_classes]

    JAX runs such files for at least six months after the version that wrote them.

    Args:
      model: a model of `create_model`.
      variables: its variables.
      path: the file; its folder exists.
      image_size: height and width of the images, or one number for both; by default 224, or 32 for
        the "cifar" stem.

    Raises:
      WeightsError: the variables do not fit the model, the image size is invalid, or the path
        cannot be written.
    """
    try:
        height, width = image_sides(model, image_size)
    except ModelError as error:
        raise WeightsError(str(error)) from error
    fitted = layout.fit(model, layout.OURS, layout.flatten(variables), "the variables")
    constants = layout.to_variables(fitted)
    channels = input_channels(model, constants)

    portable = model.clone(kernels="stock")

    @jax.jit
    def apply(images: Float[Array, "n h w c"]) -> Any:
        return portable.apply(constants, images, train=False)

    (batch_size,) = jax_export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((batch_size, height, width, channels), jnp.float32)
    exported = jax_export.export(apply, platforms=_PLATFORMS)(images)
    files.write_file(path, bytes(exported.serialize()))
