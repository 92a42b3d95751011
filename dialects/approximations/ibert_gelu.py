"""`i_gelu`: I-BERT's GELU, whose error function is a polynomial of degree two; and `i_gelu_published`, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    require,
    require_options,
    require_positive,
)
from qvit.dialects.approximations.gelu import centred_codes, reached, require_gelu, signed_bits
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

_A, _B, _ROOT2 = Fraction(-2888, 10**4), Fraction(-1769, 1000), Fraction(14142, 10**4)
"""erf(u) is about sgn(u) (a (min(|u|, -b) + b)^2 + 1), and u = x / 1.4142; x (1 + erf) / 2 is off by at most 0.0182."""

_MOST_B, _MOST_C = 1 << 20, 1 << 40


def _erf(x: Int64, b: int, c: int, shift: int) -> Int64:
    """sgn(x) ((min(|x|, -b) + b)^2 + c) >> shift."""
    root = np.minimum(np.abs(x), -b) + b
    return (np.sign(x) * (root * root + c)) >> shift


def _intermediates(codes: Interval, b: int, c: int, shift: int, one: int) -> dict[str, Interval]:
    """Those of g + one, g = _erf(x): g falls with x on both sides of 0, where it is 0."""
    lo, hi = codes
    g = _erf(np.unique(np.clip([lo, -1, 0, 1, hi], lo, hi)), b, c, shift)
    least = min(max(-lo, hi), -b) + b
    erf = int(g.min()), int(g.max())
    return {
        "root": (b, least),
        "square": (least * least, b * b),
        "polynomial": (min(c, -(b * b + c)), max(-c, b * b + c)),
        "erf": erf,
        "erf + 1": (erf[0] + one, erf[1] + one),
    }


def _products(codes: Interval, factors: Interval) -> Interval:
    ends = [x * factor for x in codes for factor in factors]
    return min(ends), max(ends)


def _verify(name: str, b: int, c: int, shift: int) -> None:
    if not (-_MOST_B <= b <= -1 and -_MOST_C <= c <= -1 and 0 <= shift <= 40):
        raise ValueError(
            f"{name}: b in -2^20..-1, c in -2^40..-1 and shift in 0..40 are expected, found {b}, {c}, {shift}"
        )


@dataclass(frozen=True)
class IGeluPublished(FunctionApproximation):
    """y = x (g + one), g = sgn(x) ((min(|x|, -b) + b)^2 + c) >> shift, of scale S s / 2, s = -0.2888 (S / 1.4142)^2 2^shift.

    The scale is negative. The shift, 14, is made for inputs of 22 bits: of 8-bit ones it leaves nothing, g is 0 or -1;
    `check` refuses less than 8 bits for 1.
    """

    b: int
    c: int
    one: int
    shift: int

    name: ClassVar[str] = "i_gelu_published"
    source: ClassVar[str] = "I-BERT (arXiv 2101.01321), section 3.4: i-GELU, as published"
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        _verify(self.name, self.b, self.c, self.shift)
        if not self.c - 1 <= self.one <= -1:
            raise ValueError(f"{self.name}: one must be in c - 1..-1, found {self.one}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        """Options: shift (14 in the published code)."""
        require_options(options, "shift")
        require_gelu("i-gelu-published", spec)
        require_positive(spec.input.scale)
        shift, unit = options.get("shift", 14), spec.input.scale / _ROOT2
        b, c = floor(_B / unit), floor(1 / _A / unit**2)
        step = _A * unit**2 * (1 << shift)
        require(
            b >= -_MOST_B,
            f"inputs of a scale of {float(spec.input.scale):.4g} are too fine for i-GELU: requantize them",
        )
        approximation = cls(b, c, floor(1 / step), shift)
        return Built(approximation, (), (IntType(32),), np.array(float(spec.input.scale * step / 2)))

    def _product(self, x: Int64) -> Int64:
        return x * (_erf(x, self.b, self.c, self.shift) + self.one)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        return fit(self._product(x), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        found = _intermediates(codes, self.b, self.c, self.shift, self.one)
        return found | {"y": reached(self._product, codes, _products(codes, found["erf + 1"]))}

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        require(
            self.one <= -128,
            f"the shift of {self.shift} leaves {-self.one} steps between 0 and 1 of the error function, at least 128 are"
            f" expected: use a smaller shift, or i-gelu",
        )
        _check_word(self.intermediates(codes, tables, IntType(32)))


@dataclass(frozen=True)
class IGelu(FunctionApproximation):
    """y = x (g + one), g = sgn(x) ((min(2^up |x|, -b) + b)^2 + c) >> shift, of scale S s / 2, s = 2^shift / c, about.

    As I-BERT's i-GELU, whose b, c and 1 are rounded down; here to nearest, with b refined to 9 bits or more by `up`. shift is
    the least for which y fits 32 bits: 0 for 8-bit inputs. one = -(-c >> shift), so far below 0 y is 0. The scale is
    negative. The polynomial itself makes y err by up to 0.0182.
    """

    up: int
    b: int
    c: int
    shift: int

    name: ClassVar[str] = "i_gelu"
    source: ClassVar[str] = "after I-BERT's i-GELU: constants of 9 bits or more, the shift chosen from the input"
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        _verify(self.name, self.b, self.c, self.shift)
        if not 0 <= self.up <= 20:
            raise ValueError(f"{self.name}: up must be in 0..20, found {self.up}")

    @property
    def one(self) -> int:
        """The code of 1, negative."""
        return -(-self.c >> self.shift)

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        require_gelu("i-gelu", spec)
        require_positive(spec.input.scale)
        bits = signed_bits(centred_codes(spec))
        require(bits <= 17, f"codes of at most 17 bits with their sign are expected, found {bits}: requantize them")
        unit, up = spec.input.scale / _ROOT2, 0
        while -_B / unit * (1 << up) < 256:
            up += 1
        unit /= 1 << up
        require(
            up <= 20 and round(_B / unit) >= -_MOST_B,
            f"inputs of a scale of {float(spec.input.scale):.4g} are out of the range of i-GELU: 4e-6..4000",
        )
        b, c = round(_B / unit), round(1 / _A / unit**2)
        most = max(map(abs, centred_codes(spec)))
        shift = next(s for s in range(41) if most * 2 * ((-c >> s) + 1) < 1 << 31)
        approximation = cls(up, b, c, shift)
        step = _A * unit**2 * (1 << shift)
        return Built(approximation, (), (IntType(32),), np.array(float(spec.input.scale * step / 2)))

    def _product(self, x: Int64) -> Int64:
        near = np.clip(x, self.b, -self.b) << self.up  # beyond b nothing changes
        return x * (_erf(near, self.b, self.c, self.shift) + self.one)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        return fit(self._product(x), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        lo, hi = (max(self.b, min(code, -self.b)) << self.up for code in codes)
        found = {"near": (lo, hi)} | _intermediates((lo, hi), self.b, self.c, self.shift, self.one)
        return found | {"y": reached(self._product, codes, _products(codes, found["erf + 1"]))}

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        require(
            self.one <= -128,
            f"the shift of {self.shift} leaves {-self.one} steps between 0 and 1 of the error function, at least 128 are"
            f" expected: use a smaller shift",
        )
        _check_word(self.intermediates(codes, tables, IntType(32)))


def _check_word(found: dict[str, Interval]) -> None:
    lo, hi = found["y"]
    require(
        IntType(32).lo <= lo and hi <= IntType(32).hi,
        f"the result reaches {max(-lo, hi)}, beyond 32 bits: use narrower inputs or a larger shift",
    )
