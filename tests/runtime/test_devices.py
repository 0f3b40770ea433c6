"""XLA's options for a processor, and the memory that a process keeps."""

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
