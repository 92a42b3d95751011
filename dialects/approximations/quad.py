"""`quad`: functions of codes of 9 to 16 bits by quadratic pieces, in 16-bit words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    RangeError,
    look_up,
    require,
    require_options,
)
from qvit.dialects.approximations.functions import function_of, largest_error
from qvit.dialects.approximations.lin import WORD, advice, extent
from qvit.dialects.semantics.integers import Array, Int64, IntType, saturate

_ROOM = 32760
"""The largest |value| that results of 16 bits are scaled to: the last roundings stay inside the word."""


class Form(IntEnum):
    """What the pieces are of, and what becomes of their value p."""

    DIRECT = 0
    """Of f(x): p, at a = x - lowest."""
    ODD = 1
    """Of f(a), a = |x|: sign(x) p. tanh, erf, sigmoid - 1/2."""
    BELOW_RELU = 2
    """Of a - f(a), a = |x|: max(x, 0) - p. GELU and SiLU, in the unit of the operand."""


_BELOW_RELU = ("gelu", "gelu_tanh", "silu")
_ODD = {"tanh": 0.0, "erf": 0.0, "sigmoid": 0.5}
"""Odd functions, when so much is subtracted."""


def _mulhrs(a: Int64, b: Int64) -> Int64:
    """a b / 2^15, half up: of 16-bit words."""
    return (a * b + (1 << 14)) >> 15


@dataclass(frozen=True)
class Quad(FunctionApproximation):
    """y = saturate((v + 2^(guard - 1) >> guard) + offset), v from p as `form` says, p = c[j] + (r (b[j] + (r a[j] >> 15)) >> 15).

    j and r are a's piece and where in it, -2^15 .. 2^15 - 1; a is clamped to the last piece; both >> 15 round half up. The
    coefficients interpolate at Chebyshev's points. form 0 (direct): results of 8 bits, any function, 64 pieces; at most
    0.52 units off for smooth functions. form 1 (odd, 64 pieces) and 2 (max(x, 0) - p, 32 pieces): results of 16 bits, 1 to
    2 units off, steps down by one unit are possible. `build` tries every code, and says how far off the worst result is.
    """

    form: int
    lowest: int
    segment: int
    guard: int
    offset: int

    name: ClassVar[str] = "quad"
    source: ClassVar[str] = "quadratic interpolation in 32 or 64 pieces"
    tables: ClassVar[tuple[str, ...]] = ("constant", "linear", "square")
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        limits = {
            "form": (0, 2),
            "lowest": (-(1 << 17), 0),
            "segment": (1, 16),
            "guard": (0, 8),
            "offset": (-(1 << 17), 1 << 17),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"quad: {name} must be in {least}..{most}, found {value}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        codes, wanted, real = spec.input.type, spec.output, function_of(spec)
        require(8 < codes.bits <= 16, f"quad takes codes of 9 to 16 bits, found {codes}: {advice(codes)}")
        if wanted.type.bits <= 8:
            return cls._direct(spec, real)
        reach = max(abs(codes.lo - spec.input.zero_point), abs(codes.hi - spec.input.zero_point))
        s = float(spec.input.scale)
        if spec.function in _BELOW_RELU:
            output = spec.input
            tail = _Piecewise(lambda a: a - real(a * s) / s, 0.0, 32)
            return cls._symmetric(Form.BELOW_RELU, spec, tail, reach, output, output.zero_point)
        require(
            spec.function in _ODD,
            f"quad has no 16-bit form of {spec.function}, but of {', '.join((*_BELOW_RELU, *_ODD))}: use lin",
        )
        middle = _ODD[spec.function]
        limit = 1 - middle
        if middle or limit / float(wanted.scale) > _ROOM:
            # codes of its own: those wanted do not fit, or have no code for the middle
            scale = Fraction(limit) / _ROOM
            output = Codes(scale, -round(middle / scale), WORD)
        else:
            scale, output = wanted.scale, wanted
        unit = float(scale)
        odd = _Piecewise(lambda a: (real(a * s) - middle) / unit, limit / unit, 64)
        return cls._symmetric(Form.ODD, spec, odd, reach, output, output.zero_point + round(middle / scale))

    @classmethod
    def _direct(cls, spec: FunctionSpec, real: Callable[[Array], Array]) -> Built:
        codes, output, zero = spec.input.type, spec.output, spec.input.zero_point
        s, unit = float(spec.input.scale), float(output.scale)
        lowest, segment = codes.lo - zero, codes.bits - 6
        values = real(spec.input.real()) / unit
        for base in (0, round(float(values.min() + values.max()) / 2)):
            pieces = _Piecewise(lambda a, base=base: real((a + lowest) * s) / unit - base, None, 64)
            for guard in range(8, -1, -1):
                found = cls(int(Form.DIRECT), lowest, segment, guard, output.zero_point + base)
                tables = pieces.tables(segment, 2.0**guard)
                try:
                    found.check((lowest, codes.hi - zero), tables)
                except RangeError:
                    continue
                return found._built(spec, tables, output)
        raise RangeError(
            f"the results reach over {values.min():.5g}..{values.max():.5g} units: use a larger output scale"
        )

    @classmethod
    def _symmetric(
        cls, form: Form, spec: FunctionSpec, pieces: "_Piecewise", reach: int, output: Codes, offset: int
    ) -> Built:
        """The size of pieces with which the worst result is best. Beyond the last one the function counts as constant."""
        widest = max(1, reach.bit_length() - pieces.count.bit_length() + 1)
        candidates: list[Built] = []
        problem = RangeError()
        for segment in range(widest, max(0, widest - 8), -1):
            found = cls(int(form), 0, segment, 0, offset)
            tables = pieces.tables(segment, 1.0, flat=reach > pieces.count << segment)
            codes = (spec.input.type.lo - spec.input.zero_point, spec.input.type.hi - spec.input.zero_point)
            try:
                found.check(codes, tables)
                candidates.append(found._built(spec, tables, output))
            except RangeError as error:
                problem = error
        if not candidates:
            raise problem
        return min(candidates, key=lambda built: built.error or 0.0)

    def _built(self, spec: FunctionSpec, tables: list[Array], output: Codes) -> Built:
        error = largest_error(self, tables, spec, output)
        scale = np.array(float(output.scale))
        words = tuple((table, WORD) for table in tables)
        return Built(self, words, (output.type,), scale, output.zero_point, error)

    def stages(self, x: Int64, tables: Sequence[Array]) -> dict[str, Int64]:
        """Every intermediate by name; the last is what is saturated."""
        constant, linear, square = tables
        a = x - self.lowest if self.form == Form.DIRECT else np.abs(x)
        a = np.minimum(a, (len(constant) << self.segment) - 1)
        j = a >> self.segment
        r = ((a & ((1 << self.segment) - 1)) - (1 << (self.segment - 1))) << (16 - self.segment)
        slope = look_up(linear, j) + _mulhrs(r, look_up(square, j))
        piece = look_up(constant, j) + _mulhrs(r, slope)
        match self.form:
            case Form.ODD:
                value = np.sign(x) * piece
            case Form.BELOW_RELU:
                value = np.maximum(x, 0) - piece
            case _:
                value = piece
        rounded = (value + ((1 << self.guard) >> 1)) >> self.guard
        return {
            "position": a,
            "r": r,
            "slope": slope,
            "r slope": r * slope,
            "piece": piece,
            "value": value,
            "rounded": rounded,
            "shifted": rounded + self.offset,
        }

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        return saturate(self.stages(x, tables)["shifted"], result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        """Exact: every code is tried. RangeError for codes that no 17 bits hold."""
        self._require_codes(codes, tables)
        return extent(self.stages(np.arange(codes[0], codes[1] + 1), tables), result)

    def _require_codes(self, codes: Interval, tables: Sequence[Array]) -> None:
        reach = max(-codes[0], codes[1])
        require(reach < 1 << 16, f"quad: codes reach {reach}, at most 16 bits are possible")
        if self.form == Form.DIRECT:
            last = self.lowest + (len(tables[0]) << self.segment) - 1
            require(
                self.lowest <= codes[0] and codes[1] <= last,
                f"quad: the pieces reach over codes {self.lowest}..{last}, the codes are {codes[0]}..{codes[1]}",
            )

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        lengths = {len(table) for table in tables}
        require(len(lengths) == 1, f"quad: the tables have different lengths, {sorted(lengths)}")
        self._require_codes(codes, tables)
        found = self.stages(np.arange(codes[0], codes[1] + 1), tables)
        for name in ("slope", "piece"):
            low, high = int(found[name].min()), int(found[name].max())
            require(
                WORD.lo <= low and high <= WORD.hi,
                f"quad: {name} reaches over {low}..{high}, beyond 16 bits: use a larger output scale",
            )


@dataclass(frozen=True)
class _Piecewise:
    """A function of positions a >= 0, what it tends to (None: nothing that matters), and the number of its pieces."""

    function: Callable[[Array], Array]
    limit: float | None
    count: int

    def tables(self, segment: int, unit: float, flat: bool = False) -> list[Array]:
        """Coefficients of 1, r, r^2 for r in -1..1, times `unit`, rounded; flat: the last piece is the limit."""
        half = 2.0 ** (segment - 1)
        points = np.cos((2 * np.arange(3) + 1) * np.pi / 6)
        centres = (np.arange(self.count) * 2 + 1) * half
        values = self.function(centres[:, None] + half * points) * unit
        coefficients = np.linalg.solve(np.vander(points, 3, increasing=True), values.T)
        if flat:
            coefficients[:, -1] = ((self.limit or 0.0) * unit, 0, 0)
        return list(np.rint(coefficients).astype(np.int64))
