"""The entry and exit of each command: arguments, errors, exit status, libraries' logs.

It imports nothing heavy, so that help and usage errors appear at once.
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
from typing import Any, NoReturn

from resnet_jax.errors import InputError, UsageError, missing_package, one_line
from resnet_jax.registry import import_parts
from resnet_jax.runtime.console import guard_standard_streams

BAD_INPUT = 2
FAILED = 1
INTERRUPTED = 130

_MAX_LINE = 290


class _Import(argparse.Action):
    """Runs the file or module while parsing."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        import_parts(value)


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line without the usage, as those of `run`.

    Each command takes `--import`, which registers parts first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument(
            "--import",
            action=_Import,
            metavar="FILE|MODULE",
            help="registers custom models, data sets and other parts, see docs/extending.md",
        )

    def error(self, message: str) -> NoReturn:
        """Raises a `UsageError` with argparse's message and a pointer to the help."""
        raise UsageError(f"{message}; see {self.prog} --help")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Calls a command, converts its errors into an exit status, and exits.

    Bad input (an `InputError`) and a missing package (with the extra that installs it) end with one
    line on standard error and status 2. A failure of the run (an `OSError` such as a full disk, a
    lack of memory, a device, diverged training) ends with one line and status 1, an interrupt with
    status 130. Any other exception is a bug and keeps its traceback. The environment variable
    `RESNET_JAX_DEBUG` shows all tracebacks and the libraries' logs and warnings, which are silenced
    otherwise. If nobody reads the output any more (`| head`), the command ends quietly with status
    `READER_GONE`, unless it calls `outlive_console` because it does more than print.

    Args:
      main: the command; it returns the exit status, or None for 0.
    """
    guard_standard_streams()
    debug = bool(os.environ.get("RESNET_JAX_DEBUG"))
    if not debug:
        _silence_libraries()
    try:
        status = main()
        sys.stdout.flush()
        sys.exit(status)
    except SystemExit:
        sys.stdout.flush()  # Of argparse's help, too.
        raise
    except KeyboardInterrupt as error:
        sys.exit(_end(error, "interrupted", INTERRUPTED, debug))
    except Exception as error:
        if isinstance(error, InputError):
            sys.exit(_end(error, f"error: {error}", BAD_INPUT, debug))
        if message := missing_package(error):
            sys.exit(_end(error, f"error: {message}", BAD_INPUT, debug))
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
    """Whether there are threads that Python would wait for, such as those of a failed save."""
    own = threading.current_thread()
    return any(thread is not own and not thread.daemon for thread in threading.enumerate())


def _leave() -> NoReturn:
    """Ends this process at once; a normal exit would wait for other hosts or threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


def _end(error: BaseException, message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = one_line(f"resnet_jax: {message}", _MAX_LINE)
    print(line, file=sys.stderr)
    return status


def _is_failure(error: Exception) -> bool:
    if isinstance(error, OSError | MemoryError | FloatingPointError) or _system_error(error):
        return True
    import jax  # Not at the top: usage errors do not need it.

    return isinstance(error, jax.errors.JaxRuntimeError)


def _system_error(error: Exception) -> OSError | None:
    """Returns the system's error within an error of tensorstore, which Orbax uses."""
    code = re.search(r"\[os_error_code='(\d+)'\]", str(error))
    path = re.search(r'local file "([^"]*)"', str(error))
    if code is None:
        return None
    return OSError(int(code[1]), os.strerror(int(code[1])), path[1] if path else None)


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
    # absl's logger has its own class, which must be registered before the logger is created.
    from absl import logging as absl_logging

    # Orbax logs the exceptions that it raises as errors, with tracebacks.
    absl_logging.set_verbosity(absl_logging.FATAL)
    sys.unraisablehook = _show_unraisable
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # After a failed save, tasks of Orbax that nobody awaits are logged with their tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    # If one file of a checkpoint cannot be written, tensorstore's threads report each of the others
    # to an event loop that is already closed.
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
