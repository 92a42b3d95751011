"""The ends of a model: codes of its inputs are made before @main, real numbers of its results behind it."""

from collections.abc import Sequence

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FunctionType, ModuleOp, StringAttr, UnitAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import Rewriter
from xdsl.utils.hints import isa

from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, INTEGER_ONLY, MAIN, QUANTIZE_INPUTS
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.provenance import NAME, inherit
from qvit.dialects.types import element_of, is_float


def split_ends(module: ModuleOp, main: FuncOp) -> bool:
    """Split @main's first quantizers and last dequantizers off into functions of their own; False where nothing was done.

    Done only where every float argument of @main is quantized at once and every float result is a dequantized value: else
    @main keeps floats at its ends. An argument that is quantized in several ways gives @main several arguments.
    """
    if main.sym_name.data != MAIN or any(isinstance(op, FuncOp) and op is not main for op in module.ops):
        return False
    returned = main.body.block.last_op
    assert isinstance(returned, ReturnOp)
    quantizers: list[list[QuantizeOp]] = []
    for argument in main.args:
        users = [use.operation for use in argument.uses]
        quantizers.append([user for user in users if isinstance(user, QuantizeOp)])
        if is_float(element_of(argument)) and (not users or len(quantizers[-1]) < len(users)):
            return False
    dequantizers: list[DequantizeOp | None] = []
    for value in returned.operands:
        if isinstance(value.owner, DequantizeOp):
            dequantizers.append(value.owner)
        elif is_float(element_of(value)):
            return False
        else:
            dequantizers.append(None)
    module.body.block.insert_op_before(_inputs(main, [_distinct(found) for found in quantizers]), main)
    module.body.block.insert_op_after(_outputs(main, returned, dequantizers), main)
    main.function_type = FunctionType.from_lists(
        [argument.type for argument in main.args], [value.type for value in returned.operands]
    )
    main.attributes[INTEGER_ONLY] = UnitAttr()
    return True


def _distinct(quantizers: Sequence[QuantizeOp]) -> list[QuantizeOp]:
    """One of each kind, which takes the place of its equals."""
    kinds: list[QuantizeOp] = []
    for op in quantizers:
        twin = next((k for k in kinds if k.properties == op.properties and k.result.type == op.result.type), None)
        if twin is None:
            kinds.append(op)
        else:
            inherit(twin, op)
            Rewriter.replace_op(op, [], [twin.result])
    return kinds


def _function(name: str, given: Sequence[SSAValue], ops: Sequence[Sequence[Operation]]) -> FuncOp:
    """A function whose results are, for each argument, those of some operations on it; itself where there is none."""
    function = FuncOp(name, FunctionType.from_lists([value.type for value in given], []))
    block = function.body.block
    results: list[SSAValue] = []
    for argument, value, mine in zip(block.args, given, ops, strict=True):
        argument.name_hint = value.name_hint
        made = [op.clone({op.operands[0]: argument}) for op in mine]
        block.add_ops(made)
        results += [op.results[0] for op in made] or [argument]
    block.add_op(ReturnOp(*results))
    function.function_type = FunctionType.from_lists([v.type for v in given], [r.type for r in results])
    return function


def _set_names(function: FuncOp, attribute: str, names: Attribute | None) -> None:
    if names is not None:
        function.properties[attribute] = names


def _repeated(names: Attribute | None, counts: Sequence[int]) -> Attribute | None:
    """The attributes of arguments, each as often as it is needed; a name that is repeated gets a number."""
    if not isa(names, ArrayAttr[DictionaryAttr]):
        return names
    repeated: list[DictionaryAttr] = []
    for attribute, count in zip(names, counts, strict=True):
        name = attribute.data.get(NAME)
        for i in range(count):
            more = {NAME: StringAttr(f"{name.data}.{i}")} if i and isinstance(name, StringAttr) else {}
            repeated.append(DictionaryAttr({**attribute.data, **more}))
    return ArrayAttr(repeated)


def _inputs(main: FuncOp, quantizers: Sequence[Sequence[QuantizeOp]]) -> FuncOp:
    """@quantize_inputs; @main then takes the codes."""
    function = _function(QUANTIZE_INPUTS, main.args, quantizers)
    names = main.properties.get("arg_attrs")
    repeated = _repeated(names, [max(len(mine), 1) for mine in quantizers])
    _set_names(function, "arg_attrs", names)
    _set_names(function, "res_attrs", repeated)
    _set_names(main, "arg_attrs", repeated)
    block = main.body.block
    for argument, mine in zip(list(main.args), quantizers, strict=True):
        for later in reversed(mine[1:]):
            codes = block.insert_arg(later.result.type, argument.index + 1)
            codes.name_hint = argument.name_hint
            Rewriter.replace_op(later, [], [codes])
        if mine:
            codes = Rewriter.replace_value_with_new_type(argument, mine[0].result.type)
            Rewriter.replace_op(mine[0], [], [codes])
    return function


def _outputs(main: FuncOp, returned: ReturnOp, dequantizers: Sequence[DequantizeOp | None]) -> FuncOp:
    """@dequantize_outputs; @main then gives the codes."""
    codes = [
        value if dequantizer is None else dequantizer.input
        for value, dequantizer in zip(returned.operands, dequantizers, strict=True)
    ]
    function = _function(DEQUANTIZE_OUTPUTS, codes, [[op] if op is not None else [] for op in dequantizers])
    for attribute in ("arg_attrs", "res_attrs"):
        _set_names(function, attribute, main.properties.get("res_attrs"))
    for i, (value, dequantizer) in enumerate(zip(codes, dequantizers, strict=True)):
        returned.operands[i] = value
        if dequantizer is not None and not list(dequantizer.result.uses):
            Rewriter.erase_op(dequantizer)
    return function
