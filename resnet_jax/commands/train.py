"""Train a network, or resume from the latest checkpoint of the work directory."""

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

from absl import flags

from resnet_jax.commands import _recipes
from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.runtime.console import outlive_console
from resnet_jax.runtime.devices import keep_freed_memory, start_hosts
from resnet_jax.runtime.files import local_path
from resnet_jax.training.config import TrainConfig

USAGE = """\
usage: python -m resnet_jax train --config FILE|NAME|RUN --workdir DIR
           [--config.KEY=VALUE ...] [--import FILE|MODULE ...]

Trains a network, or resumes from the latest checkpoint of the work directory.

  --config FILE.py[:VARIANT]|NAME   the recipe: a file, or the name of a shipped one
  --config DIR/config.json          runs the run of a work directory again, in another one
  --workdir DIR                     folder of the run's records and checkpoints
  --config.KEY=VALUE                changes a key of the recipe, see below
  --import FILE.py|MODULE           registers custom parts, see docs/extending.md
  --distributed                     connects to the other hosts' processes; SLURM, Open MPI or
                                    Kubernetes provide the values
  --coordinator HOST:PORT, --num_processes N, --process_id I
                                    provide the values by hand
"""


def main(argv: list[str]) -> None:
    """Runs `python -m resnet_jax train`, also as `python train.py`.

    Args:
      argv: the arguments after `train`.

    Raises:
      ConfigError, DataError, ModelError, UsageError: the run cannot be made.
    """
    if {"-h", "--help", "--helpfull", "--helpshort"} & set(argv):
        print(f"{USAGE}\nKeys of the configuration:\n\n{describe_keys()}")
        return
    outlive_console()
    keep_freed_memory()
    is_one_of_several = _join_hosts(argv)

    # Not at the top: it takes seconds, and usage errors appear at once.
    if is_one_of_several:
        from resnet_jax.runtime.agreement import on_all_hosts

        config, recipe, workdir = on_all_hosts(lambda: _parse(argv), lambda _: {})
    else:
        config, recipe, workdir = _parse(argv)
    import jax

    from resnet_jax.training.loop import train

    records = train(config, workdir, recipe=recipe)
    if jax.process_index() == 0:
        print(records)
        if (curves := workdir / "curves.png").exists():
            print(f"curves: {curves}")


def describe_keys() -> str:
    """Returns a text of all configuration keys with their defaults and meanings."""
    paragraphs = []
    described: dict[str, Any] = vars(TrainConfig)["__pydantic_fields__"]
    for field in dataclasses.fields(TrainConfig):
        default = {} if field.default is dataclasses.MISSING else field.default
        description = described[field.name].description or ""
        text = textwrap.fill(
            " ".join(description.split()),
            width=88,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
        paragraphs.append(f"  --config.{field.name}={default}\n{text}")
    return "\n".join(paragraphs)


def _parse(argv: list[str]) -> tuple[TrainConfig, TrainConfig | None, Path]:
    """Returns the configuration, the recipe's own (see `_recipes.parse`) and the work directory."""
    values = _recipes.new_flags()
    _define_flags(values)
    config, recipe = _recipes.parse(values, argv)
    if values["workdir"].value is None:
        raise ConfigError("--workdir is missing; name a folder for the run's records")
    return config, recipe, local_path(values["workdir"].value)


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "Folder of the run's files.", flag_values=values)
    flags.DEFINE_bool("distributed", False, "Connect to other processes.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "Number of processes.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Index of this process.", flag_values=values)


def _join_hosts(argv: list[str]) -> bool:
    """Connects to the other hosts' processes if the command line requests it.

    Before anything else, so that they learn of an error in this host's command line.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt()
    _define_flags(values)
    try:
        values(["train.py", *argv], known_only=True)
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error
    names = ("coordinator", "num_processes", "process_id")
    coordinator, count, index = (values[name].value for name in names)
    given = [f"--{name}" for name in names if values[name].value is not None]
    missing = [f"--{name}" for name in names if f"--{name}" not in given]
    distributed = values["distributed"].value
    if given and not distributed:
        raise ConfigError(f"{given[0]} needs --distributed; add it")
    if given and missing:
        every = ", ".join(f"--{name}" for name in names)
        raise ConfigError(f"{given[0]} is given but {missing[0]} is missing; give all of {every}")
    if index is not None and count is not None and not 0 <= index < count:
        raise ConfigError(f"--process_id={index} is not one of {count} processes; count from 0")
    if distributed:
        start_hosts(coordinator, count, index)
    return bool(distributed)
