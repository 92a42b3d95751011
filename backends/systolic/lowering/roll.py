"""Repeated instructions become loops.

Instructions repeat where everything but their addresses is the same and each address goes up, or down, by a step of its
own. A step becomes the increment of a register, to which the addresses with that step are relative. What was rolled may
repeat in turn. The sequence that the machine meets is the same, word for word.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from qvit.backends.systolic.isa import REGISTERS, Add, Address, Increment, Instruction, Loop, Set, fields_of
from qvit.dialects.semantics.integers import Array, Int64

LONGEST = 160
"""Items of a loop's body, at most."""


@cache
def address_fields(kind: type[Instruction]) -> tuple[str, ...]:
    """The fields that hold addresses."""
    return tuple(name for name, bits in fields_of(kind).items() if bits.kind == "address")


@dataclass(frozen=True)
class _Word:
    """An instruction; its addresses apart."""

    plain: Instruction
    addresses: tuple[int, ...]
    words: int = 1

    @property
    def key(self) -> Hashable:
        return self.plain


@dataclass(frozen=True)
class _Rolled:
    """Items `count` times; steps: what each of their addresses, in order, grows by each time."""

    body: tuple["_Item", ...]
    count: int
    steps: tuple[int, ...]

    @cached_property
    def addresses(self) -> tuple[int, ...]:
        return tuple(address for item in self.body for address in item.addresses)

    @cached_property
    def key(self) -> Hashable:
        return (tuple(item.key for item in self.body), self.count, self.steps)

    @cached_property
    def words(self) -> int:
        """What its loop takes, with additions of more than four steps."""
        return 1 + sum(item.words for item in self.body) + max(len(set(self.steps) - {0}) - 4, 0) // 4


_Item = _Word | _Rolled


def rolled(instructions: Sequence[Instruction], depth: int) -> list[Instruction]:
    """The same sequence with loops, of at most `depth` levels."""
    zero = Address(0)
    items: list[_Item] = []
    for instruction in instructions:
        names = address_fields(type(instruction))
        addresses = tuple(getattr(instruction, name).offset for name in names)
        items.append(_Word(replace(instruction, **dict.fromkeys(names, zero)), addresses))
    for _ in range(depth):
        once = _once(items)
        if len(once) == len(items):
            break
        items = once
    return [word for item in items for word in _written(item)]


# --- what repeats ---


def _once(items: Sequence[_Item]) -> list[_Item]:
    """One level of loops around items that repeat."""
    found: list[_Item] = []
    at = 0
    for first, length, count in _chosen(items):
        body, after = items[first : first + length], items[first + length : first + 2 * length]
        steps = tuple(b - a for a, b in zip(_addresses(body), _addresses(after), strict=True))
        loop = _Rolled(tuple(body), count, steps)
        found += items[at:first]
        at = first + length * count
        found += [loop] if _is(loop, items[first:at]) and _registers(loop) else items[first:at]
    return [*found, *items[at:]]


def _addresses(items: Sequence[_Item]) -> Iterator[int]:
    return (address for item in items for address in item.addresses)


def _is(loop: _Rolled, items: Sequence[_Item]) -> bool:
    """Whether a loop stands for these items: sums of addresses, by which they were found, may agree by chance."""
    length = len(loop.body)
    for n in range(loop.count):
        expected = (a + n * step for a, step in zip(loop.addresses, loop.steps, strict=True))
        if tuple(expected) != tuple(_addresses(items[n * length : (n + 1) * length])):
            return False
    return True


def _chosen(items: Sequence[_Item]) -> Iterator[tuple[int, int, int]]:
    """(first, length, count) of repeats that do not overlap, of those at hand the one that saves most words."""
    n = len(items)
    numbers: dict[Hashable, int] = {}
    keys = np.array([numbers.setdefault(item.key, len(numbers)) for item in items], np.int64)
    factors = np.random.default_rng(0).integers(1, 1 << 62, max(len(item.addresses) for item in items), np.int64)
    with np.errstate(over="ignore"):  # modulo 2^64
        sums = np.array(
            [(np.array(i.addresses, np.int64) * factors[: len(i.addresses)]).sum() for i in items], np.int64
        )
    words = np.concatenate([[0], np.cumsum([item.words for item in items])])
    best, length, count = (np.zeros(n, np.int64) for _ in range(3))
    for period in range(1, min(LONGEST, n // 2) + 1):
        same, step = np.zeros(n, bool), np.zeros(n, np.int64)
        same[: n - period] = keys[period:] == keys[:-period]
        if not same.any():
            continue
        with np.errstate(over="ignore"):
            step[: n - period] = sums[period:] - sums[:-period]
        steady = np.zeros(n, bool)
        steady[: n - period] = same[: n - period] & same[period:] & (step[: n - period] == step[period:])
        first, more = _runs(same), _runs(steady)
        # the second time must be as the first, and every later one by the same steps again
        times = np.where(first >= period, 2 + np.minimum(more, np.maximum(first - period, 0)) // period, 0)
        ends = np.minimum(np.arange(n) + period, n)
        saved = (words[ends] - words[:-1]) * (times - 1)
        worth = np.where(times >= 2, saved - 4, 0)
        better = worth > best
        best[better], length[better], count[better] = worth[better], period, times[better]
    at = 0
    while at < n:
        if best[at] <= 0:
            at += 1
            continue
        # a little later may begin a longer one
        ahead = int(best[at : at + int(length[at])].argmax())
        start = at + ahead if best[at + ahead] > best[at] + ahead else at
        yield start, int(length[start]), int(count[start])
        at = start + int(length[start] * count[start])


def _runs(flags: Array) -> Int64:
    """For each place how many flags from it on are set."""
    places = np.arange(len(flags))
    ends = np.where(flags, len(flags), places)
    return np.minimum.accumulate(ends[::-1])[::-1] - places


# --- words ---

Path = tuple[int, ...]
"""The loops around an address, the outermost first, each by its number."""
Steps = tuple[int, ...]
"""What an address grows by each time of each of these loops."""


def _paths(item: _Item, path: Path, steps: Sequence[Steps], number: Iterator[int]) -> Iterator[tuple[Path, Steps]]:
    """The loops and steps of each address; steps: those of the loops outside, for each address."""
    if isinstance(item, _Word):
        yield from ((path, s) for s in steps)
        return
    path = (*path, next(number))
    at = 0
    for inner in item.body:
        size = len(inner.addresses)
        both = [(*steps[i], item.steps[i]) for i in range(at, at + size)]
        yield from _paths(inner, path, both, number)
        at += size


def _registers(item: _Item) -> dict[tuple[Path, Steps], int]:
    """The register of each kind of address; empty where there are too few."""
    found: dict[tuple[Path, Steps], int] = {}
    for path, steps in _paths(item, (), [()] * len(item.addresses), iter(range(1 << 30))):
        if any(steps):
            found.setdefault((path, steps), len(found) + 1)
    return found if len(found) < REGISTERS else {}


def _written(item: _Item) -> list[Instruction]:
    """The words of an item, with what sets the registers of a loop in front."""
    registers = _registers(item)
    zeros = [Increment(register, 0) for register in registers.values()]
    sets = [_set(zeros[i : i + 4]) for i in range(0, len(zeros), 4)]
    return [*sets, *_words(item, (), [()] * len(item.addresses), registers, iter(range(1 << 30)))]


def _words(
    item: _Item,
    path: Path,
    steps: Sequence[Steps],
    registers: dict[tuple[Path, Steps], int],
    number: Iterator[int],
) -> list[Instruction]:
    if isinstance(item, _Word):
        names = address_fields(type(item.plain))
        found = (Address(a, registers.get((path, s), 0)) for a, s in zip(item.addresses, steps, strict=True))
        return [replace(item.plain, **dict(zip(names, found, strict=True)))]
    path = (*path, next(number))
    body: list[Instruction] = []
    at = 0
    for inner in item.body:
        size = len(inner.addresses)
        both = [(*steps[i], item.steps[i]) for i in range(at, at + size)]
        body += _words(inner, path, both, registers, number)
        at += size
    counts = _counts(item, path[-1])
    increments: list[Increment] = []
    for (other, s), register in registers.items():
        if other[: len(path)] == path:
            deeper = len(other) > len(path)  # the loop inside has moved it already
            step = s[len(path) - 1] - (counts[other[len(path)]] * s[len(path)] if deeper else 0)
            if step:
                increments.append(Increment(register, step))
    adds = [_add(increments[i : i + 4]) for i in range(4, len(increments), 4)]
    first, second, third, fourth = _four(increments)
    length = len(body) + len(adds)
    loop = Loop(length=length, count=item.count, first=first, second=second, third=third, fourth=fourth)
    return [loop, *body, *adds]


def _set(increments: Sequence[Increment]) -> Instruction:
    first, second, third, fourth = _four(increments)
    return Set(first=first, second=second, third=third, fourth=fourth)


def _add(increments: Sequence[Increment]) -> Instruction:
    first, second, third, fourth = _four(increments)
    return Add(first=first, second=second, third=third, fourth=fourth)


def _counts(item: _Rolled, number: int) -> dict[int, int]:
    """How often the loops inside a loop of that number run, by their numbers: those that `_words` gives them."""
    found: dict[int, int] = {}
    for inner in item.body:
        if isinstance(inner, _Rolled):
            at = number + len(found) + 1
            found[at] = inner.count
            found |= _counts(inner, at)
    return found


def _four(increments: Sequence[Increment]) -> tuple[Increment, Increment, Increment, Increment]:
    """The first four, with such as change nothing in the place of those that there are not."""
    first, second, third, fourth = (*increments, *[Increment()] * 4)[:4]
    return first, second, third, fourth
