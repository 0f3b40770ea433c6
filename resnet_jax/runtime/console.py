"""Standard output and error of a run that outlives its terminal and the readers of its pipes."""

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast

READER_GONE = 128 + 13
"""Exit status of a command whose output nobody reads any more, as after SIGPIPE in a shell."""

_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF, errno.ECONNRESET)


class Console:
    r"""A text stream that drops what it cannot write, so that no message ends a run.

    The reader of a pipe may be gone (`| head`), the terminal closed, the disk of the log full.
    Characters that the stream cannot encode are written as escapes (`\u732b`).

    Attributes:
      wrapped: the stream.
      is_output: whether the text is what a command is for. Then only a reader that is gone is no
        error.
      ends_process: whether a reader that is gone ends the process, quietly, with `READER_GONE`.
    """

    def __init__(
        self, stream: "TextIO | Console | None", is_output: bool = False, ends_process: bool = False
    ) -> None:
        """Wraps a stream.

        Args:
          stream: the stream; None, as of a closed `sys.stdout`, for none.
          is_output: see the attribute.
          ends_process: see the attribute.
        """
        self.wrapped: Any = _Nowhere() if stream is None else stream
        self.is_output = is_output
        self.ends_process = ends_process

    def write(self, text: str) -> int:
        """Writes a text as far as possible; returns its length."""
        try:
            try:
                self.wrapped.write(text)
            except UnicodeEncodeError as error:
                escaped = text.encode(error.encoding, "backslashreplace")
                self.wrapped.write(escaped.decode(error.encoding))
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered, as far as possible."""
        try:
            self.wrapped.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def isatty(self) -> bool:
        """Whether the stream is an open terminal."""
        try:
            return bool(self.wrapped.isatty())
        except ValueError:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def _give_up(self, error: OSError | ValueError) -> None:
        if isinstance(error, BlockingIOError):
            return  # A terminal that is too slow for now; the rest stays in the buffer.
        # Else what is buffered would fail again when Python flushes it at exit.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.wrapped.fileno())
            os.close(null)
        is_gone = not isinstance(error, OSError) or error.errno in _GONE
        if sys.is_finalizing() or (is_gone and not self.ends_process):
            return
        if is_gone:
            sys.exit(READER_GONE)
        if self.is_output:
            raise error


class _Nowhere(io.TextIOBase):
    """A stream whose text goes nowhere."""

    def write(self, text: str, /) -> int:
        return len(text)


def unfailing(stream: TextIO | Console | None) -> Console:
    """Returns a stream, wrapped so that no failure to write to it is an error."""
    if isinstance(stream, Console) and not stream.is_output:
        return stream
    return Console(stream)


def guard_standard_streams() -> None:
    """Makes this process's standard output and error `Console`s.

    A closed one gets the null device, because the next file to be opened, such as a checkpoint's,
    would otherwise take its place and receive what libraries print.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It takes the lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stderr = cast(TextIO, unfailing(sys.stderr))
    if not isinstance(sys.stdout, Console):
        output = Console(sys.stdout, is_output=True, ends_process=True)
        sys.stdout = cast(TextIO, output)


def outlive_console() -> None:
    """Lets this process go on when its guarded standard output is gone."""
    if isinstance(sys.stdout, Console):
        sys.stdout.ends_process = False
