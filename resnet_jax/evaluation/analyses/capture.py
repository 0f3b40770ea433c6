"""Captures the inputs and outputs of a network's modules without changing the network."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from resnet_jax.ops import stock

ModulePath = tuple[str, ...]
"""The path of a module in a network, such as `("stage1", "block1", "bn2")`."""


@contextlib.contextmanager
def capturing(
    kinds: type | tuple[type, ...], see: Callable[[Any, Any, Any], None]
) -> Iterator[None]:
    """Calls `see(module, input, output)` after each call of a module of some classes.

    The output of a normalisation excludes its activation. Within a trace, inputs and outputs are
    tracers that must not outlive it. A rematerialised block has its own trace.

    Args:
      kinds: classes of modules.
      see: the function to call.
    """

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if not isinstance(context.module, kinds) or context.method_name != "__call__":
            return call(*args, **kwargs)
        relu = kwargs.pop("relu", False)
        out = call(*args, **kwargs)
        see(context.module, args[0], out)
        return stock.rectified(out) if relu else out

    with nn.intercept_methods(intercept):
        yield


@dataclasses.dataclass(eq=False)
class Unit:
    """A module that maps one array to one array: a link in the chain of a network.

    Attributes:
      path: the module's path in the network; empty for the network itself.
      module: an unnamed copy, so that equal units share compiled programs.
      kwargs: further arguments of its call.
    """

    path: ModulePath
    module: nn.Module
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, variables: Any, x: Any) -> Any:
        """Applies the module to its own variables and an input."""
        return self.module.apply(variables, x, **dict(self.kwargs))


@dataclasses.dataclass(eq=False)
class _Call:
    """A module's call in a trace, and the calls within it."""

    module: nn.Module
    path: ModulePath
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    children: list[_Call] = dataclasses.field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        return len(self.args) == 1 and not self.kwargs

    def unit(self) -> Unit:
        kwargs = tuple(self.kwargs.items())
        return Unit(self.path, self.module.clone(parent=None, name=None), kwargs)


def without_remat(model: nn.Module) -> nn.Module:
    """Returns the model without rematerialisation, whose traces end with each block."""
    return model.clone(remat=False) if getattr(model, "remat", False) else model


def chain(model: nn.Module, variables: Any, image_shape: tuple[int, ...]) -> list[Unit]:
    """Returns the units that an image passes sequentially, up to the last batch statistics.

    They are as small as the network's structure allows: a module is split only if its parts form a
    chain, in which each part takes exactly the output of the one before. A network that is no chain
    is one unit. So no operation between units is ever guessed.

    Args:
      model: a network; it is called with `train=False`.
      variables: the network's variables.
      image_shape: height, width and channels of an image.
    """
    root = _Call(model, (), (), {"train": False})
    open_calls = [root]

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name != "__call__" or not context.module.path:
            return call(*args, **kwargs)
        own = _Call(context.module, context.module.path, args, dict(kwargs))
        open_calls[-1].children.append(own)
        open_calls.append(own)
        own.output = call(*args, **kwargs)
        open_calls.pop()
        return own.output

    def trace(variables: Any, images: Any) -> Any:
        root.args = (images,)
        with nn.intercept_methods(intercept):
            root.output = model.apply(variables, images, train=False)
        return root.output

    jax.eval_shape(trace, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return [call.unit() for call in _split(root, variables["batch_stats"], is_last=True)]


def _split(call: _Call, batch_stats: Any, is_last: bool) -> list[_Call]:
    """Splits a call into the chain of calls within it, if they form one.

    The output of the last call is not needed.
    """
    links, x = [], call.args[0]
    for child in call.children:
        if child.args and child.args[0] is x and child.is_plain:
            links.append(child)
            x = child.output
    while is_last and links and not _has_statistics(links[-1], batch_stats):
        links.pop()
    others = [child for child in call.children if child not in links]
    is_chain = links and not any(_has_statistics(child, batch_stats) for child in others)
    if not is_chain or not (is_last or x is call.output):
        return [call]
    parts = []
    for link in links:
        parts += _split(link, batch_stats, is_last and link is links[-1])
    return parts


def _has_statistics(call: _Call, batch_stats: Any) -> bool:
    for name in call.path:
        if name not in batch_stats:
            return False
        batch_stats = batch_stats[name]
    return True
