"""`table`: any function of codes of at most 8 bits as a table of its results."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    look_up,
    require,
    require_options,
)
from qvit.dialects.approximations.functions import function_of
from qvit.dialects.semantics.integers import Array, Int64, IntType, Rounding, fit, round_float, saturate


@dataclass(frozen=True)
class Table(FunctionApproximation):
    """y = table[x - lowest]: requantize on both sides and the function between them, rounded once.

    The table has a result for every code from `lowest` on. Error: at most 1/2 unit of the output, where it does not
    saturate.
    """

    lowest: int

    name: ClassVar[str] = "table"
    source: ClassVar[str] = "a look-up table"
    tables: ClassVar[tuple[str, ...]] = ("table",)

    def verify(self) -> None:
        if not -128 <= self.lowest <= 0:
            raise ValueError(f"table: lowest must be in -128..0, found {self.lowest}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        codes, output = spec.input.type, spec.output
        require(codes.bits <= 8, f"a table takes codes of at most 8 bits, found {codes}: use lin or quad")
        y = function_of(spec)(spec.input.real()) / float(output.scale)
        values = saturate(round_float(y, Rounding.HALF_UP) + output.zero_point, output.type)
        scale = np.array(float(output.scale))
        return Built(cls.for_codes(codes), ((values, output.type),), (output.type,), scale, output.zero_point)

    @classmethod
    def for_codes(cls, codes: IntType) -> Self:
        return cls(codes.lo)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        (table,) = tables
        return fit(look_up(table, x - self.lowest), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        (table,) = tables
        reached = table[codes[0] - self.lowest : codes[1] - self.lowest + 1]
        return {"y": (int(reached.min()), int(reached.max()))}

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        last = self.lowest + len(tables[0]) - 1
        require(
            self.lowest <= codes[0] and codes[1] <= last,
            f"the table has results for codes {self.lowest}..{last}, the codes are {codes[0]}..{codes[1]}",
        )
