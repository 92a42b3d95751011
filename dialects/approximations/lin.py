"""`lin`: any function of codes of 9 to 16 bits, linear between 257 nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, product
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    look_up,
    require,
    require_options,
)
from qvit.dialects.approximations.functions import function_of, largest_error
from qvit.dialects.semantics.integers import Array, Int64, IntType, saturate, widen

WORD = IntType(16)
"""Of tables and of what is computed from them."""


@dataclass(frozen=True)
class Lin(FunctionApproximation):
    """y = saturate((v + 2^(guard - 1) >> guard) + offset), v = nodes[j] + ((nodes[j + 1] - nodes[j]) r + 2^(segment - 1) >> segment).

    j and r are the upper 8 and the lower `segment` bits of x - lowest. It does not decrease where the nodes do not.
    Results of 8 bits have 8 guard bits where the nodes then fit, and are at most 0.52 units off for smooth functions; those
    of 16 bits have none. `build` tries every code, and says how far off the worst result is.
    """

    lowest: int
    segment: int
    guard: int
    offset: int

    name: ClassVar[str] = "lin"
    source: ClassVar[str] = "linear interpolation in 256 pieces"
    tables: ClassVar[tuple[str, ...]] = ("nodes",)

    def verify(self) -> None:
        limits = {"lowest": (-(1 << 15), 0), "segment": (1, 8), "guard": (0, 8), "offset": (-(1 << 17), 1 << 17)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"lin: {name} must be in {least}..{most}, found {value}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        codes, output, real = spec.input.type, spec.output, function_of(spec)
        require(8 < codes.bits <= 16, f"lin takes codes of 9 to 16 bits, found {codes}: {advice(codes)}")
        require(output.type.bits <= 16, f"lin has results of at most 16 bits, {output.type} is wanted: requantize")
        segment = codes.bits - 8
        at = codes.lo + (np.arange(257) << segment) - spec.input.zero_point
        values = real(at * float(spec.input.scale))
        guard, base = fitting(values / float(output.scale), output)
        if guard is None:  # codes of its own, coarser by a power of two: those wanted saturate by half or more
            output = next(o for o in coarser(output) if fitting(values / float(o.scale), o)[0] is not None)
            guard, base = 0, fitting(values / float(output.scale), output)[1]
            output = replace(output, zero_point=-base)
        nodes = np.rint((values / float(output.scale) - base) * 2.0**guard).astype(np.int64).clip(WORD.lo, WORD.hi)
        approximation = cls(codes.lo, segment, guard, base + output.zero_point)
        error = largest_error(approximation, [nodes], spec, output)
        scale = np.array(float(output.scale))
        return Built(approximation, ((nodes, WORD),), (output.type,), scale, output.zero_point, error)

    def stages(self, x: Int64, nodes: Array) -> dict[str, Int64]:
        """Every intermediate by name; the last is what is saturated."""
        position = x - self.lowest
        j, r = position >> self.segment, position & ((1 << self.segment) - 1)
        left = look_up(nodes, j)
        difference = look_up(nodes, j + 1) - left
        scaled = difference * r + (1 << (self.segment - 1))
        value = left + (scaled >> self.segment)
        rounded = (value + ((1 << self.guard) >> 1)) >> self.guard
        return {
            "position": position,
            "difference": difference,
            "scaled": scaled,
            "value": value,
            "rounded": rounded,
            "shifted": rounded + self.offset,
        }

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        return saturate(self.stages(x, tables[0])["shifted"], result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        """Exact: every code is tried. RangeError for codes beyond the nodes."""
        self._require_nodes(codes, tables[0])
        return extent(self.stages(np.arange(codes[0], codes[1] + 1), tables[0]), result)

    def _require_nodes(self, codes: Interval, nodes: Array) -> None:
        last = self.lowest + ((len(nodes) - 1) << self.segment) - 1
        require(
            self.lowest <= codes[0] and codes[1] <= last,
            f"lin: the nodes reach over codes {self.lowest}..{last}, the codes are {codes[0]}..{codes[1]}",
        )

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        self._require_nodes(codes, tables[0])
        nodes = widen(tables[0])
        require(
            WORD.lo <= nodes.min() and nodes.max() <= WORD.hi,
            f"lin: nodes reach over {nodes.min()}..{nodes.max()}, 16 bits are possible: use a larger output scale",
        )


def fitting(values: Array, output: Codes) -> tuple[int | None, int]:
    """(guard, base) so that (values - base) 2^guard fits 16 bits: base 0 and all guard bits where possible.

    One unit more counts as fitting: it is clipped, for 1.0 has no code of 2^-15. guard is None where nothing fits.
    """
    low, high = float(values.min()), float(values.max())
    centre = round((low + high) / 2)
    for guard in range(8 if output.type.bits <= 8 else 0, -1, -1):
        for slack, base in product((0, 1), (0, centre)):
            if (low - base) * 2.0**guard >= WORD.lo - slack and (high - base) * 2.0**guard <= WORD.hi + slack:
                return guard, base
    return None, 0


def coarser(output: Codes) -> Iterator[Codes]:
    """Codes of 16 bits whose scale is 2, 4, 8 .. times as large."""
    return (Codes(output.scale * (1 << k), 0, WORD) for k in count(1))


def advice(codes: IntType) -> str:
    """What to do with codes that are no 9 to 16 bits."""
    return "use table" if codes.bits <= 8 else "requantize them"


def extent(stages: dict[str, Int64], result: IntType) -> dict[str, Interval]:
    """The interval of each stage, and of the last one saturated: "y"."""
    last = next(reversed(stages.values()))
    found = stages | {"y": widen(saturate(last, result))}
    return {name: (int(values.min()), int(values.max())) for name, values in found.items()}
