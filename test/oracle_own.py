"""What sm8, sw, table, lin, quad and ln compute, over Python's own integers and fractions, one row or number at a time.

Written from the formulas in their documentation. It imports nothing of the compiler and no NumPy. Each returns its results
and a list of every intermediate by name, so that stated intervals can be measured.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from math import floor, isqrt
from typing import TypeAlias

from oracle import Range, saturated

Seen: TypeAlias = dict[str, list[int]]


def half_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def exact_exp(x: Fraction) -> Fraction:
    """e^x to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return Fraction((Decimal(x.numerator) / Decimal(x.denominator)).exp())


def exact_log2_e() -> Fraction:
    with localcontext() as context:
        context.prec = 60
        return 1 / Fraction(Decimal(2).ln())


# --- softmax ---


def exponential_table(scale: Fraction) -> list[int]:
    return [half_up(65535 * exact_exp(-scale * d)) for d in range(256)]


def _differences(row: Sequence[int], keep: Sequence[bool]) -> list[int | None]:
    """maximum - x; None where an entry takes no part."""
    top = max((x for x, k in zip(row, keep, strict=True) if k), default=0)
    return [top - x if k else None for x, k in zip(row, keep, strict=True)]


def sm8(row: Sequence[int], keep: Sequence[bool], table: Sequence[int], top: int) -> tuple[list[int], Seen]:
    e = [0 if d is None else table[d] for d in _differences(row, keep)]
    total = sum(e) or 65535
    n = max(total.bit_length(), 10)
    dividend = top * 2 ** (n + 7) + total // 2
    reciprocal = dividend // total
    y = [half_up(Fraction(v * reciprocal, 2 ** (n + 7))) for v in e]
    return y, {
        "e": e,
        "sum": [total],
        "dividend": [dividend],
        "reciprocal": [reciprocal],
        "product": [v * reciprocal for v in e],
        "y": y,
    }


def sm8_late(row: Sequence[int], keep: Sequence[bool], table: Sequence[int]) -> tuple[list[int], int, Seen]:
    e = [0 if d is None else table[d] for d in _differences(row, keep)]
    y = [(v - v // 256 + 128) // 256 for v in e]
    total = sum(y) or 255
    return y, total, {"e": e, "y": y, "sum": [total]}


def sw_constants(
    scale: Fraction, length: int, index: int, sum_bits: int
) -> tuple[dict[str, int], list[int], list[int]]:
    """(bits, index, rate, last, drop), nodes, slopes."""
    bits = max(w for w in range(25) if length * 2**w < 2**sum_bits)
    octaves = scale * exact_log2_e()
    last = min(floor((bits + Fraction(102, 100)) / octaves) + 1, 2**32 - 1)
    rate = half_up(octaves * 2 ** (16 + last.bit_length()))
    with localcontext() as context:
        context.prec = 60
        nodes = [half_up(Fraction(Decimal(2) ** (bits + 1 - Decimal(j) / 2**index))) for j in range(2**index + 1)]
    drop = max(0, (nodes[0] - nodes[1]).bit_length() - 15)
    slopes = [(a - b) // 2**drop for a, b in pairwise(nodes)]
    return {"bits": bits, "index": index, "rate": rate, "last": last, "drop": drop}, nodes[:-1], slopes


def sw_exponential(
    d: int, c: dict[str, int], nodes: Sequence[int], slopes: Sequence[int]
) -> tuple[int, dict[str, int]]:
    scaled = min(d, c["last"]) * c["rate"]
    t = scaled // 2 ** c["last"].bit_length()
    octave, fraction = divmod(t, 2**16)
    j, q = divmod(fraction, 2 ** (16 - c["index"]))
    mantissa = nodes[j] - slopes[j] * q // 2 ** (16 - c["index"] - c["drop"])
    e = (mantissa // 2**octave + 1) // 2
    return e, {"difference": d, "d rate": scaled, "t": t, "slope q": slopes[j] * q, "mantissa": mantissa}


def _sw_exponentials(
    row: Sequence[int], keep: Sequence[bool], c: dict[str, int], nodes: Sequence[int], slopes: Sequence[int]
) -> tuple[list[int], int, Seen]:
    seen: Seen = defaultdict(list)
    e: list[int] = []
    for d in _differences(row, keep):
        value, stages = sw_exponential(d or 0, c, nodes, slopes)
        e.append(0 if d is None else value)
        for name, stage in stages.items():
            seen[name].append(stage)
    total = sum(e) or 2 ** c["bits"]
    return e, total, {**seen, "e": e, "sum": [total]}


def sw(
    row: Sequence[int], keep: Sequence[bool], c: dict[str, int], nodes: Sequence[int], slopes: Sequence[int]
) -> tuple[list[int], Seen]:
    e, total, seen = _sw_exponentials(row, keep, c, nodes, slopes)
    n = total.bit_length()
    dividend = c["top"] * 2 ** (n + 14) + total // 2
    reciprocal = dividend // total
    y = [half_up(Fraction(v * reciprocal, 2 ** (n + 14))) for v in e]
    products = [v * reciprocal for v in e]
    return y, seen | {
        "dividend": [dividend],
        "reciprocal": [reciprocal],
        "product": products,
        "rounded": [p + 2 ** (n + 13) for p in products],
        "y": y,
    }


def sw_late(
    row: Sequence[int], keep: Sequence[bool], c: dict[str, int], nodes: Sequence[int], slopes: Sequence[int]
) -> tuple[list[int], int, Seen]:
    e, total, seen = _sw_exponentials(row, keep, c, nodes, slopes)
    y = [half_up(Fraction(255 * v, 2 ** c["bits"])) for v in e]
    return y, total, seen | {"255 e": [255 * v + 2 ** (c["bits"] - 1) for v in e], "y": y}


# --- functions ---


def _guarded(value: int, guard: int) -> int:
    return half_up(Fraction(value, 2**guard))


def lin(x: int, c: dict[str, int], nodes: Sequence[int], target: Range) -> tuple[int, dict[str, int]]:
    position = x - c["lowest"]
    j, r = divmod(position, 2 ** c["segment"])
    difference = nodes[j + 1] - nodes[j]
    value = nodes[j] + half_up(Fraction(difference * r, 2 ** c["segment"]))
    rounded = _guarded(value, c["guard"])
    y = saturated(rounded + c["offset"], target)
    return y, {
        "position": position,
        "difference": difference,
        "scaled": difference * r + 2 ** c["segment"] // 2,
        "value": value,
        "rounded": rounded,
        "shifted": rounded + c["offset"],
        "y": y,
    }


def quad(x: int, c: dict[str, int], tables: Sequence[Sequence[int]], target: Range) -> tuple[int, dict[str, int]]:
    constant, linear, square = tables
    size = 2 ** c["segment"]
    a = x - c["lowest"] if c["form"] == 0 else abs(x)
    a = min(a, len(constant) * size - 1)
    j, inside = divmod(a, size)
    r = (inside - size // 2) * 2**16 // size
    slope = linear[j] + half_up(Fraction(r * square[j], 2**15))
    piece = constant[j] + half_up(Fraction(r * slope, 2**15))
    sign = (x > 0) - (x < 0)
    value = {0: piece, 1: sign * piece, 2: max(x, 0) - piece}[c["form"]]
    rounded = _guarded(value, c["guard"])
    y = saturated(rounded + c["offset"], target)
    return y, {
        "position": a,
        "r": r,
        "slope": slope,
        "r slope": r * slope,
        "piece": piece,
        "value": value,
        "rounded": rounded,
        "shifted": rounded + c["offset"],
        "y": y,
    }


# --- layer normalisation ---


def reciprocal_sqrt(w: int) -> int:
    i = w // 2**25 - 32
    y = isqrt(2**36 // (2 * i + 65)) * 2**15
    for _ in range(2):
        y = y * (3 * 2**29 - y * y // 2**29 * w // 2**32) // 2**30
    return y


def ln(
    row: Sequence[int], gain: Sequence[int], offset: Sequence[int], guard: int, epsilon: int, target: Range
) -> tuple[list[int], Seen]:
    channels = len(row)
    total, squares = sum(row), sum(x * x for x in row)
    variance = max(channels * squares - total * total + epsilon, 1)
    half = (variance.bit_length() - 31) // 2
    w = floor(variance / Fraction(4) ** half)
    rsqrt = reciprocal_sqrt(w)
    deviation = [channels * x - total for x in row]
    u = [floor(Fraction(d * rsqrt) / 2 ** (21 + half)) for d in deviation]
    sums = [v * g // 2**32 + b + 2 ** (guard - 1) for v, g, b in zip(u, gain, offset, strict=True)]
    y = [saturated(v // 2**guard, target) for v in sums]
    return y, {
        "sum": [total],
        "squares": [squares],
        "C squares": [channels * squares],
        "variance": [variance],
        "w": [w],
        "deviation": deviation,
        "deviation rsqrt": [d * rsqrt for d in deviation],
        "u": u,
        "u gain": [v * g for v, g in zip(u, gain, strict=True)],
        "rounded": sums,
        "y": y,
    }


def ln_real(
    row: Sequence[int], gamma: Sequence[Fraction], beta: Sequence[Fraction], epsilon: Fraction, scale: Fraction
) -> list[Fraction]:
    """The real layer normalisation of scale * row, to 30 digits."""
    channels = len(row)
    mean = Fraction(sum(row), channels)
    variance = sum(((x - mean) * scale) ** 2 for x in row) / channels + epsilon
    digits = 10**30
    root = Fraction(isqrt(floor(variance * digits * digits)), digits)
    return [(x - mean) * scale / root * g + b if root else b for x, g, b in zip(row, gamma, beta, strict=True)]


# --- comparators ---


def threshold_softmax(
    row: Sequence[int], keep: Sequence[bool], factor: int, multiplier: int, shift: int, levels: int
) -> tuple[list[int], Seen]:
    seen: Seen = defaultdict(list)
    e: list[int] = []
    for d in _differences(row, keep):
        if d is None:
            e.append(0)
            continue
        octaves, rest = divmod(d * factor, 2**16)
        seen["exponent"].append(d * factor)
        e.append(floor(Fraction(2**17 - rest, 2 ** (min(octaves, 16) + 2))))
    total = max(sum(e), 2**15)
    y = [sum(2 * v * multiplier >= (2 * m - 1) * total * 2**shift for m in range(1, levels + 1)) for v in e]
    seen |= {"e": e, "sum": [total], "reached": [2 * v * multiplier for v in e], "y": y}
    seen["threshold"] = [(2 * m - 1) * total * 2**shift for m in range(1, levels + 1)]
    return y, seen


def threshold_layernorm(
    row: Sequence[int], sign: Sequence[int], thresholds: Sequence[int], levels: int, lowest: int, epsilon: int
) -> tuple[list[int], Seen]:
    """thresholds: those of the first comparator first."""
    seen: Seen = defaultdict(list)
    channels, total, squares = len(row), sum(row), sum(x * x for x in row)
    variance = max(channels * squares - total * total + epsilon, 1)
    half = 0
    while variance >= 4 ** (16 + half):
        half += 1
    while variance < 4 ** (15 + half):
        half -= 1
    w = floor(variance / Fraction(4) ** half)
    y: list[int] = []
    for c, x in enumerate(row):
        deviation = sign[c] * (channels * x - total)
        d = floor(abs(deviation) / Fraction(2) ** half)
        square = (-1 if deviation < 0 else 1) * d * d * 2**20
        own = [thresholds[m * channels + c] * w for m in range(levels)]
        y.append(lowest + sum(square >= t for t in own))
        seen["deviation"].append(deviation)
        seen["square"].append(square)
        seen["threshold"] += own
    seen |= {"sum": [total], "squares": [squares], "C squares": [channels * squares], "variance": [variance], "w": [w]}
    seen["y"] = y
    return y, seen
