"""`python -m resnet_jax COMMAND`: one command a file in `resnet_jax/commands`."""

import ast
import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from . import commands
from .commands import door
from .models.errors import did_you_mean


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command that the first argument names, and exits as `door.run` says.

    Args:
      argv: the arguments, those of the process by default.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    door.run(lambda: _command(name)(rest))


def _command(name: str) -> Callable[[list[str]], int | None]:
    if name in ("-h", "--help"):
        return lambda _: print(_help())
    if name == "--version":
        return lambda _: print(importlib.metadata.version("resnet-jax"))
    if name not in _commands():
        hint = did_you_mean(name, _commands())
        raise door.UsageError(f"unknown command {name!r}{hint} There are: {', '.join(_commands())}")
    return importlib.import_module(f".commands.{name}", __package__).main


def _commands() -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules(commands.__path__))
    return sorted(name for name in modules if name != "door" and not name.startswith("_"))


def _help() -> str:
    lines = ["usage: python -m resnet_jax COMMAND [ARGUMENTS]", ""]
    for name in _commands():
        # Read, not imported: a list of commands should not wait for what the commands need.
        source = Path(commands.__path__[0], f"{name}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        lines.append(f"  {name:10} {summary}")
    return "\n".join([*lines, "", "python -m resnet_jax COMMAND --help says more of each."])


if __name__ == "__main__":
    main()
