"""XLA's options for a processor, and the memory that a process keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import parallel
from resnet_jax.ops import get_kernels


@pytest.mark.parametrize("avx512", [False, True])
def test_options_compile(monkeypatch, avx512):
    monkeypatch.setattr(parallel, "_has_avx512", lambda: avx512)
    options = parallel.compiler_options.__wrapped__()
    x = jnp.arange(6.0).reshape(2, 3)
    product = jax.jit(lambda x: x @ x.T, compiler_options=options)
    np.testing.assert_allclose(product(x), np.asarray(x) @ np.asarray(x).T)


def test_there_are_no_options_for_other_platforms_nor_where_jax_does_not_know_them(monkeypatch):
    assert parallel.compiler_options("gpu") == parallel.compiler_options("tpu") == {}
    assert parallel.compiler_options.__wrapped__("cpu")
    monkeypatch.setattr(parallel, "_LIBRARY", "xla_cpu_no_such_option")
    assert parallel.compiler_options.__wrapped__("cpu") == {}
    monkeypatch.undo()
    monkeypatch.setattr(parallel.platform, "machine", lambda: "aarch64")
    assert parallel.compiler_options.__wrapped__("cpu") == {}


def test_convolutions_are_left_to_xla():
    def program(x, kernel):
        return get_kernels("cpu").conv(x, kernel)

    for channels, features in ((16, 32), (64, 64)):
        x, kernel = jnp.ones((2, 8, 8, channels)), jnp.ones((3, 3, channels, features))
        compiled = jax.jit(program, compiler_options=parallel.compiler_options())
        text = compiled.lower(x, kernel).compile().as_text()
        assert "convolution(" in text and "ynn" not in text


def test_jit_chooses_at_the_first_call(monkeypatch):
    calls = []
    monkeypatch.setattr(parallel, "compiler_options", lambda: calls.append(1) or {})

    def power(x, exponent):
        """Raises."""
        return x**exponent

    compiled = parallel.jit(power, static_argnames="exponent")
    assert compiled.__doc__ == "Raises." and not calls
    assert compiled(3.0, exponent=2) == 9 and compiled(2.0, exponent=3) == 8
    assert len(calls) == 1
