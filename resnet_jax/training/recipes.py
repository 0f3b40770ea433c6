"""Recipes: files that return a configuration, by path or name, and the `config.json` of runs."""

import dataclasses
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError, did_you_mean, one_line
from resnet_jax.runtime.files import expanded
from resnet_jax.training.config import checked, default_config
from resnet_jax.training.config_file import read_config_file

_PACKAGE = Path(__file__).parents[1]


def load_recipe(recipe: str) -> ConfigDict:
    """Returns the configuration of a recipe.

    Args:
      recipe: `FILE.py[:VARIANT]`, the name of a shipped one, such as `fashion_mnist_demo`, or the
        `config.json` of a run.

    Raises:
      ConfigError: there is no such recipe, or its file fails.
    """
    path = find_recipe(recipe)
    with importable(path):
        return run_recipe(path)


def find_recipe(config: str) -> str:
    """Returns the path of a recipe: a file, or a shipped recipe by name.

    Args:
      config: `FILE.py[:VARIANT]`, `NAME[:VARIANT]` or `RUN/config.json`.

    Raises:
      ConfigError: there is no such recipe.
    """
    if not config:
        raise ConfigError(
            "--config is missing; give a file such as configs/cifar10_resnet20.py, or a recipe's "
            "name such as cifar10_resnet20"
        )
    config = expanded(config)
    file, colon, variant = config.partition(":")
    if file.endswith(".py") or config.endswith(".json") or Path(file).exists():
        return config
    shipped = shipped_recipes()
    if file in shipped:
        return f"{shipped[file]}{colon}{variant}"
    raise ConfigError(
        f"there is no configuration file {file!r}, and no recipe of this name"
        f"{did_you_mean(file, shipped)}; choose from {', '.join(shipped)}"
    )


def shipped_recipes() -> dict[str, Path]:
    """Returns the paths of the recipes shipped with the package, by name."""
    folders = [_PACKAGE / "configs", _PACKAGE.parent / "configs"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {path.stem: path for path in sorted(folder.glob("[a-z]*.py"))}


def run_recipe(path: str) -> ConfigDict:
    """Returns the result of a recipe's file, before the command line's changes."""
    if path.endswith(".json"):
        return _of_run(Path(path))
    file, *variant = path.split(":", 1)
    try:
        recipe = runpy.run_path(file)["get_config"](*variant)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {error.filename!r}") from error
    except (Exception, SystemExit) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ConfigError(f"the configuration file {path!r} fails with {reason}") from error
    if not isinstance(recipe, ConfigDict):
        raise ConfigError(f"get_config() of {file!r} must return a ConfigDict; see configs/")
    return recipe


def _of_run(path: Path) -> ConfigDict:
    """Returns the configuration of a run, with absolute paths, to run it again."""
    saved = read_config_file(path, "give a recipe, or the config.json of a work directory")
    if saved.parts:
        name, part = next(iter(saved.parts.items()))
        raise ConfigError(
            f"{path} is of a run with {name} {part} handed in; run it again from Python, with the "
            "same parts"
        )
    try:
        values = dataclasses.asdict(checked(saved.located()))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    config = default_config()
    with config.ignore_type():
        for key in ("model_options", "optimizer_options"):
            config[key].update(values.pop(key))
        config.update(values)
    return config


@contextmanager
def importable(path: str) -> Iterator[None]:
    """Lets a recipe in any folder named `configs` import others from there."""
    folder = Path(path.partition(":")[0]).resolve().parent
    added = str(folder.parent) if folder.name == "configs" else None
    if added is None or added in sys.path:
        yield
        return
    sys.path.append(added)
    try:
        yield
    finally:
        sys.path.remove(added)
