"""What every test needs settled before JAX is imported."""

import os
from pathlib import Path

from hypothesis import settings

# Subprocesses that a test starts inherit these.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax-tests")
)

# An example may compile, so its time says nothing; a failure must come back on the next run.
settings.register_profile("resnet_jax", deadline=None, derandomize=True)
settings.load_profile("resnet_jax")
