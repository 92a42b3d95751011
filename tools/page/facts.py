"""The facts about a module that its page shows, as plain numbers and texts."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.utils.hints import isa

from qvit.dialects.attributes import RealAttr
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.provenance import Remark, describe, sources
from qvit.dialects.types import int_type, is_float
from qvit.tools.page.blocks import ALL, EMBEDDINGS, HEAD, assign_blocks, block_title, constants
from qvit.tools.page.codes import Codes, Known, codes_of
from qvit.transforms.delay_dequant import Report
from qvit.transforms.statistics import is_integer_product, macs
from qvit.transforms.verify_integer_only import floats_left

NO_INTEGER_FORM = "no integer form in this pipeline"
REAL_FACTOR = "takes and makes integers; its factor is still a real number"


class Form(StrEnum):
    """What an operation works on."""

    INTEGER = "integer"
    FLOAT = "float"
    QUANTIZE = "quantize"
    DEQUANTIZE = "dequantize"


@dataclass(frozen=True)
class CodeFacts:
    """How codes stand for real numbers: smallest and largest over the channels, of which there are `channels`."""

    scale: tuple[float, float]
    zero_point: tuple[int, int]
    real: tuple[float, float]
    """The lowest and highest real number that a code of the tensor's type stands for."""
    channels: int | None


@dataclass(frozen=True)
class OpFacts:
    """One operation.

    how: its approximation, or the form of its factors; constant: it does not depend on the model's inputs; codes: of its
    result, of a dequantize those of its operand; why: what keeps it in float.
    """

    number: int
    kind: str
    how: str
    form: Form
    constant: bool
    src: tuple[str, ...]
    operands: tuple[str, ...]
    result: str
    macs: int
    codes: CodeFacts | None
    why: tuple[str, ...]


@dataclass(frozen=True)
class BlockFacts:
    """A block of the model: title, path of the source module (or none), operations in program order."""

    title: str
    path: str
    ops: tuple[OpFacts, ...]

    @property
    def flow(self) -> tuple[OpFacts, ...]:
        """What depends on the model's inputs."""
        return tuple(op for op in self.ops if not op.constant)

    def count(self, form: Form) -> int:
        return sum(op.form is form for op in self.flow)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates: all, and those on integers."""

    total: int
    integer: int

    @property
    def share(self) -> float:
        return self.integer / self.total if self.total else 0.0


@dataclass(frozen=True)
class Group:
    """Remarks of one rule that say the same, but for the names in them."""

    rule: str
    reason: str
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class ModuleFacts:
    """A module after a pipeline. report: of its last delay-dequant; declined: what recognisers left in plain operations."""

    name: str
    passes: tuple[str, ...]
    blocks: tuple[BlockFacts, ...]
    macs: Macs
    macs_by_kind: Mapping[str, Macs]
    floats_left: Mapping[str, int]
    """Operations that --verify-integer-only finds, by their name, most frequent first."""
    report: Report | None
    blocked: tuple[Group, ...]
    notes: tuple[Group, ...]
    declined: tuple[Group, ...]

    @property
    def ops(self) -> tuple[OpFacts, ...]:
        return tuple(op for block in self.blocks for op in block.ops)


_KINDS: dict[str, tuple[type[Operation], ...]] = {
    "linear": (LinearOp,),
    "convolution": (Conv2dOp, ConvTranspose2dOp),
    "attention": (MatmulOp,),
}
_FOLLOW_OPERANDS = (
    *(kind for kinds in _KINDS.values() for kind in kinds),
    *(ReshapeOp, TransposeOp, SliceOp, GatherOp, BroadcastOp, ConcatOp),
)
"""Operations that work on integers as soon as their operands are such."""


def module_facts(
    module: ModuleOp,
    name: str,
    passes: Sequence[str] = (),
    report: Report | None = None,
    declined: Sequence[Remark] = (),
    told: Mapping[SSAValue, Codes] | None = None,
) -> ModuleFacts:
    """What the page says of `module`: every operation of its functions once, but for their returns.

    told: what codes stand for, where that is known from elsewhere.
    """
    ops = [op for op in module.walk() if not isinstance(op, ModuleOp | FuncOp | ReturnOp)]
    blocked, notes = (report.blocked, report.notes) if report is not None else ([], [])
    constant = constants(ops)
    reasons = _reasons([op for op in ops if op not in constant], [*blocked, *notes, *declined])
    known = codes_of(module, told)
    blocks = assign_blocks(ops, constant)
    listed: dict[str, list[OpFacts]] = {path: [] for path in blocks.values()}
    for number, op in enumerate(ops, 1):
        listed[blocks[op]].append(_op_facts(number, op, op in constant, known, reasons.get(op, ())))
    names = {source for op in ops for source in sources(op)}
    return ModuleFacts(
        name,
        tuple(passes),
        tuple(_block_facts(path, tuple(inside)) for path, inside in listed.items()),
        _macs(ops),
        {kind: _macs(op for op in ops if isinstance(op, types)) for kind, types in _KINDS.items()},
        dict(Counter(left.op.removeprefix("qvit.") for left in floats_left(module)).most_common()),
        report,
        _grouped(blocked, names),
        _grouped(notes, names),
        _grouped(declined, names),
    )


def _block_facts(path: str, ops: tuple[OpFacts, ...]) -> BlockFacts:
    return BlockFacts(path, "", ops) if path in (EMBEDDINGS, HEAD, ALL) else BlockFacts(block_title(path), path, ops)


def _macs(ops: Iterable[Operation]) -> Macs:
    counts = [(macs(op), is_integer_product(op)) for op in ops]
    return Macs(sum(n for n, _ in counts), sum(n for n, integer in counts if integer))


def _element(value: SSAValue) -> str:
    return str(value.type.element_type) if isa(value.type, TensorType) else str(value.type)


def _text(value: SSAValue) -> str:
    """'1x17x96 ui8'."""
    if not isa(value.type, TensorType):
        return str(value.type)
    shape = "x".join(map(str, value.type.get_shape()))
    return f"{shape} {value.type.element_type}".lstrip()


def _works_on_floats(value: SSAValue) -> bool:
    return isa(value.type, TensorType) and is_float(value.type.element_type)


def _form(op: Operation) -> Form:
    if isinstance(op, QuantizeOp):
        return Form.QUANTIZE
    if isinstance(op, DequantizeOp):
        return Form.DEQUANTIZE
    return Form.FLOAT if any(map(_works_on_floats, (*op.operands, *op.results))) else Form.INTEGER


def _op_facts(number: int, op: Operation, constant: bool, known: Known, reasons: Sequence[str]) -> OpFacts:
    form = _form(op)
    return OpFacts(
        number,
        op.name.removeprefix("qvit."),
        _how(op),
        form,
        constant,
        sources(op),
        tuple(map(_element, op.operands)),
        ", ".join(map(_text, op.results)),
        macs(op),
        _code_facts(op.input if isinstance(op, DequantizeOp) else next(iter(op.results), None), known),
        tuple(reasons) or (() if constant else _default_reason(op, form)),
    )


def _how(op: Operation) -> str:
    """'ln, guard = 16', 'dyadic', 'pot and dyadic'; empty where there is no choice."""
    match op:
        case IntSoftmaxOp() | IntFunctionOp() | IntLayerNormOp():
            made = op.approximation.data
            return ", ".join([made.name.replace("_", "-"), *(f"{k} = {v}" for k, v in made.parameters.items())])
        case RequantizeOp():
            return op.form.name.removeprefix("qvit.") + (", over row sums" if op.divisor is not None else "")
        case AddRequantOp():
            forms = dict.fromkeys(form.name.removeprefix("qvit.") for form in (op.lhs_form, op.rhs_form))
            return " and ".join(forms) + (", each rounded" if op.round_each is not None else "")
        case _:
            return ""


def _code_facts(value: SSAValue | None, known: Known) -> CodeFacts | None:
    codes = known.get(value) if value is not None else None
    if value is None or codes is None or not isa(value.type, TensorType):
        return None
    integer = int_type(value.type.element_type)
    if integer is None:
        return None
    scale, zero = codes.scale, codes.zero_point
    return CodeFacts(
        (float(scale.min()), float(scale.max())),
        (int(zero.min()), int(zero.max())),
        codes.real_range(integer.lo, integer.hi),
        None if codes.axis is None else max(scale.size, zero.size),
    )


def _default_reason(op: Operation, form: Form) -> tuple[str, ...]:
    if isinstance(op, RequantizeOp | AddRequantOp) and any(isinstance(p, RealAttr) for p in op.properties.values()):
        return (REAL_FACTOR,)
    if form is not Form.FLOAT:
        return ()
    if isinstance(op, _FOLLOW_OPERANDS):
        return tuple(f"operand {describe(value)} is float" for value in op.operands if _works_on_floats(value))[:1]
    return (NO_INTEGER_FORM,)


def _reasons(ops: Sequence[Operation], remarks: Sequence[Remark]) -> dict[Operation, list[str]]:
    """The remarks about each operation. A node's name may stand at several: the rule says which kind it concerns."""
    named: dict[str, list[Operation]] = {}
    for op in ops:
        if _form(op) is not Form.INTEGER:
            named.setdefault(describe(op), []).append(op)
    reasons: dict[Operation, list[str]] = {}
    for remark in remarks:
        kind = "qvit." + {"bias": "add"}.get(remark.rule, remark.rule.partition("-of-")[0])
        candidates = named.get(remark.src, [])
        for op in [op for op in candidates if op.name == kind] or candidates:
            reasons.setdefault(op, []).append(f"{remark.rule}: {remark.reason}")
    return reasons


def _grouped(remarks: Sequence[Remark], names: set[str]) -> tuple[Group, ...]:
    """Most frequent first. A reason that several share is stated without the names of nodes in it."""
    groups: dict[tuple[str, str], list[Remark]] = {}
    for remark in remarks:
        plain = _WORD.sub(lambda word: "…" if word[0] in names else word[0], remark.reason)
        groups.setdefault((remark.rule, plain), []).append(remark)
    stated = [
        Group(rule, plain if len(same) > 1 else same[0].reason, tuple(same)) for (rule, plain), same in groups.items()
    ]
    return tuple(sorted(stated, key=lambda group: -len(group.remarks)))


_WORD = re.compile(r"[^\s(),;]*[^\s(),;:.]")
