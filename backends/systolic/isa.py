"""The instruction set: every instruction as a dataclass whose fields, in their order, are its bits.

A word has 256 bits, least significant first: the opcode, then what all instructions have (`Instruction`), then the fields of
the kind, then zeros. This file is the one home of the encoding: the assembler, the dialect, the simulator and docs/isa.md
all go through `fields_of`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cache
from typing import Any, ClassVar, TypeVar

from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.semantics.integers import IntType, Rounding

WORD_BITS = 256
WORD_BYTES = WORD_BITS // 8
REGISTERS = 32
"""Address registers r0 .. r31 of 32 bits; r0 is always 0."""
RECORD = 16
"""Bytes of a record of constants for `Requantize`: multiplier, shift, bias and zero point, i32 each."""


class IsaError(ValueError):
    """A word, an instruction or a text that is none; the message says what is wrong."""


class Queue(IntEnum):
    """The four units that run instructions, each its own in order. Masks of `wait` and `signal` have bit 1 << queue."""

    LOAD = 0
    MATRIX = 1
    VECTOR = 2
    STORE = 3


class Memory(IntEnum):
    """The memories on the chip, all addressed in bytes."""

    SPM = 0
    """Activations: LOAD and VECTOR write, MATRIX, VECTOR and STORE read."""
    WBUF = 1
    """Weights: LOAD writes, MATRIX reads."""
    CBUF = 2
    """Constants of vector instructions: LOAD writes, VECTOR reads."""
    ACC = 3
    """Sums of 32 bits: MATRIX writes, MATRIX and VECTOR read."""


FUNCTIONS: dict[str, int] = {kind.name: number for number, kind in enumerate(APPROXIMATIONS)}
"""The numbers of approximations, by the names of their attributes."""
ROUNDINGS: tuple[Rounding, ...] = (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.HALF_AWAY, Rounding.FLOOR)
"""By the number that stands for each."""


@dataclass(frozen=True)
class Address:
    """register + offset, in bytes."""

    offset: int
    register: int = 0


@dataclass(frozen=True)
class Increment:
    """register += step, modulo 2^32."""

    register: int = 0
    step: int = 0


@dataclass(frozen=True)
class Bits:
    """How a field lies in the word.

    kind: `unsigned` and `signed` (two's complement) numbers; `enum`, the number of a name in `names`; `queues`, a mask with
    bit 1 << number of each name in `names`; `address`, register and offset; `increment` and `assignment`, register and step
    (two's complement); `type`, bits - 1 in six bits, then 1 where it is signed.
    """

    width: int
    kind: str
    doc: str
    names: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of what it is made of, the lowest bits first."""
        match self.kind:
            case "address" | "increment" | "assignment":
                return (5, self.width - 5)
            case "type":
                return (6, 1)
            case _:
                return (self.width,)


def _bits(width: int, doc: str, kind: str = "unsigned", default: Any = 0, names: Sequence[str] = ()) -> Any:
    return field(default=default, metadata={"bits": Bits(width, kind, doc, tuple(names))})


def _enum(width: int, doc: str, names: type[IntEnum] | Sequence[str]) -> Any:
    """A name's number; of an enumeration, the names of its members in small letters."""
    if isinstance(names, type):
        names = [member.name.lower() for member in names]
    return _bits(width, doc, "enum", 0, names)


def _queues(doc: str) -> Any:
    return _bits(len(Queue), doc, "queues", 0, [queue.name.lower() for queue in Queue])


def _local(doc: str) -> Any:
    return _bits(5 + 22, doc, "address", Address(0))


def _dram(doc: str) -> Any:
    return _bits(5 + 32, doc, "address", Address(0))


def _increment(doc: str = "register += step; r0: none", kind: str = "increment") -> Any:
    return _bits(5 + 32, doc, kind, Increment())


def _stride(doc: str) -> Any:
    return _bits(18, doc)


def _type(doc: str) -> Any:
    return _bits(7, doc, "type", IntType(8))


def _flag(doc: str) -> Any:
    return _bits(1, doc)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What every instruction has."""

    opcode: ClassVar[int]
    mnemonic: ClassVar[str]
    queue: ClassVar[Queue | None] = None
    """None: the sequencer runs it."""

    wait: int = _queues("take one token from each of these before it starts")
    signal: int = _queues("give one token to each of these when it is done")
    node: int = _bits(16, "the source node that it works for, by its number in the program's table; 0: none")


@cache
def fields_of(kind: type[Instruction]) -> Mapping[str, Bits]:
    """The fields in the order of their bits, behind the opcode."""
    return {f.name: f.metadata["bits"] for f in fields(kind)}


OPCODE_BITS = 8
INSTRUCTIONS: dict[int, type[Instruction]] = {}
"""By opcode."""
MNEMONICS: dict[str, type[Instruction]] = {}

InstructionT = TypeVar("InstructionT", bound=type[Instruction])


def _instruction(opcode: int, mnemonic: str, queue: Queue | None) -> Callable[[InstructionT], InstructionT]:
    def register(kind: InstructionT) -> InstructionT:
        kind.opcode, kind.mnemonic, kind.queue = opcode, mnemonic, queue
        width = OPCODE_BITS + sum(bits.width for bits in fields_of(kind).values())
        assert width <= WORD_BITS, f"{mnemonic}: {width} bits"
        assert opcode not in INSTRUCTIONS
        assert mnemonic not in MNEMONICS
        INSTRUCTIONS[opcode] = MNEMONICS[mnemonic] = kind
        return kind

    return register


# --- the sequencer ---


@_instruction(0x01, "halt", None)
@dataclass(frozen=True, kw_only=True)
class Halt(Instruction):
    """Ends the program; the machine stops once all queues are empty. The last word of every program, and no other."""


@_instruction(0x02, "set", None)
@dataclass(frozen=True, kw_only=True)
class Set(Instruction):
    """Gives registers values, modulo 2^32."""

    first: Increment = _increment("register = step; r0: none", "assignment")
    second: Increment = _increment("register = step; r0: none", "assignment")
    third: Increment = _increment("register = step; r0: none", "assignment")
    fourth: Increment = _increment("register = step; r0: none", "assignment")

    @property
    def increments(self) -> tuple[Increment, ...]:
        """Those that change something."""
        return tuple(i for i in (self.first, self.second, self.third, self.fourth) if i.register)


@_instruction(0x03, "loop", None)
@dataclass(frozen=True, kw_only=True)
class Loop(Instruction):
    """Runs the next `length` instructions `count` times; after each time, the last too, the increments are added.

    Loops nest up to the machine's depth, an inner one wholly inside the outer. The same register may be incremented by
    several loops.
    """

    length: int = _bits(16, "instructions of the body, 1 at least, with those of inner loops")
    count: int = _bits(16, "1 at least")
    first: Increment = _increment()
    second: Increment = _increment()
    third: Increment = _increment()
    fourth: Increment = _increment()

    @property
    def increments(self) -> tuple[Increment, ...]:
        """Those that change something."""
        return tuple(i for i in (self.first, self.second, self.third, self.fourth) if i.register)


@_instruction(0x04, "add", None)
@dataclass(frozen=True, kw_only=True)
class Add(Instruction):
    """Adds the increments, which are applied in their order."""

    first: Increment = _increment()
    second: Increment = _increment()
    third: Increment = _increment()
    fourth: Increment = _increment()

    @property
    def increments(self) -> tuple[Increment, ...]:
        """Those that change something."""
        return tuple(i for i in (self.first, self.second, self.third, self.fourth) if i.register)


# --- memory ---


@_instruction(0x10, "load", Queue.LOAD)
@dataclass(frozen=True, kw_only=True)
class Load(Instruction):
    """For i < planes, j < rows: `run` bytes from DRAM at source + i * source_plane + j * source_row to memory at
    target + i * target_plane + j * target_row."""

    memory: int = _enum(2, "of the target: spm, wbuf or cbuf", Memory)
    source: Address = _dram("of DRAM")
    target: Address = _local("of `memory`")
    planes: int = _bits(14, "1 at least")
    rows: int = _bits(14, "of a plane, 1 at least")
    run: int = _bits(20, "bytes of a row, next to each other, 1 at least")
    source_plane: int = _bits(24, "bytes of DRAM from a plane to the next")
    source_row: int = _bits(24, "bytes of DRAM from a row to the next")
    target_plane: int = _bits(20, "bytes from a plane to the next")
    target_row: int = _bits(20, "bytes from a row to the next")


@_instruction(0x11, "store", Queue.STORE)
@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """As `load`, from SPM to DRAM."""

    source: Address = _local("of SPM")
    target: Address = _dram("of DRAM")
    planes: int = _bits(14, "1 at least")
    rows: int = _bits(14, "of a plane, 1 at least")
    run: int = _bits(20, "bytes of a row, next to each other, 1 at least")
    source_plane: int = _bits(20, "bytes from a plane to the next")
    source_row: int = _bits(20, "bytes from a row to the next")
    target_plane: int = _bits(24, "bytes of DRAM from a plane to the next")
    target_row: int = _bits(24, "bytes of DRAM from a row to the next")


# --- the array ---


class Dataflow(IntEnum):
    """What stays in the array."""

    WEIGHT_STATIONARY = 0
    OUTPUT_STATIONARY = 1


@_instruction(0x20, "matmul", Queue.MATRIX)
@dataclass(frozen=True, kw_only=True)
class MatrixMultiply(Instruction):
    """ACC[m, n] = (ACC[m, n] +) sum over k < depth of (A[m, k] - a_zero) (B[k, n] - b_zero), exact, for m < rows, n < columns.

    A [rows, depth] is in SPM, B in `b_memory`, ACC int32. A sum beyond 32 bits is a trap. B lies as [depth, columns] with
    rows of b_row bytes, or, `transposed`, as [columns, depth]. In WBUF elements of fewer than 8 bits lie without gaps, the
    first in the lowest bits, two's complement, every row from a whole byte on; in SPM each has a byte. With `logarithmic`,
    A's element q counts as 2^15 >> q. Elements of 9 to 16 bits are of A alone, in two passes: the low bytes as unsigned
    numbers, then the high ones as signed, whose products are shifted by 8. Products: `qvit.dialects.semantics.products`.
    """

    a: Address = _local("of SPM")
    a_row: int = _stride("bytes from a row to the next")
    a_type: IntType = _type("8 or 16 bits, or fewer in a byte each")
    a_zero: int = _bits(9, "zero point of A", "signed")
    b: Address = _local("of `b_memory`")
    b_row: int = _stride("bytes from a row to the next")
    b_memory: int = _enum(2, "spm or wbuf", Memory)
    b_type: IntType = _type("2, 3, 4 or 8 bits")
    b_zero: int = _bits(9, "zero point of B", "signed")
    transposed: int = _flag("B lies as [columns, depth]")
    acc: Address = _local("of ACC")
    acc_row: int = _stride("bytes from a row to the next")
    accumulate: int = _flag("add to what ACC holds")
    logarithmic: int = _flag("A's elements are exponents")
    dataflow: int = _enum(1, "what stays in the array", Dataflow)
    rows: int = _bits(14, "M")
    depth: int = _bits(14, "K")
    columns: int = _bits(14, "N")


# --- vectors ---


@_instruction(0x30, "requantize", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Requantize(Instruction):
    """y = saturate(round((x + bias - zero) multiplier / 2^shift / divisor) + zero_point), [rows, columns].

    multiplier (|m| < 2^31), shift (-31..62, negative ones for multiplier 1 alone), bias and zero: the record at `records`, or
    one record for each column. x + bias is exact in 33 bits. With `divided`, row m is divided by divisor m, a positive i32 of
    SPM: the multiplier becomes its reciprocal first. `qvit.dialects.semantics.quantization.requantize_dyadic`.
    """

    source: Address = _local("of `source_memory`")
    source_memory: int = _enum(2, "acc or spm", Memory)
    source_row: int = _stride("bytes from a row to the next")
    source_type: IntType = _type("i32 for ACC")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes from a row to the next")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")
    records: Address = _local("of CBUF")
    per_column: int = _flag("a record for each column")
    divided: int = _flag("by a divisor for each row")
    divisors: Address = _local("of SPM, i32")
    rounding: int = _enum(2, "how the quotient becomes an integer", ROUNDINGS)
    zero_point: int = _bits(17, "of the result", "signed")


@_instruction(0x31, "add_requantize", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class AddRequantize(Instruction):
    """y = saturate(round(a' m_a / 2^s_a + b' m_b / 2^s_b) + zero_point), a' = a - z_a, b' = b - z_b; with `round_each` both
    terms are rounded before they are added. `qvit.dialects.semantics.quantization.add_requant`.

    Two records of constants, a's first, and with `per_column` two for each column. The bias of a's is the result's
    zero_point, that of b's is 0.
    """

    a: Address = _local("of SPM")
    a_row: int = _stride("bytes from a row to the next; 0: the same row for all")
    a_type: IntType = _type("of a")
    b: Address = _local("of SPM")
    b_row: int = _stride("bytes from a row to the next; 0: the same row for all")
    b_type: IntType = _type("of b")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes from a row to the next")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")
    records: Address = _local("of CBUF")
    per_column: int = _flag("two records for each column")
    round_each: int = _flag("both terms are rounded before they are added")
    rounding: int = _enum(2, "how the quotient becomes an integer", ROUNDINGS)


@_instruction(0x32, "function", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Function(Instruction):
    """An approximation of [rows, columns], row by row: an elementwise function, a softmax or a layer normalisation.

    `block` holds its zero point, parameters and tables (`Block`). Softmax: with `masked`, an entry whose byte of `mask` is 0
    takes no part; what has a second result writes the row sums to `sums`, i32. `qvit.dialects.approximations`.
    """

    function: int = _enum(6, "the approximation", tuple(FUNCTIONS))
    source: Address = _local("of SPM")
    source_row: int = _stride("bytes from a row to the next")
    source_type: IntType = _type("of the operand")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes from a row to the next")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")
    block: Address = _local("of CBUF")
    sums: Address = _local("of SPM, i32 for each row, next to each other")
    masked: int = _flag("entries whose byte of `mask` is 0 take no part (softmax)")
    mask: Address = _local("of SPM, ui8")
    mask_rows: int = _flag("the mask has a row for each, of `columns` bytes; else one for all")


@_instruction(0x33, "threshold", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Threshold(Instruction):
    """y = lowest + how many of the `levels` thresholds x reaches, [rows, columns]: a quantizer of comparators.

    `qvit.dialects.semantics.quantization.threshold`.
    """

    source: Address = _local("of `source_memory`")
    source_memory: int = _enum(2, "acc or spm", Memory)
    source_row: int = _stride("bytes from a row to the next")
    source_type: IntType = _type("i32 for ACC")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes from a row to the next")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")
    thresholds: Address = _local("of CBUF, i32 [levels] or [columns, levels]")
    per_column: int = _flag("a row of thresholds for each column")
    levels: int = _bits(9, "thresholds of a column, at most 256")
    lowest: int = _bits(17, "the code below all thresholds", "signed")


class Arithmetic(IntEnum):
    """The operations of `arithmetic`; comparisons give 1 or 0."""

    ADD = 0
    SUB = 1
    MUL = 2
    MIN = 3
    MAX = 4
    EQ = 5
    LT = 6
    LE = 7
    SELECT = 8
    """mask != 0 ? a : b"""


@_instruction(0x34, "arithmetic", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Arith(Instruction):
    """y = a op b, elementwise on [rows, columns]; a result beyond its type is a trap. `qvit.dialects.semantics.elementwise`."""

    operation: int = _enum(4, "what is done to a and b", Arithmetic)
    a: Address = _local("of SPM")
    a_row: int = _stride("bytes from a row to the next; 0: the same row for all")
    a_type: IntType = _type("of a")
    b: Address = _local("of SPM")
    b_row: int = _stride("bytes from a row to the next; 0: the same row for all")
    b_type: IntType = _type("of b")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes from a row to the next")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")
    mask: Address = _local("of SPM, ui8 (SELECT); its rows are as many elements apart as a's")


class Reduction(IntEnum):
    """What `reduce` makes of a row."""

    SUM = 0
    ARGMAX = 1
    """The first of the largest."""


@_instruction(0x35, "reduce", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Reduce(Instruction):
    """One element of each row of [rows, columns], next to each other: its sum (beyond the type: a trap) or the index of its
    maximum."""

    operation: int = _enum(1, "what is made of a row", Reduction)
    source: Address = _local("of SPM")
    source_row: int = _stride("bytes from a row to the next")
    source_type: IntType = _type("of the operand")
    target: Address = _local("of SPM")
    target_type: IntType = _type("of the result")
    rows: int = _bits(14, "1 at least")
    columns: int = _bits(13, "1 at least")


@_instruction(0x36, "copy", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """For i < planes, j < rows: `run` bytes of SPM from source + i * source_plane + j * source_row to target + i * target_plane +
    j * target_row. A stride of 0 of the source repeats; source and target do not overlap."""

    source: Address = _local("of SPM")
    target: Address = _local("of SPM")
    planes: int = _bits(14, "1 at least")
    rows: int = _bits(14, "of a plane, 1 at least")
    run: int = _bits(20, "bytes of a row, next to each other, 1 at least")
    source_plane: int = _bits(20, "bytes from a plane to the next; 0: the same plane for all")
    source_row: int = _bits(20, "bytes from a row to the next; 0: the same row for all")
    target_plane: int = _bits(20, "bytes from a plane to the next")
    target_row: int = _bits(20, "bytes from a row to the next")


# --- words ---


def parts_of(kind: type[Instruction], name: str, value: Any) -> tuple[int, ...]:
    """The value of a field as the numbers that its `parts` hold; IsaError, with what it takes, if it does not fit."""
    bits = fields_of(kind)[name]
    match value:
        case Address(offset, register):
            found: tuple[int, ...] = (register, offset)
        case Increment(register, step):
            found = (register, _wrapped(step, 32))
        case IntType(width, signed):
            found = (width - 1 if width <= (64 if signed else 32) else -1, int(signed))
        case _ if bits.kind == "signed":
            found = (_wrapped(value, bits.width),)
        case _:
            found = (int(value),)
    fits = all(0 <= number < 1 << width for number, width in zip(found, bits.parts, strict=True))
    if not fits or (bits.kind == "enum" and found[0] >= len(bits.names)):
        raise IsaError(f"{kind.mnemonic}: {name} is {_range(bits)}, found {value}")
    return found


def _wrapped(value: int, width: int) -> int:
    """Two's complement in `width` bits; -1 where it does not fit."""
    return value & ((1 << width) - 1) if -(1 << (width - 1)) <= value < 1 << (width - 1) else -1


def _range(bits: Bits) -> str:
    """The values that a field takes, in words."""
    last = (1 << bits.parts[-1]) - 1
    match bits.kind:
        case "signed":
            return f"{-(last // 2) - 1}..{last // 2}"
        case "address":
            return f"a register 0..{REGISTERS - 1} and an offset 0..{last}"
        case "increment" | "assignment":
            return f"a register 0..{REGISTERS - 1} and a step {-(last // 2) - 1}..{last // 2}"
        case "type":
            return "i1..i64 or ui1..ui32"
        case "enum":
            return f"0..{len(bits.names) - 1} ({', '.join(bits.names)})"
        case _:
            return f"0..{last}"


def encode(instruction: Instruction) -> bytes:
    """The word of 32 bytes, little endian. IsaError names a field whose value does not fit, and what does."""
    kind = type(instruction)
    word, fields_at = _layout(kind)
    for name, default, bits, at in fields_at:
        value = getattr(instruction, name)
        if value is not default and value != default:  # most are
            word ^= (_packed(kind, name, value) ^ bits) << at
    return word.to_bytes(WORD_BYTES, "little")


def _packed(kind: type[Instruction], name: str, value: Any) -> int:
    """The bits of a field, as a number."""
    packed = at = 0
    for number, width in zip(parts_of(kind, name, value), fields_of(kind)[name].parts, strict=True):
        packed |= number << at
        at += width
    return packed


@cache
def _layout(kind: type[Instruction]) -> tuple[int, tuple[tuple[str, Any, int, int], ...]]:
    """The word of an instruction with all its defaults; name, default, the bits of that, and the first bit of each field."""
    word, at = kind.opcode, OPCODE_BITS
    found: list[tuple[str, Any, int, int]] = []
    for f in fields(kind):
        bits = _packed(kind, f.name, f.default)
        found.append((f.name, f.default, bits, at))
        word |= bits << at
        at += fields_of(kind)[f.name].width
    return word, tuple(found)


def decode(word: bytes) -> Instruction:
    """The instruction of a word; IsaError for an unknown opcode, a reserved bit that is not zero, or a number without name.

    What it gives is encoded as the same word again.
    """
    if len(word) != WORD_BYTES:
        raise IsaError(f"a word has {WORD_BYTES} bytes, found {len(word)}")
    number = int.from_bytes(word, "little")
    opcode = number & ((1 << OPCODE_BITS) - 1)
    if (kind := INSTRUCTIONS.get(opcode)) is None:
        raise IsaError(f"there is no opcode 0x{opcode:02x}")
    number >>= OPCODE_BITS
    values: dict[str, Any] = {}
    for name, bits in fields_of(kind).items():
        parts: list[int] = []
        for width in bits.parts:
            parts.append(number & ((1 << width) - 1))
            number >>= width
        values[name] = _value(bits, parts)
        if bits.kind in ("enum", "type"):
            parts_of(kind, name, values[name])
    if number:
        raise IsaError(f"{kind.mnemonic}: reserved bits are not zero")
    return kind(**values)


def _value(bits: Bits, parts: list[int]) -> Any:
    match bits.kind:
        case "address":
            return Address(parts[1], parts[0])
        case "increment" | "assignment":
            return Increment(parts[0], parts[1] - (parts[1] >> 31 << 32))
        case "type":
            return IntType(parts[0] + 1, bool(parts[1]))
        case "signed":
            return parts[0] - (parts[0] >> (bits.width - 1) << bits.width)
        case _:
            return parts[0]


@cache
def isa_digest() -> str:
    """SHA-256, in hexadecimal, of the whole encoding: opcodes, fields, widths, names. Words mean the same where it is equal."""
    lines = [
        f"{opcode} {kind.mnemonic} {name} {bits.width} {bits.kind} {','.join(bits.names)}"
        for opcode, kind in sorted(INSTRUCTIONS.items())
        for name, bits in fields_of(kind).items()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
