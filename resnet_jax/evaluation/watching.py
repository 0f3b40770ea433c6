"""Looking at what passes through the modules of a network, without a change to the network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn

from ..ops import stock


@contextlib.contextmanager
def watching(
    kinds: type | tuple[type, ...], see: Callable[[Any, Any, Any], None]
) -> Iterator[None]:
    """Calls `see(module, input, output)` after each call of a module of some kinds.

    The output of a normalisation is that before its activation.

    Inputs and outputs are traced arrays where the network is traced; they may be kept as long as
    the trace lasts. A rematerialised block's inside is a trace of its own.

    Args:
      kinds: classes of modules.
      see: what to do.
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
