"""The exception of this room."""


class EvaluationError(ValueError):
    """An evaluation that cannot be carried out as asked.

    The message is one line of less than 300 characters that names what is wrong and what to do.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__(line if len(line) < 300 else line[:296] + "...")
