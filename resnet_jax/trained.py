"""Trained networks from anywhere: weights files, the hub's repositories, work directories."""

import os
from typing import TYPE_CHECKING, Any

from resnet_jax.interop import open_weights
from resnet_jax.models import ResNet
from resnet_jax.runtime.files import local_path

if TYPE_CHECKING:
    from resnet_jax.data import Preprocessing


def load_model(
    source: str | os.PathLike[str], checkpoint: str = "latest"
) -> tuple[ResNet, dict[str, Any]]:
    """Returns a trained model and its variables, on this process's default device.

    Args:
      source: a file of `save_weights`; a work directory of `train.py`, whose run may have had
        another number of devices; one of torchvision's files under its own name; a folder with the
        files of a repository of the Hugging Face Hub, or the repository's name.
      checkpoint: of a work directory: `"latest"`, `"best"` or a number of steps.

    Returns:
      The model and {"params", "batch_stats"}.

    Raises:
      WeightsError: the source cannot be read, does not state its network, or does not fit it.
      ConfigError: the work directory has no such checkpoint.
    """
    if not is_run(source):
        return open_weights(source)
    import jax
    import jax.numpy as jnp

    from resnet_jax.training.restore import open_run

    network = open_run(source, checkpoint).network
    model: Any = network.model
    return model, jax.tree.map(jnp.asarray, network.variables)


def preprocessing(
    source: str | os.PathLike[str], *, test_size: bool = False
) -> "Preprocessing | None":
    """Returns how a trained network's images are made, or None if the source does not say it.

    Args:
      source: as for `load_model`.
      test_size: whether to take timm's larger size for tests, where there is one.

    Raises:
      WeightsError: the source cannot be read.
      ConfigError: the work directory has no checkpoint.
    """
    if is_run(source):
        from resnet_jax.training.restore import open_run

        return open_run(source).preprocessing
    from resnet_jax.interop.preprocessing import read_preprocessing

    return read_preprocessing(source, test_size=test_size)


def is_run(source: str | os.PathLike[str]) -> bool:
    """Whether a path is a work directory of `train.py`."""
    path = local_path(source)
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()
