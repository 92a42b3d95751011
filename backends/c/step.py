"""What the emitters of operations share: steps, constants, and how C writes integers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import DiagnosticException

from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.dialects.weights import Weights


class CompileError(DiagnosticException):
    """The program cannot become C; the message names the operation and says what to do."""


def refusal(op: Operation, problem: str, advice: str) -> CompileError:
    return CompileError(f"{describe(op)} ({op.name}): {problem}; {advice}")


@dataclass(frozen=True)
class Step:
    """One C function of the program: it reads the operands and writes the results, which do not overlap with them.

    operands, results: tensors by the name of their C parameter, a pointer to its first element in row-major order;
    constants: further tensors that the emitter made, read only, packed beside the weights; scratch: bytes of a parameter
    `scratch`, aligned to 64, of each thread its own. body: the statements of the function. headers: kernels that it calls.
    ops: the operations that it computes, the last of them makes the results. share: what threads divide, None where one
    has to do it all.
    """

    ops: tuple[Operation, ...]
    operands: Mapping[str, SSAValue]
    results: Mapping[str, SSAValue]
    body: str
    constants: Mapping[str, Array] = field(default_factory=dict[str, Array])
    scratch: int = 0
    headers: tuple[str, ...] = ()
    share: "Share | None" = None


@dataclass(frozen=True)
class Share:
    """The body computes begin..end (size_t) of 0..extent: 0 or more whole grains, the last of which may be shorter.

    What it writes for two numbers does not overlap, and it reads nothing that it writes for others.
    """

    extent: int
    grain: int = 1


@dataclass(frozen=True)
class Context:
    """What the emitters of one program share."""

    weights: Weights

    def constant(self, value: SSAValue) -> Array | None:
        """The elements of a constant, None for a value that is known at run time only."""
        return self.weights.array(value)

    def zero_point(self, zero_point: ZeroPointAttr | None) -> Array:
        """int64, 0-d or a vector."""
        return self.weights.zero_point(zero_point)


Emitter: TypeAlias = Callable[..., Step]
"""(context, operation) -> its step"""


def type_of(value: SSAValue) -> IntType:
    """The integer type of a tensor's elements; CompileError for a float."""
    found = integer_of(value)
    if found is None:
        owner = value.owner
        what = f"{describe(owner)} ({owner.name})" if isinstance(owner, Operation) else "an argument of the function"
        raise CompileError(f"{what}: expected integers, found {value.type}; C holds no floats: --integerize first")
    return found


def c_type(integer: IntType | np.dtype[np.generic]) -> str:
    """The C type that holds one element, as the NumPy type does: i4 is int8_t, ui8 uint8_t."""
    return f"{(integer.dtype if isinstance(integer, IntType) else integer).name}_t"


def size_of(value: SSAValue) -> int:
    """Elements of a tensor."""
    return prod(shape_of(value))


def bytes_of(value: SSAValue) -> int:
    """Bytes of a tensor at run time."""
    return size_of(value) * type_of(value).dtype.itemsize


def literal(number: int) -> str:
    """An integer of at most 64 bits as a C constant: an int where it fits, else 64 bits wide."""
    if -(1 << 31) < number < 1 << 31:
        return str(number)
    if number == -(1 << 63):
        return f"({literal(number + 1)} - 1)"
    return f"INT64_C({number})" if number < 1 << 63 else f"UINT64_C({number})"


def indented(text: str, by: int = 1) -> str:
    return "".join(f"{'    ' * by}{line}\n" if line else "\n" for line in text.splitlines())


def narrowest(numbers: Array) -> Array:
    """int64 numbers in the narrowest of int32 and int64, in which C reads them."""
    fits = not numbers.size or (numbers.min() >= -(1 << 31) and numbers.max() < 1 << 31)
    return numbers.astype(np.int32 if fits else np.int64)
