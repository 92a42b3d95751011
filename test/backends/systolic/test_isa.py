"""Words: every field where the document says, nothing else in them, and no value that is not refused or kept."""

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_programs import INSTRUCTION

from qvit.backends.systolic.isa import (
    FUNCTIONS,
    INSTRUCTIONS,
    MNEMONICS,
    OPCODE_BITS,
    WORD_BITS,
    WORD_BYTES,
    Add,
    Address,
    Arith,
    Function,
    Halt,
    Increment,
    Instruction,
    IsaError,
    Load,
    Loop,
    MatrixMultiply,
    Requantize,
    Set,
    decode,
    encode,
    fields_of,
)
from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.semantics.integers import IntType


@given(INSTRUCTION)
def test_words_give_the_instruction_again(instruction: Instruction) -> None:
    word = encode(instruction)
    assert len(word) == WORD_BYTES
    assert decode(word) == instruction


@given(INSTRUCTION, st.integers(0, WORD_BITS - 1))
def test_every_bit_counts(instruction: Instruction, bit: int) -> None:
    """A word with another bit is refused, or another instruction, which has that very word."""
    word = (int.from_bytes(encode(instruction), "little") ^ 1 << bit).to_bytes(WORD_BYTES, "little")
    try:
        found = decode(word)
    except IsaError:
        return
    assert found != instruction
    assert encode(found) == word


WORDS: dict[str, tuple[Instruction, int]] = {
    "halt": (Halt(), 0x01),
    "tokens and node": (Halt(wait=0b0101, signal=0b1000, node=0x1234), 0x1234_85_01),
    "set": (Set(first=Increment(31, 1 - (1 << 31))), 0x02 | 31 << 32 | 0x80000001 << 37),
    "a step below zero": (Add(first=Increment(3, -2)), 0x04 | 3 << 32 | 0xFFFFFFFE << 37),
    "the last increment": (Loop(fourth=Increment(1, 1)), 0x03 | 1 << 175 | 1 << 180),
    "dram": (Load(memory=2, source=Address(0xFFFFFFFF, 1)), 0x10 | 2 << 32 | 1 << 34 | 0xFFFFFFFF << 39),
    "types": (
        MatrixMultiply(a_type=IntType(8, False), b_type=IntType(2), a_zero=-1),
        0x20 | 7 << 77 | 0x1FF << 84 | 1 << 140 | 1 << 146,
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_word(name: str) -> None:
    """Against words put together by hand."""
    instruction, word = WORDS[name]
    assert int.from_bytes(encode(instruction), "little") == word


REFUSED: dict[str, tuple[Instruction, str]] = {
    "unsigned": (Load(rows=1 << 14), "load: rows is 0..16383, found 16384"),
    "negative": (Load(run=-1), "load: run is 0..1048575, found -1"),
    "signed": (MatrixMultiply(a_zero=256), "matmul: a_zero is -256..255, found 256"),
    "signed, below": (MatrixMultiply(a_zero=-257), "matmul: a_zero is -256..255, found -257"),
    "register": (Set(first=Increment(32)), "set: first is a register 0..31 and a step -2147483648..2147483647"),
    "queues": (Halt(wait=16), "halt: wait is 0..15, found 16"),
    "address": (MatrixMultiply(a=Address(1 << 22)), "matmul: a is a register 0..31 and an offset 0..4194303"),
    "address's register": (MatrixMultiply(a=Address(0, 32)), "matmul: a is a register 0..31 and an offset"),
    "step": (Add(second=Increment(1, 1 << 31)), "add: second is a register 0..31 and a step -2147483648..2147483647"),
    "step, below": (Add(second=Increment(1, -(1 << 31) - 1)), "add: second is a register"),
    "65 bits": (Requantize(target_type=IntType(65, False)), "target_type is i1..i64 or ui1..ui32, found ui65"),
    "33 bits unsigned": (Requantize(target_type=IntType(33, False)), "found ui33"),
    "name": (Arith(operation=9), "arithmetic: operation is 0..8 (add, sub, mul"),
    "function": (Function(function=len(FUNCTIONS)), "function: function is 0..30 (sm8, "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_do_not_fit(name: str) -> None:
    instruction, message = REFUSED[name]
    with pytest.raises(IsaError) as error:
        encode(instruction)
    assert message in str(error.value)


def test_the_edges_fit() -> None:
    for instruction in (Add(first=Increment(31, -(1 << 31))), MatrixMultiply(a_zero=-256), Arith(operation=8)):
        assert decode(encode(instruction)) == instruction


DAMAGED = {
    "short": (bytes(31), "a word has 32 bytes, found 31"),
    "no opcode": (bytes(32), "there is no opcode 0x00"),
    "reserved": (encode(Halt())[:31] + b"\x01", "halt: reserved bits are not zero"),
    "function": (encode(Function())[:4] + b"\x1f" + encode(Function())[5:], "function: function is 0..30"),
    "operation": (encode(Arith())[:4] + b"\x09" + encode(Arith())[5:], "arithmetic: operation is 0..8"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_words_that_are_none(name: str) -> None:
    word, message = DAMAGED[name]
    with pytest.raises(IsaError) as error:
        decode(word)
    assert message in str(error.value)


def test_an_unsigned_type_of_more_than_32_bits_is_none() -> None:
    word = int.from_bytes(encode(Requantize(target_type=IntType(33))), "little")
    at = _place(Requantize, "target_type") + 6  # the bit that says signed
    with pytest.raises(IsaError, match="target_type is i1..i64 or ui1..ui32, found ui33"):
        decode((word ^ 1 << at).to_bytes(WORD_BYTES, "little"))


def _place(kind: type[Instruction], name: str) -> int:
    at = OPCODE_BITS
    for field, bits in fields_of(kind).items():
        if field == name:
            return at
        at += bits.width
    raise AssertionError(name)


@pytest.mark.parametrize("kind", INSTRUCTIONS.values(), ids=lambda kind: kind.mnemonic)
def test_every_field_says_what_it_is(kind: type[Instruction]) -> None:
    assert kind.__doc__
    assert MNEMONICS[kind.mnemonic] is INSTRUCTIONS[kind.opcode] is kind
    for name, bits in fields_of(kind).items():
        assert bits.doc, name
        assert (bits.kind in ("enum", "queues")) == bool(bits.names)


@pytest.mark.parametrize("kind", INSTRUCTIONS.values(), ids=lambda kind: kind.mnemonic)
def test_fields_lie_behind_each_other(kind: type[Instruction]) -> None:
    """Each field alone changes the bits of its place, and no others."""
    base = int.from_bytes(encode(kind()), "little")
    for f in fields(kind):
        bits = fields_of(kind)[f.name]
        changed = int.from_bytes(encode(replace(kind(), **{f.name: _other(f.default, bits.kind)})), "little") ^ base
        at = _place(kind, f.name)
        assert changed
        assert changed >> at << at == changed < 1 << (at + bits.width)


def _other(default: Any, kind: str) -> Any:
    match kind:
        case "address":
            return Address(1, 31)
        case "increment" | "assignment":
            return Increment(31, -1)
        case "type":
            return IntType(32, False)
        case "signed":
            return -1
        case _:
            return default + 1


def test_functions_are_those_of_the_semantics() -> None:
    assert [kind.name for kind in APPROXIMATIONS] == list(FUNCTIONS)
    assert list(FUNCTIONS.values()) == list(range(31))
