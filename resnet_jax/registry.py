"""Registries of the names in a recipe: each name maps to a function that makes a part of a run."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from resnet_jax.errors import ConfigError, InputError, UsageError, did_you_mean, one_line, shown

Maker = TypeVar("Maker", bound=Callable[..., Any])


class Registry(Mapping[str, Callable[..., Any]]):
    """A mapping from names of one kind, such as models, to functions that make the named parts.

    It iterates in the order of registration.

    Args:
      kind: the kind, for messages: "model", "loss".
      error: the error to raise for an unknown name.
      listing: pointer to a list of the names, if they are too many for a message.
    """

    def __init__(self, kind: str, error: type[InputError] = ConfigError, listing: str = "") -> None:
        self.kind = kind
        self._error = error
        self._listing = listing
        self._makers: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[Maker], Maker]:
        """Returns a decorator that registers a function under a name.

        The same function may be registered again, for example when its file is loaded twice.

        Raises:
          InputError: another function has the name.
        """

        def decorate(maker: Maker) -> Maker:
            known = self._makers.get(name)
            if known is not None and _origin(known) != _origin(maker):
                raise self._error(
                    f"the {self.kind} {name!r} is already registered, by {_origin(known)}; choose "
                    "another name"
                )
            self._makers[name] = maker
            return maker

        return decorate

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self:
            listing = self._listing or f"choose from {', '.join(self)}"
            raise self._error(
                f"unknown {self.kind} {shown(name)}{did_you_mean(name, self)}; {listing}; "
                "a custom one needs --import FILE"
            )
        return self._makers[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def import_parts(module: str) -> None:
    """Runs a file or module that registers parts.

    Loader processes import a file by its name, so its folder is added to the import path.

    Args:
      module: the path of a file that ends in `.py`, or the name of a module.

    Raises:
      UsageError: it does not exist, or it fails.
    """
    path = Path(os.path.expanduser(module))
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UsageError(f"there is no file {module} to import; check --import")
    try:
        if not is_file:
            importlib.import_module(module)
            return
        folder, name = str(path.resolve().parent), path.stem
        if folder not in sys.path:
            sys.path.append(folder)  # At the end: its other files must not hide modules.
        found = importlib.util.find_spec(name)
        if found is None or Path(found.origin or "").resolve() != path.resolve():
            raise UsageError(f"{module} has the name of another module, {name}; rename the file")
        importlib.import_module(name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 150)
        raise UsageError(f"--import {module} fails with {reason}; fix it") from error


def accepted(maker: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the options that a function accepts by name."""
    parameters = inspect.signature(maker).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(options)
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in options.items() if name in names}


def _origin(maker: Callable[..., Any]) -> str:
    """Returns the name and file of a function's definition, stable if the file is loaded twice."""
    function = inspect.unwrap(getattr(maker, "func", maker))
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        file = None
    return f"{getattr(function, '__qualname__', repr(function))} of {file}"
