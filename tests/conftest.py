"""What every test needs settled before JAX is imported."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

from tests import shapes

# Subprocesses that a test starts inherit these. XLA ends the process when one of several devices
# keeps the others waiting for 40 seconds, as eight devices on two busy cores may.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    " --xla_cpu_collective_call_warn_stuck_timeout_seconds=300"
)
# Tests started by `nohup` would hand on that it ignores a hangup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Processes that share the cores only wait with more threads.
os.environ.setdefault("NPROC", "1")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax-tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# Calls with other shapes or types than the annotations say are errors.
jaxtyping.install_import_hook("resnet_jax", f"{shapes.__name__}.checked")

# An example may compile, so its time says nothing; a failure must come back on the next run.
settings.register_profile("resnet_jax", deadline=None, derandomize=True)
settings.load_profile("resnet_jax")


# Files that take a minute or so come first, for no process to be alone with one at the end.
_LONG = (
    "test_family",
    "test_resnet.py",
    "test_hosts",
    "test_step",
    "test_interrupts",
    "test_faults",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of long files before the others; the order within a file stays."""
    items.sort(key=lambda item: not item.path.name.startswith(_LONG))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test give wrong arguments, to see the package's own errors for them."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def resnet8() -> Iterator[str]:
    """The name of a small model, which is there for the tests of a file."""
    from tests import resnet8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet8.MODELS, "_makers", dict(resnet8.MODELS._makers))
        resnet8.add()
        yield resnet8.NAME


@pytest.fixture(autouse=True, scope="module")
def programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiles without optimisation where it is not models and training steps that are tested.

    And frees the programs of a file of tests, gigabytes in sum over the whole suite.
    """
    import jax  # Not at the top: the settings above come first.

    quickly = request.path.parent.name not in ("models", "ops", "training")
    jax.config.update("jax_disable_most_optimizations", quickly)
    yield
    jax.clear_caches()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without `HOME` and without an entry in the system's list of users."""
    import pwd

    def unknown(user: object) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
