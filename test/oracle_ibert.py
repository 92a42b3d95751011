"""I-BERT's softmax, GELU and layer normalisation over Python's own integers, a row at a time; as published, and sound.

As oracle_ivit.py: nothing of the compiler, no NumPy, and (results, trace). The sound layer normalisation is there.
"""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from math import isqrt
from typing import TypeAlias

from oracle_ivit import Trace, normalised, rounded_mean, shifted

Row: TypeAlias = Sequence[int]


@cache
def i_exp(d: int, x0: int, b: int, c: int, n: int, multiplier: int, shift: int) -> dict[str, int]:
    """The exponential, d codes below the maximum, and its 16-bit code; with the parts."""
    x = max(-d, n * x0)
    q, r = x // x0, x - x0 * (x // x0)
    polynomial = r * (r + b) + c
    exponential = int(max(polynomial * Fraction(2) ** (n - q), Fraction(0)))
    code = round(exponential * Fraction(multiplier, 2**shift))  # half to even
    return {
        "x": x,
        "q": q,
        "polynomial": polynomial,
        "exponential": exponential,
        "requantize product": polynomial * multiplier,
        "e": min(max(code, -(2**15)), 2**15 - 1),
    }


def i_softmax_published(
    row: Row, x0: int, b: int, c: int, n: int, multiplier: int, shift: int, bits: int, mask: Row | None = None
) -> tuple[list[int], Trace]:
    trace: Trace = defaultdict(list)
    kept = [x for x, m in zip(row, mask or [1] * len(row), strict=True) if m]
    if not kept:
        return [0] * len(row), trace
    for x in kept:
        for name, value in i_exp(max(kept) - x, x0, b, c, n, multiplier, shift).items():
            trace[name].append(value)
    total = sum(trace["e"])
    reciprocal = 2**32 // total
    products = [e * reciprocal for e in trace["e"]]
    ys = [product // 2 ** (32 - bits) for product in products]
    trace |= {"sum": [total], "reciprocal": [reciprocal], "product": products, "y": ys}
    results = iter(ys)
    return [next(results) if m else 0 for m in mask or [1] * len(row)], trace


def i_softmax(
    row: Row, up: int, octave: int, b: int, c: int, one: int, top: int, mask: Row | None = None
) -> tuple[list[int], Trace]:
    kept = [x for x, m in zip(row, mask or [1] * len(row), strict=True) if m]
    if not kept:
        return [0] * len(row), {}
    polynomials: list[int] = []
    es: list[int] = []
    for x in kept:
        q, r = divmod(shifted(max(kept) - x, up), octave)
        polynomials.append(r * r - b * r + c if q < 31 else c)
        es.append(polynomials[-1] // 2**q if q < 31 else 0)
    ys, trace = normalised(es, one, top)
    results = iter(ys)
    return [next(results) if m else 0 for m in mask or [1] * len(row)], trace | {"polynomial": polynomials}


def sign(x: int) -> int:
    return (x > 0) - (x < 0)


def i_gelu(row: Row, b: int, c: int, one: int, shift: int, up: int = 0) -> tuple[list[int], Trace]:
    trace: Trace = defaultdict(list)
    for x in row:
        near = min(max(x, b), -b) * 2**up
        root = min(abs(x) * 2**up, -b) + b
        polynomial = sign(x) * (root**2 + c)
        erf = polynomial // 2**shift
        values = {"near": near, "root": root, "square": root**2, "polynomial": polynomial, "erf": erf}
        for name, value in (values | {"erf + 1": erf + one, "y": x * (erf + one)}).items():
            trace[name].append(value)
    return trace["y"], trace


def layer_norm_published(row: Row, bias: Row, shift: int) -> tuple[list[int], Trace]:
    mean = rounded_mean(row)
    deviations = [x - mean for x in row]
    parts = [d // 2**shift for d in deviations]
    squares = sum(s * s for s in parts)
    root = max(isqrt(squares), 1) * 2**shift
    reciprocal = 2**31 // root
    products = [d * reciprocal for d in deviations]
    us = [product // 2 for product in products]
    ys = [u + b for u, b in zip(us, bias, strict=True)]
    return ys, {
        "sum": [sum(row)],
        "mean": [mean],
        "deviation": deviations,
        "shifted": parts,
        "squares": [squares],
        "root": [root],
        "reciprocal": [reciprocal],
        "product": products,
        "u": us,
        "y": ys,
    }
