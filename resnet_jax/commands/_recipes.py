"""Recipes from the command line: `--config FILE|NAME`, `--config.KEY=VALUE` and `--import`."""

import ast
import re
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.registry import import_parts
from resnet_jax.training.config import TrainConfig, check_key, resolve
from resnet_jax.training.recipes import find_recipe, importable, run_recipe


def new_flags() -> flags.FlagValues:
    """Returns the flags of a command with a recipe: `--config` and `--import`."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "The recipe.", flag_values=values)
    flags.DEFINE_multi_string(
        "import", [], "A file or module that registers parts.", flag_values=values
    )
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> TrainConfig:
    """Parses a command line into the flags, and resolves the recipe that it names.

    Args:
      values: the flags of `new_flags` and the command's own.
      argv: the arguments.

    Raises:
      ConfigError, UsageError: the command line or the recipe is invalid.
    """
    for module in _values_of("import", argv):
        import_parts(module)
    path = find_recipe(next(iter(_values_of("config", argv)), ""))
    with importable(path):
        recipe = run_recipe(path)
        argv, options = _take_options(argv, recipe)
        rest = _parsed(values, _with_path(argv, path))
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; options begin with --")
    config: Any = values["config"].value
    for name, option, value in options:
        with config.unlocked():
            config[name][option] = value
    return resolve(config, recipe)


def _take_options(
    argv: list[str], recipe: ConfigDict
) -> tuple[list[str], list[tuple[str, str, Any]]]:
    """Splits off options that the recipe lacks from the command line; checks all keys.

    An example is `--config.optimizer_options.b1=0.8`: only the optimizer knows its options.
    """
    rest, options = [], []
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", argument)
        name, _, option = match[1].partition(".") if match else ("", "", "")
        if match:
            check_key(match[1], prefix="--config.")
        if not option or option in recipe[name]:
            rest.append(argument)
        elif match and match[2] is None:
            raise UsageError(f"{argument} has no value; write {argument}=VALUE")
        elif match:
            options.append((name, option, _value(match[2])))
    return rest, options


def _value(text: str) -> Any:
    """Converts a text to a number, boolean or tuple; returns any other text unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _values_of(flag: str, argv: list[str]) -> list[str]:
    """Returns the values of a flag before parsing."""
    values = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):
        if match := re.fullmatch(rf"--?{flag}(?:=(.*))?", argument):
            values.append(following if match[1] is None else match[1])
    return values


def _with_path(argv: list[str], path: str) -> list[str]:
    """Returns the command line with the recipe's name replaced by its path."""
    result, is_value = [], False
    for argument in argv:
        if is_value or re.match(r"--?config=", argument):
            argument = path if is_value else f"--config={path}"
        is_value = bool(re.fullmatch(r"--?config", argument))
        result.append(argument)
    return result


def _parsed(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses the flags; returns the remaining arguments."""
    before = sys.argv
    sys.argv = ["train.py", *argv]  # ml_collections looks for `--config.KEY=VALUE` here.
    try:
        return list(values(sys.argv)[1:])
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error
    finally:
        sys.argv = before
