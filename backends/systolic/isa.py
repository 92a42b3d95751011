"""The instruction set: every instruction as a dataclass whose fields, in their order, are its bits.

A word has 256 bits, least significant first: the opcode, then what all instructions have (`Instruction`), then the fields of
the kind, then zeros. This file is the one home of the encoding: the assembler, the dialect, the simulator and docs/isa.md
all go through `fields_of`.
"""

from collections.abc import Callable, Mapping
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
    """How a field lies in the word."""

    width: int
    kind: str
    """unsigned, signed, address, increment, type"""
    doc: str

    @property
    def parts(self) -> tuple[int, ...]:
        """The widths of what it is made of, the lowest bits first."""
        return (5, self.width - 5) if self.kind in ("address", "increment") else (self.width,)


def _bits(width: int, doc: str, kind: str = "unsigned", default: Any = 0) -> Any:
    return field(default=default, metadata={"bits": Bits(width, kind, doc)})


def _local(doc: str) -> Any:
    return _bits(5 + 22, doc, "address", Address(0))


def _dram(doc: str) -> Any:
    return _bits(5 + 32, doc, "address", Address(0))


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

    wait: int = _bits(4, "mask of queues: take one token from each before it starts")
    signal: int = _bits(4, "mask of queues: give one token to each when it is done")
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
    """Ends the program; the machine stops once all queues are empty. The last word of every program."""


@_instruction(0x02, "set", None)
@dataclass(frozen=True, kw_only=True)
class Set(Instruction):
    """register = value."""

    register: int = _bits(5, "1..31")
    value: int = _bits(32, "")


@_instruction(0x03, "loop", None)
@dataclass(frozen=True, kw_only=True)
class Loop(Instruction):
    """Runs the next `length` instructions `count` times; after each time, the last too, the increments are added.

    Loops nest up to the machine's depth, an inner one wholly inside the outer. The same register may be incremented by
    several loops.
    """

    length: int = _bits(16, "instructions of the body, 1 at least, with those of inner loops")
    count: int = _bits(16, "1 at least")
    first: Increment = _bits(5 + 32, "", "increment", Increment())
    second: Increment = _bits(5 + 32, "", "increment", Increment())
    third: Increment = _bits(5 + 32, "", "increment", Increment())
    fourth: Increment = _bits(5 + 32, "", "increment", Increment())

    @property
    def increments(self) -> tuple[Increment, ...]:
        """Those that change something."""
        return tuple(i for i in (self.first, self.second, self.third, self.fourth) if i.register)


@_instruction(0x04, "add", None)
@dataclass(frozen=True, kw_only=True)
class Add(Instruction):
    """Adds the increments, which are applied in their order."""

    first: Increment = _bits(5 + 32, "", "increment", Increment())
    second: Increment = _bits(5 + 32, "", "increment", Increment())
    third: Increment = _bits(5 + 32, "", "increment", Increment())
    fourth: Increment = _bits(5 + 32, "", "increment", Increment())

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

    memory: int = _bits(2, "Memory: SPM, WBUF or CBUF")
    source: Address = _dram("")
    target: Address = _local("")
    planes: int = _bits(14, "")
    rows: int = _bits(14, "")
    run: int = _bits(20, "bytes")
    source_plane: int = _bits(24, "bytes")
    source_row: int = _bits(24, "bytes")
    target_plane: int = _bits(20, "bytes")
    target_row: int = _bits(20, "bytes")


@_instruction(0x11, "store", Queue.STORE)
@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """As `load`, from SPM to DRAM."""

    source: Address = _local("")
    target: Address = _dram("")
    planes: int = _bits(14, "")
    rows: int = _bits(14, "")
    run: int = _bits(20, "bytes")
    source_plane: int = _bits(20, "bytes")
    source_row: int = _bits(20, "bytes")
    target_plane: int = _bits(24, "bytes")
    target_row: int = _bits(24, "bytes")


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
    a_zero: int = _bits(9, "", "signed")
    b: Address = _local("")
    b_row: int = _stride("bytes")
    b_memory: int = _bits(2, "Memory: SPM or WBUF")
    b_type: IntType = _type("2, 3, 4 or 8 bits")
    b_zero: int = _bits(9, "", "signed")
    transposed: int = _flag("B lies as [columns, depth]")
    acc: Address = _local("of ACC")
    acc_row: int = _stride("bytes")
    accumulate: int = _flag("add to what ACC holds")
    logarithmic: int = _flag("A's elements are exponents")
    dataflow: int = _bits(1, "Dataflow")
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

    source: Address = _local("")
    source_memory: int = _bits(2, "Memory: ACC or SPM")
    source_row: int = _stride("bytes")
    source_type: IntType = _type("i32 for ACC")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")
    records: Address = _local("of CBUF")
    per_column: int = _flag("a record for each column")
    divided: int = _flag("by a divisor for each row")
    divisors: Address = _local("of SPM, i32")
    rounding: int = _bits(2, "number in ROUNDINGS")
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
    a_row: int = _stride("bytes; 0: the same row for all")
    a_type: IntType = _type("")
    b: Address = _local("of SPM")
    b_row: int = _stride("bytes; 0: the same row for all")
    b_type: IntType = _type("")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")
    records: Address = _local("of CBUF")
    per_column: int = _flag("two records for each column")
    round_each: int = _flag("")
    rounding: int = _bits(2, "number in ROUNDINGS")


@_instruction(0x32, "function", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Function(Instruction):
    """An approximation of [rows, columns], row by row: an elementwise function, a softmax or a layer normalisation.

    `block` holds its zero point, parameters and tables (`Block`). Softmax: with `masked`, an entry whose byte of `mask` is 0
    takes no part; what has a second result writes the row sums to `sums`, i32. `qvit.dialects.approximations`.
    """

    function: int = _bits(6, "number in FUNCTIONS")
    source: Address = _local("of SPM")
    source_row: int = _stride("bytes")
    source_type: IntType = _type("")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")
    block: Address = _local("of CBUF")
    sums: Address = _local("of SPM, i32 for each row, next to each other")
    masked: int = _flag("")
    mask: Address = _local("of SPM, ui8")
    mask_rows: int = _flag("the mask has a row for each, of `columns` bytes; else one for all")


@_instruction(0x33, "threshold", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Threshold(Instruction):
    """y = lowest + how many of the `levels` thresholds x reaches, [rows, columns]: a quantizer of comparators.

    `qvit.dialects.semantics.quantization.threshold`.
    """

    source: Address = _local("")
    source_memory: int = _bits(2, "Memory: ACC or SPM")
    source_row: int = _stride("bytes")
    source_type: IntType = _type("i32 for ACC")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")
    thresholds: Address = _local("of CBUF, i32 [levels] or [columns, levels]")
    per_column: int = _flag("a row of thresholds for each column")
    levels: int = _bits(9, "thresholds of a column, at most 256")
    lowest: int = _bits(17, "", "signed")


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

    operation: int = _bits(4, "Arithmetic")
    a: Address = _local("of SPM")
    a_row: int = _stride("bytes; 0: the same row for all")
    a_type: IntType = _type("")
    b: Address = _local("of SPM")
    b_row: int = _stride("bytes; 0: the same row for all")
    b_type: IntType = _type("")
    target: Address = _local("of SPM")
    target_row: int = _stride("bytes")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")
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

    operation: int = _bits(1, "Reduction")
    source: Address = _local("of SPM")
    source_row: int = _stride("bytes")
    source_type: IntType = _type("")
    target: Address = _local("of SPM")
    target_type: IntType = _type("")
    rows: int = _bits(14, "")
    columns: int = _bits(13, "")


@_instruction(0x36, "copy", Queue.VECTOR)
@dataclass(frozen=True, kw_only=True)
class Copy(Instruction):
    """For i < planes, j < rows: `run` bytes of SPM from source + i * source_plane + j * source_row to target + i * target_plane +
    j * target_row. A stride of 0 of the source repeats; source and target do not overlap."""

    source: Address = _local("of SPM")
    target: Address = _local("of SPM")
    planes: int = _bits(14, "")
    rows: int = _bits(14, "")
    run: int = _bits(20, "bytes")
    source_plane: int = _bits(20, "bytes")
    source_row: int = _bits(20, "bytes")
    target_plane: int = _bits(20, "bytes")
    target_row: int = _bits(20, "bytes")


FUNCTIONS: dict[str, int] = {kind.name: number for number, kind in enumerate(APPROXIMATIONS)}
"""The numbers of approximations, by the names of their attributes."""


# --- words ---


def _numbers(kind: type[Instruction], name: str, bits: Bits, value: Any) -> tuple[int, ...]:
    """A field's value as the numbers that its parts hold; IsaError if one does not fit."""
    if isinstance(value, Address):
        found: tuple[int, ...] = (value.register, value.offset)
    elif isinstance(value, Increment):
        found = (value.register, value.step & 0xFFFFFFFF if -(1 << 31) <= value.step < 1 << 31 else value.step)
    elif isinstance(value, IntType):
        found = (value.bits - 1 | (1 << 6 if value.signed else 0),)
    else:
        found = (value,)
        if bits.kind == "signed" and -(1 << (bits.width - 1)) <= value < 1 << (bits.width - 1):
            return (value & ((1 << bits.width) - 1),)
    for number, width in zip(found, bits.parts, strict=True):
        if bits.kind == "signed" or not 0 <= number < 1 << width:
            raise IsaError(f"{kind.mnemonic}: {name} = {value} does not fit {width} bits")
    return found


def encode(instruction: Instruction) -> bytes:
    """The word of 32 bytes, little endian. IsaError names a field whose value does not fit."""
    kind = type(instruction)
    word, at = kind.opcode, OPCODE_BITS
    for name, bits in fields_of(kind).items():
        for number, width in zip(_numbers(kind, name, bits, getattr(instruction, name)), bits.parts, strict=True):
            word |= number << at
            at += width
    return word.to_bytes(WORD_BYTES, "little")


def decode(word: bytes) -> Instruction:
    """The instruction of a word; IsaError for an unknown opcode, a reserved bit that is not zero, or a value that is none."""
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
    if number:
        raise IsaError(f"{kind.mnemonic}: reserved bits are not zero")
    return kind(**values)


def _value(bits: Bits, parts: list[int]) -> Any:
    match bits.kind:
        case "address":
            return Address(parts[1], parts[0])
        case "increment":
            return Increment(parts[0], parts[1] - (parts[1] >> 31 << 32))
        case "type":
            return IntType((parts[0] & 63) + 1, bool(parts[0] >> 6))
        case "signed":
            return parts[0] - (parts[0] >> (bits.width - 1) << bits.width)
        case _:
            return parts[0]
