"""How the fields of an instruction are written: the notation that the assembler's text and the dialect share.

`name=value` for each field that is not as `Instruction` has it by default: `a=r1+0x40 a_row=192 b_memory=wbuf wait=load`.
Addresses are `0x40`, `r3` or `r3+0x40`, increments `r3+=64` or `r3-=64`, what `set` gives `r3=0x40`, queues names with commas,
types `i8` or `ui8`.
"""

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, NoReturn, Protocol

from qvit.backends.systolic.isa import REGISTERS, Address, Bits, Increment, Instruction, IsaError, fields_of, parts_of
from qvit.dialects.semantics.integers import IntType

REGISTER_NAMES: dict[str, int] = {f"r{number}": number for number in range(REGISTERS)}
TYPES: dict[str, IntType] = {
    str(held): held
    for held in (*(IntType(bits) for bits in range(1, 65)), *(IntType(bits, False) for bits in range(1, 33)))
}
"""The types that a field may have, by what they are called."""


class Cursor(Protocol):
    """A place in a text, at the start of a token."""

    @property
    def place(self) -> int:
        """For `fail`."""
        ...

    def word(self, known: Collection[str]) -> str | None:
        """Passes the next token if it is one of these words."""
        ...

    def sign(self, sign: str) -> bool:
        """Passes the next token if it is this sign: one of + - = ,"""
        ...

    def number(self) -> int | None:
        """Passes the next token if it is a number without a sign, decimal or 0x."""
        ...

    def fail(self, message: str, place: int | None = None) -> NoReturn:
        """An error at a place; without one, at the next token."""
        ...


@cache
def defaults_of(kind: type[Instruction]) -> Mapping[str, Any]:
    """The default of every field, in the order in which fields are written: those that all instructions have come last."""
    found = {f.name: f.default for f in fields(kind)}
    common = {f.name: found.pop(f.name) for f in fields(Instruction)}
    return found | common


def format_fields(instruction: Instruction, leave_out: Collection[str] = ()) -> str:
    """What is not as by default, with spaces between; '' where all is. An increment that changes nothing is written where a
    later one does."""
    kind = type(instruction)
    words: list[str] = []
    pending: list[str] = []
    for name, default in defaults_of(kind).items():
        value = getattr(instruction, name)
        if isinstance(value, Increment):
            pending.append(_format_step(fields_of(kind)[name].kind, value))
            if value != default:
                words += pending
                pending.clear()
        elif value != default and name not in leave_out:
            words.append(f"{name}={_format(fields_of(kind)[name], value)}")
    return " ".join(words)


def instruction_text(instruction: Instruction) -> str:
    """The mnemonic and the fields, on one line."""
    return f"{instruction.mnemonic} {format_fields(instruction)}".rstrip(" ")


def _format_step(kind: str, value: Increment) -> str:
    if kind == "assignment":
        return f"r{value.register}=0x{value.step & 0xFFFFFFFF:x}"
    return f"r{value.register}{'-' if value.step < 0 else '+'}={abs(value.step)}"


def _format(bits: Bits, value: Any) -> str:
    match bits.kind:
        case "address":
            if not value.register:
                return f"0x{value.offset:x}"
            return f"r{value.register}" + (f"+0x{value.offset:x}" if value.offset else "")
        case "enum":
            return bits.names[int(value)]
        case "queues":
            return ",".join(name for number, name in enumerate(bits.names) if value >> number & 1)
        case _:
            return str(value)


def parse_fields(cursor: Cursor, kind: type[Instruction], leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The fields that follow, up to what is none; each at most once, its value in its range."""
    bits_of = fields_of(kind)
    steps = [name for name, bits in bits_of.items() if bits.kind in ("increment", "assignment")]
    known = bits_of.keys() - {*steps, *leave_out}
    free = iter(steps)
    words = known | REGISTER_NAMES.keys() if steps else known
    found: dict[str, Any] = {}
    while (word := cursor.word(words)) is not None:
        place = cursor.place
        if word in known:
            if word in found:
                cursor.fail(f"expected every field once, found {word} again")
            if not cursor.sign("="):
                cursor.fail(f"expected = behind {word}")
            name, place, value = word, cursor.place, _parse(cursor, bits_of[word])
        else:
            name = next(free, "")
            if not name:
                cursor.fail(f"expected at most {len(steps)} registers")
            value = _step(cursor, bits_of[name].kind, REGISTER_NAMES[word])
        try:
            parts_of(kind, name, value)
        except IsaError as error:
            cursor.fail(str(error), place)
        found[name] = value
    return found


def _step(cursor: Cursor, kind: str, register: int) -> Increment:
    if kind == "assignment":
        if not cursor.sign("="):
            cursor.fail(f"expected = behind r{register}")
        step = _number(cursor)
        return Increment(register, step - (1 << 32) if 1 << 31 <= step < 1 << 32 else step)
    factor = 1 if cursor.sign("+") else -1 if cursor.sign("-") else 0
    if not factor or not cursor.sign("="):
        cursor.fail(f"expected += or -= behind r{register}")
    return Increment(register, factor * _number(cursor))


def _number(cursor: Cursor) -> int:
    number = cursor.number()
    return cursor.fail("expected a number") if number is None else number


def _one_of(cursor: Cursor, known: Collection[str]) -> str:
    word = cursor.word(known)
    return cursor.fail(f"expected one of {', '.join(known)}") if word is None else word


def _parse(cursor: Cursor, bits: Bits) -> Any:
    match bits.kind:
        case "address":
            if (name := cursor.word(REGISTER_NAMES)) is None:
                if (offset := cursor.number()) is None:
                    cursor.fail("expected an address, such as 0x40 or r3+0x40")
                return Address(offset)
            return Address(_number(cursor) if cursor.sign("+") else 0, REGISTER_NAMES[name])
        case "enum":
            return bits.names.index(_one_of(cursor, bits.names))
        case "queues":
            mask = 1 << bits.names.index(_one_of(cursor, bits.names))
            while cursor.sign(","):
                mask |= 1 << bits.names.index(_one_of(cursor, bits.names))
            return mask
        case "type":
            if (name := cursor.word(TYPES)) is None:
                cursor.fail("expected a type, i1..i64 or ui1..ui32")
            return TYPES[name]
        case "signed":
            return -_number(cursor) if cursor.sign("-") else _number(cursor)
        case _:
            return _number(cursor)
