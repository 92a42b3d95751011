"""--lower-to-linalg: from the dialect to plain MLIR, for other compilers."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    FusedLoc,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    UnrealizedConversionCastOp,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.utils.exceptions import DiagnosticException
from xdsl.utils.hints import isa

from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, DivOp, MulOp, ReluOp, SelectOp, SqrtOp, SubOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark, describe, sources
from qvit.dialects.weights import Weights
from qvit.transforms.lower import elementwise, products, quantization, shape
from qvit.transforms.lower.stage import NotLowered, Stage, signless

PREFIX = "qvit."

# A dict's type cannot say that its values fit their keys.
LOWERINGS: Mapping[type[Operation], Callable[..., SSAValue]] = {
    QuantizeOp: quantization.quantize,
    DequantizeOp: quantization.dequantize,
    RequantizeOp: quantization.requantize,
    AddRequantOp: quantization.add_requant,
    ThresholdOp: quantization.threshold,
    MatmulOp: products.matmul,
    ShiftMatmulOp: products.shift_matmul,
    LinearOp: products.linear,
    Conv2dOp: products.conv2d,
    AddOp: elementwise.arithmetic,
    SubOp: elementwise.arithmetic,
    MulOp: elementwise.arithmetic,
    DivOp: elementwise.arithmetic,
    ClipOp: elementwise.clip,
    CompareOp: elementwise.compare,
    SelectOp: elementwise.select,
    SqrtOp: elementwise.sqrt,
    ReluOp: elementwise.relu,
    ReshapeOp: shape.reshape,
    TransposeOp: shape.transpose,
    SliceOp: shape.slice_,
    ConcatOp: shape.concat,
    GatherOp: shape.gather,
    BroadcastOp: shape.broadcast,
    ConstantOp: shape.constant,
    WeightOp: shape.constant,
}
"""(stage, operation, its operands as they are after the pass) -> its result"""


def lower_to_linalg(module: ModuleOp) -> list[Remark]:
    """Lower what can be lowered, in place; returns what could not, and why. Without such, no trace of the dialect stays."""
    weights, reasons = Weights(module), dict[Operation, str]()
    for function in [op for op in module.walk() if isinstance(op, FuncOp)]:
        _lower_function(function, weights, reasons)
    left = [op for op in module.walk() if op.name.startswith(PREFIX)]
    if not left:
        for op in module.walk():
            _drop_ours(op.attributes)
    return [Remark(describe(op), op.name, reasons.get(op, "there is no lowering of it")) for op in left]


def _lower_function(function: FuncOp, weights: Weights, reasons: dict[Operation, str]) -> None:
    """The body, then the signature; `reasons` is told why an operation stays."""
    values: dict[SSAValue, SSAValue] = {}
    """What stands for a value after the pass; others stand for themselves."""
    arguments = [argument for block in function.body.blocks for argument in block.args]
    for argument in arguments:
        new = argument.block.insert_arg(signless(argument.type), len(argument.block.args), argument.location)
        new.name_hint = argument.name_hint
        values[argument] = new
    lowered: list[Operation] = []
    for op in [op for block in function.body.blocks for op in block.ops]:
        try:
            if _lower(op, weights, values):
                lowered.append(op)
                continue
        except NotLowered as reason:
            reasons[op] = str(reason)
        _keep(op, values)
    for op in reversed(lowered):
        op.detach()
        op.erase()
    for argument in arguments:
        argument.block.erase_arg(argument)
    inputs, outputs = function.function_type.inputs, function.function_type.outputs
    function.function_type = FunctionType.from_lists([signless(t) for t in inputs], [signless(t) for t in outputs])
    for name in ("arg_attrs", "res_attrs"):
        if isa(entries := function.properties.get(name), ArrayAttr[DictionaryAttr]):
            function.properties[name] = ArrayAttr([_without_ours(entry) for entry in entries])


def _lower(op: Operation, weights: Weights, values: dict[SSAValue, SSAValue]) -> bool:
    """Put the operations that replace `op` before it, and its value into `values`; False if there is no lowering."""
    if (lowering := LOWERINGS.get(type(op))) is None:
        return False
    stage = Stage(weights)
    try:
        value = lowering(stage, op, *(values.get(v, v) for v in op.operands))
    except NotLowered:
        stage.discard()
        raise
    for new in list(stage.block.ops):
        new.detach()
        _name(new, op)
        Rewriter.insert_op(new, InsertPoint.before(op))
    value.name_hint = value.name_hint or op.results[0].name_hint
    values[op.results[0]] = value
    return True


def _name(new: Operation, op: Operation) -> None:
    """The source nodes of `op` become the location of what replaces it: --print-debuginfo prints them."""
    names = [NameLoc(StringAttr(name), NoneAttr()) for name in sources(op)]
    if names:
        location = names[0] if len(names) == 1 else FusedLoc(ArrayAttr[Attribute](names), NoneAttr())
        for inner in new.walk():
            inner.location = location


def _keep(op: Operation, values: dict[SSAValue, SSAValue]) -> None:
    """Give an operation that stays, and those in it, their operands; where types changed, casts change them back."""
    for user in op.walk():
        for i, operand in enumerate(user.operands):
            new = values.get(operand, operand)
            if new.type != operand.type and not isinstance(op, ReturnOp):
                cast = UnrealizedConversionCastOp.get([new], [operand.type])
                Rewriter.insert_op(cast, InsertPoint.before(op))
                new = cast.results[0]
            user.operands[i] = new
    for result in op.results:
        if signless(result.type) != result.type:
            cast = UnrealizedConversionCastOp.get([result], [signless(result.type)])
            Rewriter.insert_op(cast, InsertPoint.after(op))
            values[result] = cast.results[0]


def _without_ours(attributes: DictionaryAttr) -> DictionaryAttr:
    return DictionaryAttr({name: value for name, value in attributes.data.items() if not name.startswith(PREFIX)})


def _drop_ours(attributes: dict[str, Attribute]) -> None:
    for name in [name for name in attributes if name.startswith(PREFIX)]:
        del attributes[name]


@dataclass(frozen=True)
class LowerToLinalgPass(ModulePass):
    """Lower to linalg, tensor, arith and math: plain MLIR, for other compilers, that computes the same to the last bit.

    Integers: every intermediate result has a word that holds it, i32 or i64. Where the interpreter stops with an error,
    for a sum that does not fit its type or an index out of range, the lowered code assumes that there is none. Floats:
    add, sub, mul, div, sqrt, relu, clip, compare, select, quantize and dequantize, in the precision that the types say
    (qvit-run --float32 for f32); a NaN must not be quantized, and the sign of a 0 out of relu or clip is open.

    Types become signless: uiN is iN with the same bits, also in the signatures of functions. Weights are inlined as
    constants, also large ones. Names of source nodes become locations, which --print-debuginfo prints; the names of a
    function's inputs and outputs go, their order stays.

    An operation without a lowering is an error that names it. With `partial` it stays, between casts where types
    changed, and is listed on stderr.
    """

    name: ClassVar[str] = "lower-to-linalg"

    partial: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        left = lower_to_linalg(op)
        if not left:
            return
        lines = [f"{len(left)} operations have no lowering:", *(f"  {r.src}: {r.rule} ({r.reason})" for r in left)]
        if not self.partial:
            raise DiagnosticException("\n".join(["lower-to-linalg: " + lines[0], *lines[1:]]))
        sys.stderr.write("\n".join(lines) + "\n")
