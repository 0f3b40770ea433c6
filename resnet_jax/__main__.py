"""`python -m resnet_jax COMMAND`: one command per file in `resnet_jax/commands`."""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from resnet_jax import commands
from resnet_jax.commands import _cli
from resnet_jax.errors import UsageError, did_you_mean


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first argument names, and exits as `_cli.run` does.

    Args:
      argv: the arguments; by default those of the process.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    _cli.run(lambda: _command(name)(rest))


def _command(name: str) -> Callable[[list[str]], int | None]:
    if name in ("-h", "--help"):
        return lambda _: print(_help())
    if name == "--version":
        return lambda _: print(sys.modules["resnet_jax"].__version__)
    if name not in _commands():
        hint = did_you_mean(name, _commands())
        raise UsageError(f"unknown command {name!r}{hint}; choose from {', '.join(_commands())}")
    return importlib.import_module(f".commands.{name}", __package__).main


def _commands() -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules(commands.__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def _help() -> str:
    lines = ["usage: python -m resnet_jax COMMAND [ARGUMENTS]", ""]
    for name in _commands():
        # Read, not imported: listing commands must not wait for the commands' imports.
        source = Path(commands.__path__[0], f"{name}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {name:10} {summary}")
    return "\n".join([*lines, "", "For details: python -m resnet_jax COMMAND --help"])


if __name__ == "__main__":
    main()
