"""The exception of this room."""

from collections.abc import Sequence

# What a line should not exceed, and how many entries it names in full all the same.
_LINE_LENGTH = 300
_NUM_LISTED = 12


class WeightsError(ValueError):
    """Weights that cannot be read, written or fitted to a model.

    The message is one line that names what is wrong and what to do. If weights do not fit, it sums
    up a long list of entries; the whole list is in the attributes and in the traceback.

    Attributes:
      missing: names of the entries that the model needs and the weights lack.
      unexpected: names of the entries that the model has no place for.
      misshaped: entries of another shape, as "NAME [SHAPE], not [SHAPE]".
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def mismatch(
    source: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    misshaped: Sequence[str],
    hint: str = "",
) -> WeightsError:
    """Returns the error that lists all differences between weights and a model.

    Args:
      source: what the weights are called in the message.
      missing: as the attribute.
      unexpected: as the attribute.
      misshaped: as the attribute.
      hint: what to do, the end of the sentence.
    """
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    kinds = {kind: sorted(entries) for kind, entries in kinds.items() if entries}
    num_entries = sum(len(entries) for entries in kinds.values())

    def message(limit: int) -> str:
        parts = (f"{len(kinds[kind])} {kind} ({_listed(kinds[kind], limit)})" for kind in kinds)
        return f"{source} cannot be fitted to the model: {'; '.join(parts)}{hint}"

    limits = [num_entries, 3, 2, 1]
    fitting = [limit for limit in limits if len(message(limit)) < _LINE_LENGTH]
    limit = num_entries if num_entries <= _NUM_LISTED else [*fitting, 1][0]
    error = WeightsError(message(limit))
    error.missing = tuple(sorted(missing))
    error.unexpected = tuple(sorted(unexpected))
    error.misshaped = tuple(sorted(misshaped))
    if limit < num_entries:
        for kind, entries in kinds.items():
            error.add_note("\n  ".join([f"{kind}:", *entries]))
    return error


def _listed(entries: Sequence[str], limit: int) -> str:
    rest = ", ..." if len(entries) > limit else ""
    return ", ".join(entries[:limit]) + rest
