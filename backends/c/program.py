"""From @main to a list of steps, each a C function, in the order in which they run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.printer import Printer

from qvit.backends.c.approximations import APPROXIMATION_EMITTERS
from qvit.backends.c.emitters.elementwise import argmax, arithmetic, clip, compare, reduce_sum, select
from qvit.backends.c.emitters.products import conv2d, linear, matmul, shift_matmul
from qvit.backends.c.emitters.quantization import add_requant, requantize, threshold
from qvit.backends.c.emitters.shape import broadcast_to, concat, gather, slice_, transpose
from qvit.backends.c.fuse import fuse
from qvit.backends.c.step import Context, Emitter, Step, refusal, type_of
from qvit.backends.interpreter import find_function, input_names, output_names
from qvit.dialects.functions import MAIN
from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceSumOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import SRC
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import shape_of
from qvit.dialects.weights import Weights

EMITTERS: dict[type[Operation], Emitter] = {
    MatmulOp: matmul,
    ShiftMatmulOp: shift_matmul,
    LinearOp: linear,
    Conv2dOp: conv2d,
    AddOp: arithmetic,
    SubOp: arithmetic,
    MulOp: arithmetic,
    ClipOp: clip,
    CompareOp: compare,
    SelectOp: select,
    ReduceSumOp: reduce_sum,
    ArgmaxOp: argmax,
    RequantizeOp: requantize,
    AddRequantOp: add_requant,
    ThresholdOp: threshold,
    TransposeOp: transpose,
    SliceOp: slice_,
    ConcatOp: concat,
    GatherOp: gather,
    BroadcastOp: broadcast_to,
    **APPROXIMATION_EMITTERS,
}
"""How every integer operation that computes something becomes C."""

_LINE = 240
"""Characters of an operation's text that a comment keeps: vectors may stand in it."""


@dataclass(frozen=True)
class Port:
    """An argument or a result of the program."""

    name: str
    value: SSAValue


@dataclass(frozen=True)
class Program:
    """The steps of @main; texts: the IR line of each operation; homes: where a value that is a reshape of another lies."""

    steps: Sequence[Step]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    constants: Mapping[SSAValue, Array]
    homes: Mapping[SSAValue, SSAValue]
    texts: Mapping[Operation, str]

    def home(self, value: SSAValue) -> SSAValue:
        """The argument, constant or result of a step whose memory a value is."""
        while value in self.homes:
            value = self.homes[value]
        return value


def program_of(module: ModuleOp, fused: bool = True) -> Program:
    """The steps of @main. `CompileError` names the first operation that C has no integers for.

    fused: the fast kernels take what they can, several operations at a time; otherwise each operation is a step.
    """
    function = find_function(module, MAIN)
    ctx = Context(Weights(module))
    for argument in function.args:
        type_of(argument)
    found, taken = fuse(ctx, function) if fused else (dict[Operation, Step](), set[Operation]())
    steps: list[Step] = []
    constants: dict[SSAValue, Array] = {}
    homes: dict[SSAValue, SSAValue] = {}
    returned: list[SSAValue] = []
    for op in function.body.block.ops:
        match op:
            case ReturnOp():
                returned = list(op.operands)
            case ConstantOp() | WeightOp():
                type_of(op.result)
                array = ctx.constant(op.result)
                assert array is not None
                constants[op.result] = array
            case _ if op in taken:
                pass  # a part of a later step
            case ReshapeOp():
                homes[op.result] = op.input
            case _ if all(prod(shape_of(result)) == 0 for result in op.results):
                pass  # nothing to compute
            case _:
                steps.append(found[op] if op in found else _emit(ctx, op))
    return Program(
        steps,
        [Port(n, v) for n, v in zip(input_names(function), function.args, strict=True)],
        [Port(n, v) for n, v in zip(output_names(function), returned, strict=True)],
        constants,
        homes,
        dict(texts(function)),
    )


def _emit(ctx: Context, op: Operation) -> Step:
    for result in op.results:
        type_of(result)
    if (emitter := EMITTERS.get(type(op))) is None:
        raise refusal(op, "there is no C for this operation", "run --integerize, or qvit-compile with a scheme")
    return emitter(ctx, op)


def texts(function: FuncOp) -> Iterator[tuple[Operation, str]]:
    """Every operation but constants, with the text that the IR has for it, without the names of its source nodes."""
    copy = function.clone()
    printer = Printer(StringIO())
    for op, plain in zip(function.body.block.ops, copy.body.block.ops, strict=True):
        if isinstance(op, (ConstantOp, WeightOp)):
            continue
        plain.attributes.pop(SRC, None)
        printer.stream = StringIO()
        printer.print_op(plain)
        text = " ".join(printer.stream.getvalue().split())
        yield op, text if len(text) <= _LINE else f"{text[: _LINE - 4]} ..."
