"""The ends of a model: codes of its inputs are made before @main, real numbers of its results behind it."""

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, FunctionType, ModuleOp, UnitAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, INTEGER_ONLY, MAIN, QUANTIZE_INPUTS
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.types import element_of, is_float


def split_ends(module: ModuleOp, main: FuncOp) -> bool:
    """Split @main's first quantizers and last dequantizers off into functions of their own; False where nothing was done.

    Done only where every float argument of @main is quantized at once, by one quantizer, and every float result is a
    dequantized value: else @main keeps floats at its ends.
    """
    if main.sym_name.data != MAIN or any(isinstance(op, FuncOp) and op is not main for op in module.ops):
        return False
    returned = main.body.block.last_op
    assert isinstance(returned, ReturnOp)
    quantizers: list[QuantizeOp | None] = []
    for argument in main.args:
        users = [use.operation for use in argument.uses]
        if not is_float(element_of(argument)):
            quantizers.append(None)
        elif len(users) == 1 and isinstance(users[0], QuantizeOp):
            quantizers.append(users[0])
        else:
            return False
    dequantizers: list[DequantizeOp | None] = []
    for value in returned.operands:
        if isinstance(value.owner, DequantizeOp):
            dequantizers.append(value.owner)
        elif is_float(element_of(value)):
            return False
        else:
            dequantizers.append(None)
    module.body.block.insert_op_before(_inputs(main, quantizers), main)
    module.body.block.insert_op_after(_outputs(main, returned, dequantizers), main)
    main.function_type = FunctionType.from_lists(
        [argument.type for argument in main.args], [value.type for value in returned.operands]
    )
    main.attributes[INTEGER_ONLY] = UnitAttr()
    return True


def _function(
    name: str, given: Sequence[SSAValue], ops: Sequence[Operation | None], names: tuple[object, object]
) -> FuncOp:
    """A function with one operation, or none, between each argument and its result."""
    function = FuncOp(name, FunctionType.from_lists([value.type for value in given], []))
    block = function.body.block
    results: list[SSAValue] = []
    for argument, value, op in zip(block.args, given, ops, strict=True):
        argument.name_hint = value.name_hint
        if op is None:
            results.append(argument)
            continue
        new = op.clone({op.operands[0]: argument})
        block.add_op(new)
        results.append(new.results[0])
    block.add_op(ReturnOp(*results))
    function.function_type = FunctionType.from_lists([v.type for v in given], [r.type for r in results])
    for attribute, value in zip(("arg_attrs", "res_attrs"), names, strict=True):
        if isinstance(value, ArrayAttr):
            function.properties[attribute] = value
    return function


def _inputs(main: FuncOp, quantizers: Sequence[QuantizeOp | None]) -> FuncOp:
    """@quantize_inputs; @main then takes the codes."""
    names = main.properties.get("arg_attrs")
    function = _function(QUANTIZE_INPUTS, main.args, quantizers, (names, names))
    for argument, quantizer in zip(main.args, quantizers, strict=True):
        if quantizer is not None:
            codes = Rewriter.replace_value_with_new_type(argument, quantizer.result.type)
            Rewriter.replace_op(quantizer, [], [codes])
    return function


def _outputs(main: FuncOp, returned: ReturnOp, dequantizers: Sequence[DequantizeOp | None]) -> FuncOp:
    """@dequantize_outputs; @main then gives the codes."""
    codes = [
        value if dequantizer is None else dequantizer.input
        for value, dequantizer in zip(returned.operands, dequantizers, strict=True)
    ]
    names = main.properties.get("res_attrs")
    function = _function(DEQUANTIZE_OUTPUTS, codes, dequantizers, (names, names))
    for i, (value, dequantizer) in enumerate(zip(codes, dequantizers, strict=True)):
        returned.operands[i] = value
        if dequantizer is not None and not list(dequantizer.result.uses):
            Rewriter.erase_op(dequantizer)
    return function
