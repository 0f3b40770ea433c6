"""Counts the bytes and multiplications of a compiled program's kernels from its HLO text.

`compiled.as_text()` of `jax.jit(f).lower(...).compile()` lists each instruction with the shapes of
its results, so no device is needed. A kernel reads each operand once and writes each result once; a
fusion that slices an operand reads only the slice. Caches are not modelled.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from functools import cached_property

_BYTES = {"pred": 1, "bf16": 2, "token": 0}  # Other types have their bits in their names.
_SHAPE = re.compile(r"\b(pred|token|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_NO_KERNEL = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
    *("partition-id", "opt-barrier", "all-reduce-done", "copy-done", "async-done"),
}
_SLICES = {"gather", "dynamic-slice", "slice"}
_ONE_TO_ONE = {"bitcast", "convert", "copy", "reshape", "transpose", "negate", "abs"}


@dataclasses.dataclass(frozen=True)
class Shape:
    """The dtype and size of an array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.dims)

    @property
    def item_bytes(self) -> int:
        """The number of bytes per element."""
        if self.dtype in _BYTES:
            return _BYTES[self.dtype]
        bits = "".join(itertools.takewhile(str.isdigit, self.dtype.lstrip("sufc")))
        return max(int(bits) // 8, 1)

    @property
    def bytes(self) -> int:
        """The number of bytes of all elements."""
        return self.size * self.item_bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of HLO.

    Attributes:
      name: name of its result.
      opcode: operation, such as `fusion` or `custom-call`.
      shapes: shapes of its results.
      operands: names of other results.
      attributes: text after the operands; for a parameter also its `number`.
      is_root: whether its result is the computation's.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a regular expression in the attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction that runs as a kernel.

    Attributes:
      instruction: the instruction.
      runs: number of executions.
      flops: floating-point operations of its matrix products and convolutions, per execution.
      bytes: bytes read and written, per execution.
    """

    instruction: Instruction
    runs: int
    flops: int
    bytes: int


class Computation:
    """The instructions of a function by name, in order."""

    def __init__(self) -> None:
        self.instructions: dict[str, Instruction] = {}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that use a result."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for name in set(instruction.operands) & users.keys():
                users[name].append(instruction)
        return users

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        found = (i for i in self.instructions.values() if i.opcode == "parameter")
        return {int(i.attribute(r"^number=(\d+)") or 0): i for i in found}

    def shape(self, name: str) -> Shape:
        """Returns the shape of a result with one array."""
        return self.instructions[name].shapes[0]


def kernels(text: str) -> list[Kernel]:
    """Returns the kernels of a program in order; a loop's body appears once."""
    program, entry = _parse(text)
    return list(_Counter(program).kernels(entry, 1))


def _parse(text: str) -> tuple[dict[str, Computation], str]:
    """Returns the computations by name, and the name of the entry computation."""
    program: dict[str, Computation] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if current is None:
            if found := _COMPUTATION.match(line):
                current = program[found[2]] = Computation()
                entry = found[2] if found[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current.instructions[instruction.name] = instruction
    return program, entry


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    shapes, _, rest = _split(text, " ")
    opcode, _, rest = rest.partition("(")
    inside, _, attributes = _split(rest, ")")
    operands = re.findall(r"%([\w.\-]+)", inside)
    if opcode == "parameter":
        attributes = f"number={inside}{attributes}"
    found = tuple(
        Shape(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(shapes)
    )
    return Instruction(name, opcode, found, tuple(operands), attributes, is_root)


def _split(text: str, end: str) -> tuple[str, str, str]:
    """Partitions a text at the first `end` outside brackets."""
    depth = 0
    for index, letter in enumerate(text):
        if letter == end and depth == 0:
            return text[:index], end, text[index + 1 :]
        depth += (letter in "([{") - (letter in ")]}")
    return text, "", ""


class _Counter:
    """Counts kernels, bytes and operations in a program's computations."""

    def __init__(self, program: dict[str, Computation]) -> None:
        self.program = program

    def kernels(self, name: str, runs: int) -> Iterator[Kernel]:
        """Yields the kernels of a computation that runs `runs` times."""
        computation = self.program[name]
        for instruction in computation.instructions.values():
            if instruction.opcode in _NO_KERNEL:
                continue
            if body := instruction.attribute(r"body=%?([\w.\-]+)"):
                trips = instruction.attribute(r'known_trip_count":\{"n":"(\d+)"') or "1"
                yield from self.kernels(body, runs * int(trips))
            elif instruction.opcode == "call":
                called = instruction.attribute(r"to_apply=%?([\w.\-]+)") or ""
                yield from self.kernels(called, runs)
            else:
                written = sum(shape.bytes for shape in instruction.shapes)
                bytes_ = self.read(computation, instruction) + written
                yield Kernel(instruction, runs, self.flops(computation, instruction), bytes_)

    def read(self, computation: Computation, instruction: Instruction) -> int:
        """Returns the bytes that an instruction reads."""
        fused = self.fused(instruction)
        total = 0
        for index, operand in enumerate(instruction.operands):
            shapes = computation.instructions[operand].shapes
            if fused and len(shapes) == 1 and index in fused.parameters:
                needed = self.needed(fused, fused.parameters[index])
                total += needed * shapes[0].item_bytes
            elif instruction.opcode in _SLICES and index == 0:
                total += sum(shape.bytes for shape in instruction.shapes)
            else:
                total += sum(shape.bytes for shape in shapes)
        return total

    def fused(self, instruction: Instruction) -> Computation | None:
        """Returns the computation of a fusion or an asynchronous start, or None."""
        if instruction.opcode not in ("fusion", "async-start"):
            return None
        return self.program.get(instruction.attribute(r"calls=%?([\w.\-]+)") or "")

    def needed(self, computation: Computation, value: Instruction) -> int:
        """Returns the number of elements of a value that the computation reads, by its slices."""
        size = value.shapes[0].size
        if value.is_root:
            return size
        total = 0
        for user in computation.users[value.name]:
            is_first = user.operands[0] == value.name
            if user.opcode in _SLICES and is_first:
                total += sum(shape.size for shape in user.shapes)
            elif user.opcode == "dynamic-update-slice" and is_first:
                continue  # Written in place.
            elif user.opcode in _ONE_TO_ONE:
                total += self.needed(computation, user)
            elif fused := self.fused(user):
                indices = (index for index, name in enumerate(user.operands) if name == value.name)
                total += sum(self.needed(fused, fused.parameters[index]) for index in indices)
            else:
                return size
        return min(total, size)

    def flops(self, computation: Computation, instruction: Instruction) -> int:
        """Returns twice the multiplications of matrix products and convolutions."""
        if fused := self.fused(instruction):
            return sum(self.flops(fused, inner) for inner in fused.instructions.values())
        shapes = [computation.instructions[name].shapes for name in instruction.operands[:2]]
        if len(shapes) < 2 or not all(shapes):
            return 0
        return 2 * _multiplications(instruction, shapes[0][0], shapes[1][0])


def _multiplications(instruction: Instruction, lhs: Shape, rhs: Shape) -> int:
    out, target = instruction.shapes[0], instruction.attribute(r'custom_call_target="([^"]+)"')
    if instruction.opcode == "convolution":
        return _convolution(instruction, lhs, rhs)
    if target and (kind := re.search(r"cudnn\$conv(\w+)", target)):
        return _cudnn_convolution(instruction, kind[1], lhs, rhs)
    contracted = None
    if instruction.opcode == "dot":
        contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    elif target and re.search("gemm|cublas|matmul", target):
        contracted = instruction.attribute(r'lhs_contracting_dimensions":\["(\d+)"\]')
    if contracted is None:
        return 0
    return out.size * math.prod(lhs.dims[int(axis)] for axis in contracted.split(",") if axis)


def _labels(instruction: Instruction) -> tuple[str, str, str]:
    """Returns the axis labels of a convolution's operands and result, such as b01f."""
    labels = instruction.attribute(r"dim_labels=(\w+->\w+)") or "_->"
    lhs, rhs, out = re.split("_|->", labels)
    return lhs, rhs, out


def _cudnn_convolution(instruction: Instruction, kind: str, lhs: Shape, rhs: Shape) -> int:
    """Counts the multiplications of the forward pass of a cuDNN call."""
    map_, kernel = instruction.shapes[0], rhs
    if kind == "BackwardInput":
        map_ = lhs
    elif kind == "BackwardFilter":
        map_, kernel = rhs, instruction.shapes[0]
    return map_.size * kernel.size // kernel.dims[_labels(instruction)[1].index("o")]


def _convolution(instruction: Instruction, lhs: Shape, rhs: Shape) -> int:
    """Counts the multiplications by elements other than padding and dilation."""
    lhs_labels, rhs_labels, out_labels = _labels(instruction)
    out = instruction.shapes[0]
    channels = rhs.dims[rhs_labels.index("i")]
    total = out.dims[out_labels.index("b")] * out.dims[out_labels.index("f")] * channels
    window = dict(re.findall(r"(\w+)=(\S+)", instruction.attribute(r"window=\{([^}]*)\}") or ""))
    for axis in range(sum(label.isdigit() for label in lhs_labels)):
        size, stride, pad, lhs_step, rhs_step = (
            window[name].split("x")[axis] if name in window else default
            for name, default in [
                ("size", "1"),
                ("stride", "1"),
                ("pad", "0_0"),
                ("lhs_dilate", "1"),
                ("rhs_dilate", "1"),
            ]
        )
        before = int(pad.split("_")[0])
        end = lhs.dims[lhs_labels.index(str(axis))] * int(lhs_step)
        places = itertools.product(range(out.dims[out_labels.index(str(axis))]), range(int(size)))
        indices = (o * int(stride) + k * int(rhs_step) - before for o, k in places)
        total *= sum(0 <= index < end and index % int(lhs_step) == 0 for index in indices)
    return total
