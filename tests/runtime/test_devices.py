"""Devices of a process in a cluster, and XLA's options for a processor."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax.ops import get_kernels
from resnet_jax.runtime import devices


@pytest.mark.parametrize("avx512", [False, True])
def test_options_compile(monkeypatch, avx512):
    monkeypatch.setattr(devices, "_has_avx512", lambda: avx512)
    options = devices.compiler_options.__wrapped__()
    x = jnp.arange(6.0).reshape(2, 3)
    product = jax.jit(lambda x: x @ x.T, compiler_options=options)
    np.testing.assert_allclose(product(x), np.asarray(x) @ np.asarray(x).T)


def test_there_are_no_options_for_other_platforms_nor_where_jax_does_not_know_them(monkeypatch):
    assert devices.compiler_options("gpu") == devices.compiler_options("tpu") == {}
    assert devices.compiler_options.__wrapped__("cpu")
    monkeypatch.setattr(devices, "_LIBRARY", "xla_cpu_no_such_option")
    assert devices.compiler_options.__wrapped__("cpu") == {}
    monkeypatch.undo()
    monkeypatch.setattr(devices.platform, "machine", lambda: "aarch64")
    assert devices.compiler_options.__wrapped__("cpu") == {}


def test_convolutions_are_left_to_xla():
    def program(x, kernel):
        return get_kernels("cpu").conv(x, kernel)

    for channels, features in ((16, 32), (64, 64)):
        x, kernel = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, channels, features))
        compiled = jax.jit(program, compiler_options=devices.compiler_options())
        text = compiled.lower(x, kernel).compile().as_text()
        assert "convolution(" in text and "ynn" not in text


def test_jit_chooses_at_the_first_call(monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "compiler_options", lambda: calls.append(1) or {})

    def power(x, exponent):
        """Raises."""
        return x**exponent

    compiled = devices.jit(power, static_argnames="exponent")
    assert compiled.__doc__ == "Raises." and not calls
    assert compiled(3.0, exponent=2) == 9 and compiled(2.0, exponent=3) == 8
    assert len(calls) == 1


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
CLUSTERS = [
    # srun --nodes=4 --ntasks-per-node=1, as docs/scaling.md has it, and one task alone.
    ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, ()),
    ({"SLURM_STEP_TASKS_PER_NODE": "1"}, ()),
    # A step with another layout than its job, and a job without srun.
    ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_TASKS_PER_NODE": "8(x2)"}, ()),
    ({"SLURM_TASKS_PER_NODE": "1"}, ()),
    ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)"}, None),
    ({"SLURM_STEP_TASKS_PER_NODE": "2,1(x3)", "SLURM_TASKS_PER_NODE": "1(x4)"}, None),
    ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, ()),
    ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, None),
    ({"SLURM_STEP_TASKS_PER_NODE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, None),
    ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("variables", "expected"), CLUSTERS)
def test_a_task_alone_on_its_node_has_all_devices(monkeypatch, variables, expected):
    for name in [name for name in os.environ if re.match("SLURM|OMPI|JAX_LOCAL", name)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = []
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *_, local_device_ids, **__: given.append(local_device_ids),
    )
    devices.start_hosts()
    assert given == [expected]


@pytest.mark.parametrize(("tasks", "visible"), [("1", "all"), ("2", "0")])
def test_jax_takes_it_so(tasks, visible):
    """A real process in an environment as srun makes it: JAX restricts the devices, or not."""
    program = """
import jax
from resnet_jax.runtime.devices import start_hosts
start_hosts()
print(jax.config.values["jax_cuda_visible_devices"], jax.process_count())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{visible} 1\n", done.stderr
