"""ITA's softmax, GELU and requantize over Python's own integers, from the formulas in the approximations' documentation.

It imports nothing of the compiler and no NumPy. Each function also returns its intermediates, by name, as lists.
"""

from collections import defaultdict
from collections.abc import Sequence

Seen = dict[str, list[int]]


def _octaves(difference: int, shift: int) -> int:
    """difference / 2^shift to nearest, ties up."""
    return (2 * difference + 2**shift) // 2 ** (shift + 1)


def softmax(row: Sequence[int], keep: Sequence[int], shift: int, group: int) -> tuple[list[int], Seen]:
    """One score after another would shift the sum at every rise; so whole groups are read, the maximum of each first."""
    seen: Seen = defaultdict(list)
    top: int | None = None
    total = 0
    for start in range(0, len(row), group):
        part = [x for x, k in zip(row[start : start + group], keep[start : start + group], strict=True) if k]
        if not part:
            continue
        if top is None:
            top = max(part)
        elif max(part) > top:
            total //= 2 ** _octaves(max(part) - top, shift)
            top = max(part)
        weights = [256 // 2 ** _octaves(top - x, shift) for x in part]
        total += sum(weights)
        seen["weight"] += weights
    if top is None:
        return [0] * len(row), seen
    reciprocal = 65280 // total
    seen["sum"].append(total)
    seen["reciprocal"].append(reciprocal)
    shifts = [_octaves(top - x, shift) for x in row]
    seen["shift"] += [s for s, k in zip(shifts, keep, strict=True) if k]
    seen["y"] += (y := [reciprocal // 2**s if k else 0 for s, k in zip(shifts, keep, strict=True)])
    return y, seen


def gelu(x: int, b: int, c: int) -> tuple[int, Seen]:
    x = max(x, -127)
    d = min(abs(x), -b) + b
    sign = (x > 0) - (x < 0)
    total = sign * (d * d + c) + c
    y = x * total
    return y, {"d": [d], "d^2": [d * d], "y": [y]} | ({"sum": [total]} if x else {})


def requantize(accumulator: int, multiplier: int, shift: int, addend: int) -> int:
    return max(-128, min(127, (2 * multiplier * accumulator + 2**shift) // 2 ** (shift + 1) + addend))
