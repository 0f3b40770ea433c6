"""Recipes: files that return a configuration, found by their path or their name."""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from resnet_jax.errors import ConfigError, did_you_mean, one_line

_PACKAGE = Path(__file__).parents[1]


def load_recipe(recipe: str) -> ConfigDict:
    """Returns the configuration of a recipe.

    Args:
      recipe: `FILE.py[:VARIANT]`, or the name of a shipped one, such as `fashion_mnist_demo`.

    Raises:
      ConfigError: there is no such recipe, or its file fails.
    """
    path = find_recipe(recipe)
    with importable(path):
        return run_recipe(path)


def find_recipe(config: str) -> str:
    """Returns the path of a recipe: a file, or a shipped recipe by name.

    Args:
      config: `FILE.py[:VARIANT]` or `NAME[:VARIANT]`.

    Raises:
      ConfigError: there is no such recipe.
    """
    if not config:
        raise ConfigError(
            "--config is missing; give a file such as configs/cifar10_resnet20.py, or a recipe's "
            "name such as cifar10_resnet20"
        )
    file, colon, variant = config.partition(":")
    if file.endswith(".py") or Path(file).exists():
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
