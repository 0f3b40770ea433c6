"""The counter of compiled programs, on programs small enough to count by hand."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def total(text):
    import hlo

    found = hlo.kernels(text)
    return tuple(sum(k.runs * getattr(k, name) for k in found) for name in ("flops", "bytes"))


GPU = """HloModule program

%sliced (p.1: f32[100,8], p.2: bf16[8]) -> f32[8] {
  %p.1 = f32[100,8]{1,0} parameter(0)
  %p.2 = bf16[8]{0} parameter(1)
  %s = f32[1,8]{1,0} slice(%p.1), slice={[3:4], [0:8]}
  %r = f32[8]{0} bitcast(%s)
  %c = f32[8]{0} convert(%p.2)
  ROOT %add = f32[8]{0} add(%r, %c)
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %v = f32[8]{0} get-tuple-element(%state), index=1
  %doubled = f32[8]{0} add(%v, %v)
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %doubled)
}

%condition (state.1: (s32[], f32[8])) -> pred[] {
  %state.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: bf16[2,4,4,16], k: bf16[32,3,3,16], t: f32[100,8]) -> f32[8] {
  %x = bf16[2,4,4,16]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %t = f32[100,8]{1,0} parameter(2)
  %conv = (bf16[2,4,4,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="a)b"}
  %y = bf16[2,4,4,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %b = bf16[8]{0} constant({1, 2, 3, 4, 5, 6, 7, 8})
  %f = f32[8]{0} fusion(%t, %b), kind=kLoop, calls=%sliced
  %sum = f32[8]{0} all-reduce(%f), replica_groups={{0,1}}, to_apply=%sliced
  %zero = s32[] constant(0)
  %start = (s32[], f32[8]{0}) tuple(%zero, %sum)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_kernels_of_a_gpu():
    import hlo

    found = {k.instruction.name: (k.runs, k.flops, k.bytes) for k in hlo.kernels(GPU)}
    assert found == {
        # Nine taps of 16 channels for each of 32 outputs of 32 pixels; two maps and the kernel.
        "conv": (1, 2 * 9 * 16 * 32 * 32, 2 * (512 + 1024 + 9 * 16 * 32)),
        # One row of the table, eight of bfloat16, a result.
        "f": (1, 0, 32 + 16 + 32),
        "sum": (1, 0, 32 + 32),
        # Its operand twice, as it is written there.
        "doubled": (5, 0, 32 + 32 + 32),
    }


@pytest.mark.parametrize(
    "target, shapes, labels",
    [
        ("BackwardInput", ("2,4,4,32", "32,3,3,16", "2,4,4,16"), "b01f_o01i->b01f"),
        ("BackwardFilter", ("2,4,4,16", "2,4,4,32", "32,3,3,16"), "b01f_o01i->b01f"),
    ],
)
def test_gradients_of_a_convolution_multiply_as_often_as_it_does(target, shapes, labels):
    a, b, out = shapes
    text = f"""ENTRY %main (a: f32[{a}], b: f32[{b}]) -> f32[{out}] {{
  %a = f32[{a}] parameter(0)
  %b = f32[{b}] parameter(1)
  ROOT %c = f32[{out}] custom-call(%a, %b), dim_labels={labels}, \
custom_call_target="__cudnn$conv{target}"
}}
"""
    assert total(text) == (2 * 9 * 16 * 32 * 32, 4 * (512 + 1024 + 9 * 16 * 32))


def test_a_matrix_product_of_a_library():
    text = """ENTRY %main (a: f32[6,4], b: f32[4,5]) -> f32[6,5] {
  %a = f32[6,4]{1,0} parameter(0)
  %b = f32[4,5]{1,0} parameter(1)
  ROOT %c = f32[6,5]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":\
{"lhs_contracting_dimensions":["1"]}}}
}
"""
    assert total(text) == (2 * 6 * 4 * 5, 4 * (24 + 20 + 30))


@pytest.mark.parametrize("stride, taps", [(1, (3 * 5 - 2) ** 2), (2, (3 * 3 - 2) ** 2)])
def test_a_convolution_counts_no_padding(stride, taps):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    lowered = jax.jit(convolve).lower(jnp.ones((2, 5, 5, 3)), jnp.ones((3, 3, 3, 4)))
    assert total(lowered.compile().as_text())[0] == 2 * 2 * 3 * 4 * taps


def test_ratios_are_the_peers_figures_by_ours():
    import accelerator_program as program

    ours = program.Figures(2, 1, 10, 5, 100, 0, 0.5)
    peer = program.Figures(2, 1, 20, 4, 50, 3, 1.0)
    found = {ratio.name: ratio.ratio for ratio in program.ratios("a", ours, peer)}
    assert found == {"a/bytes": 2, "a/kernels": 0.8, "a/peak": 0.5, "a/bound": 2}


def test_missing_packages_are_named():
    code = (
        "import importlib.metadata as m, accelerator_program as a\n"
        "def gone(name): raise m.PackageNotFoundError(name)\n"
        "m.version = gone\n"
        "a.check_packages()"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n{code}"],
        cwd=BENCHMARKS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install jax-cuda13-plugin==" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
