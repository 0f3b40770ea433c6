"""The exception of this room."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A data set, a split, an augmentation or a batch size that cannot be used.

    The message is one line of less than 300 characters that names what is wrong and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """Returns a message as a line of less than 300 characters.

    Of a longer one the middle is left out: what is wrong stands at the beginning, the remedy at the
    end.
    """
    line = " ".join(message.split())
    return line if len(line) < 300 else f"{line[:147]} ... {line[-147:]}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name nearest to `name`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
