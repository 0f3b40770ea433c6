"""A CIFAR net of eight layers for all that does not depend on depth: it compiles in a moment.

In a test's own process the fixture `resnet8` adds it to the named models; in a process that a test
starts, this file does so as its configuration.
"""

import importlib.util
import os
from pathlib import Path

from flax import linen as nn

from resnet_jax.models import MODELS, named
from resnet_jax.ops import stock

ROOT = Path(__file__).parents[1]
NAME = "resnet8_cifar"


def environment(devices=1):
    """For processes whose numbers are not what is tested: programs that compile fast."""
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }


def add():
    MODELS.register(NAME)(named._cifar(8, residual=True))


def get_config():
    """The demo's recipe. Its schedule has one length, so that all runs compile one program.

    The activation has no kink, where a rounding error makes a large difference: two devices and
    two hosts round differently.
    """
    stock.rectified = nn.softplus
    add()
    path = ROOT / "configs" / "fashion_mnist_demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    config = demo.get_config()
    config.model = NAME
    config.batch_size = 8
    config.schedule_steps = 100
    return config
