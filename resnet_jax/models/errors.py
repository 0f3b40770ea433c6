"""The exception of this room, and how its messages are worded."""

import difflib
import reprlib
from collections.abc import Iterable


class ModelError(ValueError):
    """An unknown model, an option it does not take, a wrong value, or images that do not fit.

    The message is one line that names what is wrong and says what to do.
    """


def shown(value: object) -> str:
    """Returns the value as it appears in a message: short, and on one line."""
    return " ".join(reprlib.repr(value).split())


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """Returns "; did you mean 'CHOICE'?" for the nearest choice, "." if none is near."""
    by_lower_case = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(str(value).lower(), by_lower_case, n=1, cutoff=0.6)
    return f"; did you mean {by_lower_case[nearest[0]]!r}?" if nearest else "."
