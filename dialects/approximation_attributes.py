"""The attributes of integer approximations: one for each, made from its fields."""

from collections import Counter
from typing import ClassVar

from xdsl.ir import Data
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.approximations.base import Approximation


class ApproximationAttr(Data[Approximation]):
    """`#qvit.<name><field = integer, ...>`: an approximation's integers. Its tables are operands of the operation."""

    kind: ClassVar[type[Approximation]]

    @staticmethod
    def of(approximation: Approximation) -> "ApproximationAttr":
        """The attribute of an approximation."""
        return ATTRIBUTES[type(approximation)](approximation)

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Approximation:
        def parse_field() -> tuple[str, int]:
            name = parser.parse_identifier()
            parser.parse_punctuation("=")
            return name, parser.parse_integer()

        at = parser.pos
        given = parser.parse_optional_comma_separated_list(parser.Delimiter.ANGLE, parse_field) or []
        for name, times in Counter(name for name, _ in given).items():
            if times > 1:
                parser.raise_error(f"{cls.kind.name}: {name} is given twice", at)
        try:
            return cls.kind.of(dict(given))
        except ValueError as error:
            parser.raise_error(str(error), at)

    def print_parameter(self, printer: Printer) -> None:
        parameters = self.data.parameters
        if parameters:
            with printer.in_angle_brackets():
                printer.print_string(", ".join(f"{name} = {value}" for name, value in parameters.items()))


def _attribute(kind: type[Approximation]) -> type[ApproximationAttr]:
    parts = {"name": f"qvit.{kind.name}", "kind": kind, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return irdl_attr_definition(type(f"{kind.__name__}Attr", (ApproximationAttr,), parts))


ATTRIBUTES: dict[type[Approximation], type[ApproximationAttr]] = {kind: _attribute(kind) for kind in APPROXIMATIONS}
"""The attribute of each kind of approximation."""
