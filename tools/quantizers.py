"""Where the tensors of a quantized module are in the integer module that became of it, and in the float one it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.utils.hints import isa

from qvit.backends.interpreter import find_function
from qvit.dialects.functions import stages
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import describe
from qvit.dialects.types import element_of, integer_of, is_float, shape_of

_NO_MAKERS = (ConstantOp, WeightOp, ReshapeOp, TransposeOp, SliceOp, ConcatOp, GatherOp, BroadcastOp)

Key = tuple[str, Sequence[int], Attribute | None]
"""The name of the source node, the shape, and the element type of integers."""


@dataclass(frozen=True)
class Place:
    """A quantizer; the integers that stand for what it made, and the real numbers that it took, where they are found."""

    quantizer: QuantizeOp
    codes: SSAValue | None
    reals: SSAValue | None


def quantizer_name(op: QuantizeOp) -> str:
    """The source node of what it quantizes: as the choices of post-training quantization call it."""
    value = op.input
    return f"input {value.name_hint or ''}".strip() if isinstance(value, BlockArgument) else describe(op)


def places(quantized: ModuleOp, module: ModuleOp, reference: ModuleOp | None = None) -> list[Place]:
    """The places of all quantizers of `quantized`, in program order, by the names of source nodes, shapes and types.

    Nodes of one name, as of a projection that was split, are told apart by their order; where their numbers differ, nothing
    is said of them.
    """
    quantizers = [op for op in find_function(quantized).walk() if isinstance(op, QuantizeOp)]
    asked: dict[Key, list[QuantizeOp]] = {}
    for op in quantizers:
        asked.setdefault(_key(quantizer_name(op), op.result), []).append(op)
    codes = _by_key(_codes(module))
    reals = _by_key(_reals(reference)) if reference is not None else {}
    found: dict[QuantizeOp, Place] = {}
    for (name, shape, element), ops in asked.items():
        made = _aligned(codes.get((name, shape, element), []), len(ops))
        taken = _aligned(reals.get((name, shape, None), []), len(ops))
        found |= {op: Place(op, c, r) for op, c, r in zip(ops, made, taken, strict=True)}
    return [found[op] for op in quantizers]


def _key(name: str, value: SSAValue) -> Key:
    return name, shape_of(value), None if is_float(element_of(value)) else element_of(value)


def _aligned(values: list[SSAValue], count: int) -> Sequence[SSAValue | None]:
    """One value for each of `count` quantizers; several equal quantizers of one value may have become one."""
    if len(values) == 1:
        return values * count
    return values if len(values) == count else [None] * count


def _by_key(named: Iterator[tuple[str, SSAValue]]) -> dict[Key, list[SSAValue]]:
    """Of a chain of operations that one node became, the last one's."""
    found: dict[Key, list[SSAValue]] = {}
    for name, value in named:
        group = found.setdefault(_key(name, value), [])
        taken = value.owner.operands if isinstance(value.owner, Operation) else ()
        group[:] = [*(v for v in group if v not in taken), value]
    return found


def _codes(module: ModuleOp) -> Iterator[tuple[str, SSAValue]]:
    for function in stages(module):
        for op in function.walk():
            if isinstance(op, QuantizeOp):
                yield quantizer_name(op), op.result
            elif op.results and not isinstance(op, _NO_MAKERS) and _is_integer(op.results[0]):
                yield describe(op), op.results[0]


def _reals(reference: ModuleOp) -> Iterator[tuple[str, SSAValue]]:
    function = find_function(reference)
    for argument in function.args:
        yield f"input {argument.name_hint or ''}".strip(), argument
    for op in function.walk():
        if op.results and not isinstance(op, _NO_MAKERS) and isa(op.results[0].type, TensorType):
            yield describe(op), op.results[0]


def _is_integer(value: SSAValue) -> bool:
    return isa(value.type, TensorType) and integer_of(value) is not None
