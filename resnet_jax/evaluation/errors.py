"""The exception of this room."""

from ..data.errors import one_line


class EvaluationError(ValueError):
    """An evaluation that cannot be carried out as asked.

    The message is one line of less than 300 characters that names what is wrong and what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
