"""Looking at what passes through the modules of a network, without a change to the network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn


@contextlib.contextmanager
def watching(
    kinds: type | tuple[type, ...], see: Callable[[Any, Any, Any], None]
) -> Iterator[None]:
    """Calls `see(module, input, output)` after each call of a module of some kinds.

    Inputs and outputs are traced arrays where the network is traced; they may be kept as long as
    the trace lasts. A rematerialised block's inside is a trace of its own.

    Args:
      kinds: classes of modules.
      see: what to do.
    """

    def intercept(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        out = call(*args, **kwargs)
        if isinstance(context.module, kinds) and context.method_name == "__call__":
            see(context.module, args[0], out)
        return out

    with nn.intercept_methods(intercept):
        yield
