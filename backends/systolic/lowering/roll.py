"""Repeated instructions become loops.

Instructions repeat where everything but their addresses is the same and the addresses of each go up, or down, by a step of
its own. A step becomes the increment of a register, which the addresses of that step then are relative to. The sequence
that the machine meets is the same, word for word.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from qvit.backends.systolic.isa import (
    REGISTERS,
    Add,
    Address,
    Increment,
    Instruction,
    Loop,
    Set,
    fields_of,
)
from qvit.dialects.semantics.integers import Array, Int64

LONGEST = 160
"""Instructions of a loop's body, at most."""
ADDRESSES = 5
"""Of one instruction, at most."""


@cache
def address_fields(kind: type[Instruction]) -> tuple[str, ...]:
    """The fields that hold addresses."""
    return tuple(name for name, bits in fields_of(kind).items() if bits.kind == "address")


@dataclass(frozen=True)
class _Repeat:
    """Instructions first .. first + length - 1, `count` times."""

    first: int
    length: int
    count: int


def rolled(instructions: Sequence[Instruction]) -> list[Instruction]:
    """The same sequence with loops, one inside no other."""
    keys = _keys(instructions)
    addresses = np.zeros((len(instructions), ADDRESSES), np.int64)
    for row, instruction in zip(addresses, instructions, strict=True):
        for at, name in enumerate(address_fields(type(instruction))):
            row[at] = getattr(instruction, name).offset
    words: list[Instruction] = []
    at = 0
    for repeat in _chosen(keys, addresses):
        words += instructions[at : repeat.first]
        words += _loop(instructions, addresses, repeat)
        at = repeat.first + repeat.length * repeat.count
    return [*words, *instructions[at:]]


def _keys(instructions: Sequence[Instruction]) -> Int64:
    """Equal numbers for instructions that differ in their addresses alone."""
    numbers: dict[Instruction, int] = {}
    zero = Address(0)
    found = np.zeros(len(instructions), np.int64)
    for at, instruction in enumerate(instructions):
        plain = replace(instruction, **dict.fromkeys(address_fields(type(instruction)), zero))
        found[at] = numbers.setdefault(plain, len(numbers))
    return found


def _chosen(keys: Int64, addresses: Array) -> list[_Repeat]:
    """Repeats that do not overlap, from the start on the one that saves most, where it saves anything."""
    n = len(keys)
    best = np.zeros(n, np.int64)
    length, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
    for period in range(1, min(LONGEST, n // 2) + 1):
        same = np.zeros(n, bool)
        same[: n - period] = keys[period:] == keys[:-period]
        step = np.zeros_like(addresses)
        step[: n - period] = addresses[period:] - addresses[:-period]
        steady = np.zeros(n, bool)
        steady[: n - period] = same[: n - period] & same[period:] & (step[: n - period] == step[period:]).all(1)
        first, more = _runs(same), _runs(steady)
        # the second time must be as the first, and every later one by the same steps again
        times = np.where(first >= period, 2 + np.minimum(more, np.maximum(first - period, 0)) // period, 0)
        saved = period * (times - 1)
        worth = np.where(times >= 2, saved - 4, 0)
        better = worth > best
        best[better], length[better], count[better] = worth[better], period, times[better]
    chosen: list[_Repeat] = []
    at = 0
    while at < n:
        if best[at] <= 0:
            at += 1
            continue
        # a little later may begin a longer one
        window = best[at : at + int(length[at])]
        ahead = int(window.argmax())
        start = at + ahead if window[ahead] > best[at] + ahead else at
        chosen.append(_Repeat(start, int(length[start]), int(count[start])))
        at = start + int(length[start] * count[start])
    return chosen


def _runs(flags: Array) -> Int64:
    """For each place how many flags from it on are set."""
    places = np.arange(len(flags))
    ends = np.where(flags, len(flags), places)
    return np.minimum.accumulate(ends[::-1])[::-1] - places


def _loop(instructions: Sequence[Instruction], addresses: Array, repeat: _Repeat) -> list[Instruction]:
    """The words of a repeat; as they are where it has more steps than there are registers, or nothing is won."""
    body = range(repeat.first, repeat.first + repeat.length)
    plain = list(instructions[repeat.first : repeat.first + repeat.length * repeat.count])
    registers: dict[int, int] = {0: 0}
    words: list[Instruction] = []
    for at in body:
        changed: dict[str, Address] = {}
        for field, name in enumerate(address_fields(type(instructions[at]))):
            step = int(addresses[at + repeat.length, field] - addresses[at, field])
            register = registers.setdefault(step, len(registers))
            changed[name] = Address(int(addresses[at, field]), register)
        words.append(replace(instructions[at], **changed))
    if len(registers) > REGISTERS:
        return plain
    sets = [Set(register=register, value=0) for register in registers.values() if register]
    increments = [Increment(register, step) for step, register in registers.items() if register]
    adds = [Add(**_named(increments[i : i + 4])) for i in range(4, len(increments), 4)]
    body_words = [*words, *adds]
    loop = Loop(length=len(body_words), count=repeat.count, **_named(increments[:4]))
    found = [*sets, loop, *body_words]
    return found if len(found) < len(plain) else plain


def _named(increments: Sequence[Increment]) -> dict[str, Increment]:
    return dict(zip(("first", "second", "third", "fourth"), increments, strict=False))
