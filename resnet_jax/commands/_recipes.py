"""Recipes from the command line: `--config FILE|NAME`, `--config.KEY=VALUE` and `--import`."""

import ast
import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from resnet_jax.errors import ConfigError, UsageError
from resnet_jax.registry import import_parts
from resnet_jax.training.config import NULLABLE_KEYS, TrainConfig, check_key, resolve
from resnet_jax.training.recipes import find_recipe, importable, run_recipe

_OPTIONS = ("model_options", "optimizer_options")


def new_flags() -> flags.FlagValues:
    """Returns the flags of a command with a recipe; `parse` adds `--config` to them."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "import", [], "A file or module that registers parts.", flag_values=values
    )
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> tuple[TrainConfig, TrainConfig | None]:
    """Parses a command line into the flags, and resolves the recipe that it names.

    Args:
      values: the flags of `new_flags` and the command's own.
      argv: the arguments.

    Returns:
      The configuration, and the recipe's own without the command line's changes; None for a
      recipe that is not complete without them.

    Raises:
      ConfigError, UsageError: the command line or the recipe is invalid.
    """
    for module in _values_of("import", argv):
        import_parts(module)
    path = find_recipe(next(iter(_values_of("config", argv)), ""))
    with importable(path):
        recipe, config = run_recipe(path), run_recipe(path)
    argv, options = _take_options(_without_config(argv), recipe)
    rest = _parsed(values, argv, config)
    if rest:
        raise ConfigError(f"unexpected argument {rest[0]!r}; options begin with --")
    with config.unlocked(), config.ignore_type():
        for (name, option), value in options.items():
            if option:
                config[name][option] = value
            else:
                config[name] = value
    resolved = resolve(config, recipe)
    try:
        return resolved, resolve(recipe)
    except ConfigError:
        return resolved, None


def _take_options(
    argv: list[str], recipe: ConfigDict
) -> tuple[list[str], dict[tuple[str, str], Any]]:
    """Splits off what flags cannot set from the command line; checks all keys.

    That is None, for a key that may be None, and options that the recipe lacks: an example is
    `--config.optimizer_options.b1=0.8`, because only the optimizer knows its options.

    Returns:
      The other arguments, and the values by key and option; the option of a whole key is "".
    """
    rest: list[str] = []
    options: dict[tuple[str, str], Any] = {}
    for argument in _joined(argv):
        match = re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", argument, re.DOTALL)
        if not match:
            rest.append(argument)
            continue
        check_key(match[1], prefix="--config.")
        name, _, option = match[1].partition(".")
        is_option = bool(option) and name in _OPTIONS
        if match[2] == "None" and (is_option or (not option and name in NULLABLE_KEYS)):
            options[name, option] = None
        elif not is_option or option in recipe[name]:
            options.pop((name, option), None)
            rest.append(argument)
        elif match[2] is None:
            raise UsageError(f"{argument} has no value; write {argument}=VALUE")
        else:
            options[name, option] = _value(match[2])
    return rest, options


def _joined(argv: list[str]) -> list[str]:
    """Returns the arguments with `--config.KEY None` as `--config.KEY=None`."""
    joined: list[str] = []
    for argument in argv:
        if argument == "None" and joined and re.fullmatch(r"--?config\.[^=]+", joined[-1]):
            joined[-1] += "=None"
        else:
            joined.append(argument)
    return joined


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


def _without_config(argv: list[str]) -> list[str]:
    """Returns the command line without the recipe's name."""
    rest, is_value = [], False
    for argument in argv:
        if not is_value and not re.match(r"--?config(=|$)", argument):
            rest.append(argument)
        is_value = not is_value and bool(re.fullmatch(r"--?config", argument))
    return rest


def _parsed(values: flags.FlagValues, argv: list[str], config: ConfigDict) -> list[str]:
    """Parses the flags, those of `config` into it; returns the remaining arguments."""
    command = ["train.py", *argv]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
        return list(values(command)[1:])
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split())) from error
