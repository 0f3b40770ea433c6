"""The way in and out of every command: how its errors end, what its libraries may say.

Imports nothing heavy, so that help and bad usage answer at once.
"""

import argparse
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

_LINE_LENGTH = 290


class UsageError(ValueError):
    """A command line that cannot be carried out: what is wrong, and what to do."""


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, as those of `run`, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raises `UsageError` with argparse's message and the way to the help."""
        raise UsageError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Calls a command, turns what it raises into an exit status, and exits.

    Bad input, which is any `ValueError` of a class of this package (`ModelError`, `DataError`,
    `ConfigError`, `UsageError`), ends as one line on standard error and status 2; a failure of the
    run (an `OSError` such as a full disk, memory, a device, training that diverged) as one line and
    status 1; an interrupt as status 130. Any other exception is a bug and keeps its traceback. With
    the environment variable `RESNET_JAX_DEBUG` set, every traceback is shown, and so are the
    libraries' own logs and warnings, which are silenced otherwise.

    Args:
      main: the command; what it returns is the exit status, None standing for 0.
    """
    debug = bool(os.environ.get("RESNET_JAX_DEBUG"))
    if not debug:
        _silence_libraries()
    try:
        sys.exit(main())
    except KeyboardInterrupt as error:
        sys.exit(_end(error, "interrupted", INTERRUPTED, debug))
    except Exception as error:
        if _is_bad_input(error):
            sys.exit(_end(error, f"error: {error}", BAD_INPUT, debug))
        if _is_failure(error):
            hint = "" if debug else " (RESNET_JAX_DEBUG=1 shows the traceback)"
            status = _end(error, f"failed: {_describe(error)}{hint}", FAILED, debug)
            if _has_other_hosts() or _has_threads():
                _leave()
            sys.exit(status)
        if _has_other_hosts():
            traceback.print_exception(error)
            _leave()
        raise


def _has_other_hosts() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _has_threads() -> bool:
    """Whether threads are left that Python would wait for: those of a save that has failed do."""
    own = threading.current_thread()
    return any(thread is not own and not thread.daemon for thread in threading.enumerate())


def _leave() -> NoReturn:
    """Ends this process at once; leaving in order would wait for other hosts or threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


def _end(error: BaseException, message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = f"resnet_jax: {' '.join(message.split())}"
    if len(line) > _LINE_LENGTH:
        # What is wrong stands at the beginning, the remedy at the end.
        line = f"{line[: _LINE_LENGTH // 2]} ... {line[5 - _LINE_LENGTH // 2 :]}"
    print(line, file=sys.stderr)
    return status


def _is_bad_input(error: Exception) -> bool:
    # By the class's module, so that no room needs to be imported to know its errors.
    return isinstance(error, ValueError) and _package(type(error)) == _package(UsageError)


def _is_failure(error: Exception) -> bool:
    if isinstance(error, OSError | MemoryError | FloatingPointError) or _system_error(error):
        return True
    import jax  # Not at the top: a command that fails on its usage does not need it.

    return isinstance(error, jax.errors.JaxRuntimeError)


def _system_error(error: Exception) -> OSError | None:
    """The system's error that tensorstore, below Orbax, reports in the words of another one."""
    code = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    path = re.search(r'local file "([^"]*)"', str(error))
    if code is None:
        return None
    return OSError(int(code[1]), os.strerror(int(code[1])), path[1] if path else None)


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _describe(error: Exception) -> str:
    error = _system_error(error) or error
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _silence_libraries() -> None:
    # Read by the C++ logging of XLA and gRPC when they first log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # absl's logger has a class of its own, which must be registered before the logger is made.
    from absl import logging as absl_logging

    # Orbax logs as errors, with their tracebacks, the exceptions that it raises as well.
    absl_logging.set_verbosity(absl_logging.FATAL)
    sys.unraisablehook = _show_unraisable
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # Where a file of a checkpoint could not be written, tensorstore's threads report the others to
    # an event loop that is gone, once for each.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
