"""Log-int-softmax and layer normalisation with power-of-two factors, over Python's own integers and fractions.

Written from the formulas in the approximations' documentation. It imports nothing of the compiler and no NumPy. Each
function also returns its intermediates, by name, as lists.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import isqrt

Seen = dict[str, list[int]]
TWO = Fraction(2)


def log_code(e: int, total: int) -> int:
    """round(log2(round(total / e))), 16 for what is too small."""
    if e == 0:
        return 16
    t = round(Fraction(total, e))  # half to even
    power = 0
    while 2 ** (power + 1) <= t:
        power += 1
    return min(power + (2 * t >= 3 * 2**power), 16)


def log_int_softmax(
    row: Sequence[int], keep: Sequence[int], x0: int, b: int, c: int, n: int, last: int, up: int = 0
) -> tuple[list[int], Seen]:
    """Octaves beyond `last` count as `last`."""
    seen: Seen = defaultdict(list)
    kept = [x for x, k in zip(row, keep, strict=True) if k]
    if not kept:
        return [16] * len(row), seen
    exponentials: list[int] = []
    for x, k in zip(row, keep, strict=True):
        if not k:
            exponentials.append(0)
            continue
        p = max((x - max(kept)) * 2**up, last * x0)
        q, r = p // x0, p - (p // x0) * x0
        z = max(0, r * (r + b) + c)
        e = (z * TWO ** (n - q)).__floor__()
        exponentials.append(e)
        for name, value in (("q", q), ("r", r), ("z", z), ("e", e)):
            seen[name].append(value)
    total = sum(exponentials)
    seen["sum"].append(total)
    seen["ratio"] += [round(Fraction(total, e)) for e in exponentials if e]
    seen["y"] += (codes := [log_code(e, total) for e in exponentials])
    return codes, seen


def _below(p: Fraction, sign: int, square: Fraction, h: Fraction) -> bool:
    """p + sign sqrt(square) < h"""
    rest = h - p
    if sign > 0:
        return rest > 0 and square < rest * rest
    return rest > 0 or square > rest * rest


def rounded_half_even(p: Fraction, sign: int, square: Fraction) -> int:
    """The integer nearest to p + sign sqrt(square), the even one of two."""
    # a first guess, then one step at a time
    n = round(p + sign * Fraction(isqrt((square * 4**40).__floor__()), 2**40))
    half = Fraction(1, 2)
    while _below(p, sign, square, n - half):
        n -= 1
    while not _below(p, sign, square, n + half):
        n += 1
    if n % 2 and not _below(p, sign, square, n - half) and _exactly(p, sign, square, n - half):
        return n - 1
    # n + 1/2 itself went up
    return n


def _exactly(p: Fraction, sign: int, square: Fraction, h: Fraction) -> bool:
    rest = h - p
    return rest * rest == square and (rest >= 0) == (sign > 0 or square == 0)


def mantissa_and_shift(square: Fraction) -> tuple[int, int]:
    """(M, N) of A = sqrt(square)."""
    if square == 0:
        return 0, 31
    over, under = square.numerator, square.denominator
    log2 = (over.bit_length() - under.bit_length()) // 2  # a first guess
    while TWO ** (2 * log2) > square:
        log2 -= 1
    while TWO ** (2 * log2 + 2) <= square:
        log2 += 1
    shift = min(max(7 - log2, 0), 31)
    mantissa = bisect_right(range(1, 256), over * 4**shift, key=lambda m: m * m * under)
    return mantissa, shift


def aligned(row: Sequence[int], factors: Sequence[int], zero_point: int) -> list[int]:
    return [(x - zero_point) * 2**a for x, a in zip(row, factors, strict=True)]


def clipped(y: int, target: tuple[int, int]) -> int:
    return max(target[0], min(target[1], y))


def ptf_layernorm_published(
    row: Sequence[int],
    factors: Sequence[int],
    gains: Sequence[Fraction],
    offsets: Sequence[Fraction],
    zero_points: tuple[int, int],
    target: tuple[int, int],
) -> tuple[list[int], Seen]:
    """gains: gamma / S_out; offsets: beta / S_out; zero_points: of the operand and of the result."""
    seen: Seen = defaultdict(list)
    xs, channels = aligned(row, factors, zero_points[0]), len(row)
    total, squares = sum(xs), sum(x * x for x in xs)
    variance = channels * squares - total * total
    moments = {"sum": total, "squares": squares, "C squares": channels * squares, "squared sum": total**2}
    for name, value in {**moments, "variance": variance}.items():
        seen[name].append(value)
    seen["aligned"] += xs
    result: list[int] = []
    for x, gain, offset in zip(xs, gains, offsets, strict=True):
        if variance == 0:
            m, n, b = 0, 31, round(offset * 2**31)
        else:
            m, n = mantissa_and_shift(channels**2 * gain**2 / variance)
            sign = -1 if gain * total > 0 else 1
            b = rounded_half_even(offset * 2**n, sign, (gain * total * 2**n) ** 2 / variance)
        signed = m if gain > 0 else -m
        for name, value in (("M", m), ("N", n), ("B", b), ("M X", signed * x), ("rounded", signed * x + b)):
            seen[name].append(value)
        result.append(clipped(round(Fraction(signed * x + b, 2**n)) + zero_points[1], target))
    seen["y"] += result
    return result, seen


def reciprocal_sqrt(w: int) -> int:
    """2^45 / sqrt(w), by two of Newton's steps."""
    piece = w // 2**25 - 32
    y = isqrt(2**36 // (2 * piece + 65)) * 2**15
    for _ in range(2):
        y = y * (3 * 2**29 - (y * y // 2**29) * w // 2**32) // 2**30
    return y


def ptf_layernorm(
    row: Sequence[int],
    factors: Sequence[int],
    gains: Sequence[int],
    powers: Sequence[int],
    offsets: Sequence[int],
    guard: int,
    epsilon: int,
    zero_point: int,
    target: tuple[int, int],
) -> tuple[list[int], Seen]:
    seen: Seen = defaultdict(list)
    xs, channels = aligned(row, factors, zero_point), len(row)
    total, squares = sum(xs), sum(x * x for x in xs)
    variance = max(channels * squares - total * total + epsilon, 1)
    half = 0
    while variance >= 4**half * 2**32:
        half += 1
    while variance < TWO ** (2 * half + 30):
        half -= 1
    w = (variance * TWO ** (-2 * half)).__floor__()
    root = reciprocal_sqrt(w)
    moments = {"sum": total, "squares": squares, "C squares": channels * squares, "squared sum": total**2}
    for name, value in {**moments, "variance": variance, "w": w}.items():
        seen[name].append(value)
    seen["aligned"] += xs
    result: list[int] = []
    for x, gain, power, offset in zip(xs, gains, powers, offsets, strict=True):
        m = (root * abs(gain) + 2**29) // 2**30
        deviation = channels * x - total
        product = m * deviation if gain > 0 else -m * deviation
        scaled = (product / TWO ** (15 + half + power - guard)).__floor__()
        numbers = {"rsqrt gain": root * abs(gain), "M": m, "deviation": deviation, "M deviation": product}
        for name, value in {**numbers, "scaled": scaled, "rounded": scaled + offset + 2 ** (guard - 1)}.items():
            seen[name].append(value)
        result.append(clipped((scaled + offset + 2 ** (guard - 1)) // 2**guard, target))
    seen["y"] += result
    return result, seen
