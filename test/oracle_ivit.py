"""I-ViT's softmax, GELU and layer normalisation over Python's own integers, a row at a time; as published, and sound.

Written from the formulas, to hold the NumPy semantics to by equality: it imports nothing of the compiler and no NumPy.
Every function returns (results, trace): the trace has the values of every intermediate by name.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from math import isqrt
from typing import TypeAlias

Trace: TypeAlias = dict[str, list[int]]
Row: TypeAlias = Sequence[int]

INT32 = 2**31 - 1


def shifted(x: int, left: int) -> int:
    """floor(x 2^left)."""
    return x * 2**left if left >= 0 else x // 2**-left


def half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator, positive, to nearest, ties up."""
    return (2 * numerator + denominator) // (2 * denominator)


# --- as published ---


@cache
def published_exponential(x: int, i0: int, n: int) -> tuple[int, dict[str, int]]:
    """floor((r / 2 - I0) 2^(n - q)), and its parts."""
    p = max(x + x // 2 - x // 16, n * i0)
    q = p // i0
    r = p - i0 * q
    line = r - 2 * i0
    return shifted(line, n - q) // 2, {"p": p, "q": q, "line": line}


def shiftmax_published(row: Row, i0: int, n: int, bits: int, mask: Row | None = None) -> tuple[list[int], Trace]:
    kept = [x for x, m in zip(row, mask or [1] * len(row), strict=True) if m]
    trace: Trace = defaultdict(list)
    if not kept:
        return [0] * len(row), trace
    es: list[int] = []
    for x in kept:
        e, parts = published_exponential(x - max(kept), i0, n)
        es.append(e)
        for name, value in parts.items():
            trace[name].append(value)
    total = min(sum(es), INT32)
    reciprocal = INT32 // total
    products = [e * reciprocal for e in es]
    ys = [product // 2 ** (32 - bits) for product in products]
    trace |= {"e": es, "total": [sum(es)], "sum": [total], "reciprocal": [reciprocal], "product": products, "y": ys}
    results = iter(ys)
    return [next(results) if m else 0 for m in mask or [1] * len(row)], trace


def shiftgelu_published(row: Row, i0: int, n: int, bits: int) -> tuple[list[int], Trace]:
    trace: Trace = defaultdict(list)
    top = max(row)
    e0, parts = published_exponential(-top, i0, n)
    trace["p0"].append(parts["p"])
    trace["e0"].append(min(e0, INT32))
    for x in row:
        e, parts = published_exponential(x - top, i0, n)
        denominator = min(e + e0, INT32)
        reciprocal = INT32 // denominator
        sigma = e * reciprocal // 2 ** (32 - bits)
        values = {"p": parts["p"], "e": e, "denominator": denominator, "reciprocal": reciprocal}
        for name, value in (values | {"product": e * reciprocal, "sigma": sigma, "y": x * sigma}).items():
            trace[name].append(value)
    return trace["y"], trace


def rounded_mean(row: Row) -> int:
    """Half to even."""
    mean, rest = divmod(sum(row), len(row))
    return mean + (2 * rest > len(row) or (2 * rest == len(row) and mean % 2 == 1))


def newton(squares: int, steps: int) -> tuple[int, list[int], list[int]]:
    """The last iterate from 2^16, all of them, and their quotients."""
    iterates, quotients = [2**16], []
    for _ in range(steps):
        quotients.append(squares // iterates[-1])
        iterates.append((iterates[-1] + quotients[-1]) // 2)
    return iterates[-1], iterates, quotients


def layer_norm_published(row: Row, bias: Row) -> tuple[list[int], Trace]:
    mean = rounded_mean(row)
    deviations = [x - mean for x in row]
    squares = sum(d * d for d in deviations)
    root, iterates, quotients = newton(squares, 10)
    reciprocal = INT32 // root
    products = [d * reciprocal for d in deviations]
    us = [product // 2 for product in products]
    ys = [u + b for u, b in zip(us, bias, strict=True)]
    return ys, {
        "sum": [sum(row)],
        "mean": [mean],
        "deviation": deviations,
        "squares": [squares],
        "root": iterates,
        "quotient": quotients,
        "reciprocal": [reciprocal],
        "product": products,
        "u": us,
        "y": ys,
    }


# --- sound ---


@cache
def shift_exponential(d: int, up: int, octave: int, n: int) -> tuple[int, int]:
    """floor(2^n (2 octave - r) / 2^q) for d codes below the maximum, and the line (octave if that far below that it is 0)."""
    q, r = divmod(shifted(d, up), octave)
    if q >= 31:
        return 0, 2 * octave
    return (2 * octave - r) * 2**n // 2**q, 2 * octave - r


def normalised(es: Row, one: int, top: int) -> tuple[list[int], Trace]:
    """A row of exponentials over their sum."""
    total = sum(es)
    unit = 2 ** (total.bit_length() + 14)
    dividend = one * unit + total // 2
    reciprocal = dividend // total
    products = [e * reciprocal for e in es]
    ys = [min(half_up(product, unit), top) for product in products]
    return ys, {
        "e": list(es),
        "sum": [total],
        "dividend": [dividend],
        "reciprocal": [reciprocal],
        "product": products,
        "rounded": [product + unit // 2 for product in products],
        "y": ys,
    }


def shiftmax(
    row: Row, up: int, octave: int, n: int, one: int, top: int, mask: Row | None = None
) -> tuple[list[int], Trace]:
    kept = [x for x, m in zip(row, mask or [1] * len(row), strict=True) if m]
    if not kept:
        return [0] * len(row), {}
    pairs = [shift_exponential(max(kept) - x, up, octave, n) for x in kept]
    ys, trace = normalised([e for e, _ in pairs], one, top)
    results = iter(ys)
    return [next(results) if m else 0 for m in mask or [1] * len(row)], trace | {"line": [line for _, line in pairs]}


def shiftgelu(row: Row, up: int, octave: int) -> tuple[list[int], Trace]:
    trace: Trace = defaultdict(list)
    for x in row:
        e, line = shift_exponential(abs(x), up, octave, 3)
        denominator = 16 * octave + e
        dividend = 16 * octave * 2**15 + denominator // 2
        right = dividend // denominator
        sigma = right if x >= 0 else 2**15 - right
        values = {
            "line": line,
            "e": e,
            "denominator": denominator,
            "dividend": dividend,
            "sigma": sigma,
            "y": x * sigma,
        }
        for name, value in values.items():
            trace[name].append(value)
    return trace["y"], trace


def layer_norm(
    row: Row, gain: Row, offset: Row, guard: int, epsilon: int, target: tuple[int, int], bits: int
) -> tuple[list[int], Trace]:
    """With a square root of `bits` bits, 30 for I-BERT's and 60 for I-ViT's: the root of a number of bits or bits + 1 more."""
    channels, total = len(row), sum(row)
    squares = sum(x * x for x in row)
    variance = max(channels * squares - total * total + epsilon, 1)
    h = 0  # w = floor(4^h variance) of bits + 1 or bits + 2 bits
    while shifted(variance, 2 * h) >= 2 ** (bits + 2):
        h -= 1
    while shifted(variance, 2 * h) < 2**bits:
        h += 1
    w = shifted(variance, 2 * h)
    root = isqrt(w)
    # 1 / sqrt(variance) = 2^h / root; the reciprocal has 31 bits
    unit = 31 + bits // 2
    reciprocal = 2**unit // root
    deviations = [channels * x - total for x in row]
    products = [d * reciprocal for d in deviations]
    us = [shifted(product, 24 - unit + h) for product in products]
    gained = [u * g for u, g in zip(us, gain, strict=True)]
    rounded = [g // 2**32 + o + 2 ** (guard - 1) for g, o in zip(gained, offset, strict=True)]
    ys = [min(max(r // 2**guard, target[0]), target[1]) for r in rounded]
    return ys, {
        "sum": [total],
        "squares": [squares],
        "C squares": [channels * squares],
        "variance": [variance],
        "w": [w],
        "root": [root],
        "reciprocal": [reciprocal],
        "deviation": deviations,
        "deviation rsqrt": products,
        "u": us,
        "u gain": gained,
        "rounded": rounded,
        "y": ys,
    }
