"""Trains a network, or goes on where the work directory's last checkpoint stands.

Usage:

    python train.py --config configs/NAME.py --workdir DIR [--config.KEY=VALUE ...]
"""

import os
import re
import runpy
import sys

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from resnet_jax.commands import door
from resnet_jax.parallel import keep_freed_memory, start_hosts
from resnet_jax.training import ConfigError, resolve
from resnet_jax.training.config import check_key

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run's records and checkpoints go.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts' processes, as SLURM, Open MPI or Kubernetes say."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if none says so.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes take part.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")


def load_recipe(argv: list[str]) -> ConfigDict:
    """Returns what the file named by --config returns, before the command line changes it."""
    path = ""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            path = following if match[1] is None else match[1]
    if not path:
        raise ConfigError("--config is missing; give a file such as configs/cifar10_resnet20.py")
    file, *variant = path.split(":", 1)
    try:
        recipe = runpy.run_path(file)["get_config"](*variant)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {error.filename!r}") from error
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"the configuration file {path!r} fails with {reason}") from error
    if not isinstance(recipe, ConfigDict):
        raise ConfigError(f"get_config() of {file!r} must return a ConfigDict; see configs/")
    return recipe


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; whatever is wrong with it is a `ConfigError`."""
    if not {"-h", "--help", "--helpfull", "--helpshort"} & set(argv):
        load_recipe(argv)
    for argument in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([^=]+)", argument):
            check_key(match[1], prefix="--config.")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(" ".join(str(error).split())) from error


def main(argv: list[str]) -> None:
    """Runs the training that the command line asks for."""
    if len(argv) > 1:
        raise ConfigError(f"unexpected argument {argv[1]!r}; options begin with --")
    recipe = load_recipe(sys.argv)
    if _WORKDIR.value is None:
        raise ConfigError("--workdir is missing; name a directory for the run's records")
    config = resolve(_CONFIG.value, recipe)
    join_hosts()
    # Imported here, for it takes seconds; the flags are checked before.
    from resnet_jax.training.loop import train
    from resnet_jax.training.records import format_table

    records = train(config, _WORKDIR.value)
    if jax.process_index() == 0:
        print(format_table(records))
        print(f"curves: {os.path.join(_WORKDIR.value, 'curves.png')}")


def join_hosts() -> None:
    """Joins the other hosts' processes, if the command line says so."""
    coordinator, count, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    flag = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    given = [name for name, value in flag.items() if value is not None]
    missing = [name for name in flag if name not in given]
    if given and not _DISTRIBUTED.value:
        raise ConfigError(f"{given[0]} goes with --distributed; add it")
    if given and missing:
        raise ConfigError(
            f"{missing[0]} is missing beside {given[0]}; give all of {', '.join(flag)}"
        )
    if index is not None and count is not None and not 0 <= index < count:
        raise ConfigError(f"--process_id={index} is not one of {count} processes; count from 0")
    if _DISTRIBUTED.value:
        start_hosts(coordinator, count, index)


if __name__ == "__main__":
    keep_freed_memory()
    door.run(lambda: app.run(main, flags_parser=parse_flags))
