"""Where a run's weights begin when they do not begin at random: fine-tuning."""

from pathlib import Path
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from ..interop import layout, read_weights
from ..models import ResNet
from .config import ConfigError, TrainConfig
from .trained import open_run


def load_initial(config: TrainConfig, model: ResNet, channels: int) -> dict[str, Any] | None:
    """Returns `{"params", "batch_stats"}` from `config.init_from`, or None if that is not given.

    Args:
      config: `init_from` is a weights file of any origin (see `read_weights`) or a work directory,
        whose newest checkpoint is taken; with `skip_head` the classifier is new, from the seed.
      model: the network to fit.
      channels: of the images that it is to see.

    Raises:
      ConfigError: there is no such file, no checkpoint in the work directory, or the weights are
        for images of other channels.
      WeightsError: the weights are not the model's.
    """
    if config.init_from is None:
        return None
    source, key = Path(config.init_from).expanduser(), jax.random.key(config.seed)
    if not source.exists():
        raise ConfigError(f"config.init_from={config.init_from} is not there; check the path")
    if source.is_dir():
        variables = _from_workdir(source, model, config.skip_head, key)
    else:
        variables = read_weights(model, source, skip_head=config.skip_head, key=key)
    expected = variables["params"]["stem"]["conv"]["kernel"].shape[2]
    if channels != expected:
        raise ConfigError(
            f"config.init_from takes images of {expected} channels, not {channels}; "
            f"set config.channels={expected}"
        )
    return variables


def _from_workdir(
    workdir: Path, model: ResNet, skip_head: bool, key: PRNGKeyArray
) -> dict[str, Any]:
    entries = layout.flatten(open_run(workdir).network.variables)
    fitted = layout.fit(model, layout.OURS, entries, workdir.name, skip_head=skip_head)
    variables = layout.to_variables(fitted)
    return layout.with_new_head(model, variables, key) if skip_head else variables
