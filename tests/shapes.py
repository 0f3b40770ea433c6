"""The check of annotations under which the tests import the package: shapes, dtypes and types."""

import functools
import io
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

# An int passes for a float, as type checkers have it, and NumPy's integers for an int. Beartype's
# TextIO has a name, unlike what pytest puts in place of the standard streams.
_OVERRIDES = FrozenDict({int: int | np.integer, TextIO: io.TextIOBase})
_CONF = BeartypeConf(is_pep484_tower=True, hint_overrides=_OVERRIDES)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments and the result of a function; of a dataclass, its fields."""
    check = beartype(conf=_CONF)(function)
    if function.__name__ != "__init__":
        return check

    @functools.wraps(function)
    def check_fields(self: Any, *args: Any, **kwargs: Any) -> Any:
        from flax import struct  # Not at the top: conftest.py must set JAX up first.

        # JAX makes these of anything in place of arrays, such as shapes or shardings.
        if not isinstance(self, struct.PyTreeNode):
            check(self, *args, **kwargs)

    return check_fields
