"""Poly-GELU and bit-softmax over Python's own integers, from the formulas in the approximations' documentation.

It imports nothing of the compiler and no NumPy. Each function also returns its intermediates, by name, as lists.
"""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

Seen = dict[str, list[int]]
TWO = Fraction(2)


def poly_gelu(x: int, up: int, b: int, c: int, shift: int, drop: int) -> tuple[int, Seen]:
    refined = abs(x) * 2**up
    v = min(refined, -b) + b
    w = (v * v // 2**shift) ** 2
    sign = (x > 0) - (x < 0)
    total = sign * (w + c) + c
    factor = total // 2**drop
    y = x * factor
    numbers = {"refined": refined, "v": v, "v^2": v * v, "w": w, "factor": factor, "y": y}
    seen = {name: [value] for name, value in numbers.items()}
    return y, seen | ({"sum": [total]} if x else {})


def slope(f: int) -> int:
    return f // 2 + f // 8 + f // 16


def _octaves(difference: int, i0: int, last: int) -> tuple[int, int, int]:
    p = difference + difference // 2 - difference // 16
    clamped = max(p, last * i0)
    return p, clamped // i0, clamped - clamped // i0 * i0


def bit_softmax_published(
    row: Sequence[int], keep: Sequence[int], i0: int, n: int, m: int, bits: int
) -> tuple[list[int], Seen]:
    seen: Seen = defaultdict(list)
    kept = [x for x, k in zip(row, keep, strict=True) if k]
    exponentials: list[int] = []
    for x, k in zip(row, keep, strict=True):
        if not k:
            exponentials.append(0)
            continue
        p, q, r = _octaves(x - max(kept), i0, n)
        e = max(0, slope(r) - i0) * 2 ** (n - q)
        exponentials.append(e)
        for name, value in (("p", p), ("r", r), ("e", e)):
            seen[name].append(value)
    if not kept:
        return [0] * len(row), seen
    reciprocal = 2**m // sum(exponentials)
    result = [e * reciprocal // 2 ** (m - bits + 1) for e in exponentials]
    seen["sum"].append(sum(exponentials))
    seen["reciprocal"].append(reciprocal)
    seen["product"] += [e * reciprocal for e in exponentials]
    seen["y"] += result
    return result, seen


def bit_softmax(
    row: Sequence[int], keep: Sequence[int], up: int, i0: int, n: int, one: int, top: int
) -> tuple[list[int], Seen]:
    seen: Seen = defaultdict(list)
    kept = [x for x, k in zip(row, keep, strict=True) if k]
    last = n + (-2 * i0).bit_length()
    exponentials: list[int] = []
    for x, k in zip(row, keep, strict=True):
        if not k:
            exponentials.append(0)
            continue
        p, q, r = _octaves((x - max(kept)) * 2**up, i0, last)
        t = max(2 * (slope(r) - i0), slope(r - i0) - i0)
        e = (t * TWO ** (n - q)).__floor__()
        exponentials.append(e)
        for name, value in (("p", p), ("r", r), ("t", t), ("e", e)):
            seen[name].append(value)
    if not kept:
        return [0] * len(row), seen
    total = sum(exponentials)
    bits = 0
    while 2**bits <= total:
        bits += 1
    dividend = one * 2 ** (bits + 7) + total // 2
    reciprocal = dividend // total
    products = [e * reciprocal + 2 ** (bits + 6) for e in exponentials]
    result = [min(p // 2 ** (bits + 7), top) for p in products]
    seen["sum"].append(total)
    seen["dividend"].append(dividend)
    seen["reciprocal"].append(reciprocal)
    seen["product"] += products
    seen["y"] += result
    return result, seen
