"""Between real numbers and codes, and from codes to codes."""

from xdsl.dialects.builtin import IntegerAttr, TensorType, UnitAttr, f32, i64
from xdsl.interfaces import HasFolderInterface
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.irdl.declarative_assembly_format import (
    CustomDirective,
    ParsingState,
    PrintingState,
    TypeDirective,
    irdl_custom_directive,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure

from qvit.dialects.attributes import (
    DyadicAttr,
    Form,
    PotAttr,
    QParamsAttr,
    RealAttr,
    RoundingAttr,
    ScaleAttr,
    ZeroPointAttr,
    verify_axis,
)
from qvit.dialects.ops.checks import require, require_float, require_in_range, require_integer, require_shape
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.types import broadcast_shapes, shape_of, tensor_type

HALF_EVEN = RoundingAttr(Rounding.HALF_EVEN)
DIVISORS = (IntType(32), IntType(32, False), IntType(64))


def _verify_zero_point(name: str, zero_point: ZeroPointAttr, operand: SSAValue) -> None:
    require_in_range(name, zero_point, require_integer(name, operand))


def _verify_positive(scale: ScaleAttr) -> None:
    for number in scale.numbers:
        require(number > 0, f"params: a quantizer divides by its scale; it must be positive, found {number}")


@irdl_op_definition
class QuantizeOp(IRDLOperation):
    """Real numbers to codes: q = saturate(round(x / scale) + zero_point) (ONNX QuantizeLinear).

    The scale is positive; the rounding is half_even unless written. x is multiplied by r where the scale is written `1.0 / r`,
    as PT2E quantizes, and divided by other scales: in float32 that can be another code next to a tie.

    ```mlir
    %q = qvit.quantize %x <0.02, zero_point = 128> : tensor<17x96xf32> -> tensor<17x96xui8>
    ```
    """

    name = "qvit.quantize"

    input = operand_def(TensorType)
    params = prop_def(QParamsAttr)
    rounding = prop_def(RoundingAttr, default_value=HALF_EVEN)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input $params (`rounding` $rounding^)? attr-dict `:` type($input) `->` type($result)"

    def __init__(
        self, input: SSAValue, params: QParamsAttr, element: Attribute, rounding: Rounding = Rounding.HALF_EVEN
    ) -> None:
        super().__init__(
            operands=[input],
            properties={"params": params, "rounding": RoundingAttr(rounding)},
            result_types=[TensorType(element, shape_of(input))],
        )

    def verify_(self) -> None:
        require_float(input=self.input)
        _verify_zero_point("result", self.params.zero_point, self.result)
        require_shape(self.result, shape_of(self.input))
        self.params.verify_on(tensor_type(self.input), "input")
        _verify_positive(self.params.scale)


@irdl_op_definition
class DequantizeOp(IRDLOperation):
    """Codes to real numbers: y = (q - zero_point) * scale (ONNX DequantizeLinear).

    The scale may be negative or 0: it can hold constants that were multiplied into it.

    ```mlir
    %y = qvit.dequantize %q <0.02 * [0.5, 0.25], axis = 1> : tensor<17x2xi32> -> tensor<17x2xf32>
    ```
    """

    name = "qvit.dequantize"

    input = operand_def(TensorType)
    params = prop_def(QParamsAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input $params attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, params: QParamsAttr, element: Attribute = f32) -> None:
        super().__init__(
            operands=[input], properties={"params": params}, result_types=[TensorType(element, shape_of(input))]
        )

    def verify_(self) -> None:
        require_float(result=self.result)
        _verify_zero_point("input", self.params.zero_point, self.input)
        require_shape(self.result, shape_of(self.input))
        self.params.verify_on(tensor_type(self.input), "input")


@irdl_custom_directive
class InputAndDivisor(CustomDirective):
    """The type of the input, or, where there is a divisor, both in parentheses."""

    input: TypeDirective
    divisor: TypeDirective

    def parse(self, parser: Parser, state: ParsingState) -> None:
        if parser.parse_optional_punctuation("("):
            self.input.parse(parser, state)
            parser.parse_punctuation(",")
            self.divisor.inner.parse_single_type(parser, state)
            parser.parse_punctuation(")")
        else:
            self.input.parse(parser, state)
            self.divisor.set_empty(state)

    def print(self, printer: Printer, state: PrintingState, op: IRDLOperation) -> None:
        types = [*self.input.get(op), *self.divisor.get(op)]
        state.print_whitespace(printer)
        if len(types) == 1:
            printer.print_attribute(types[0])
        else:
            with printer.in_parens():
                printer.print_list(types, printer.print_attribute)


@irdl_op_definition
class RequantizeOp(IRDLOperation, HasFolderInterface):
    """Codes to codes of another scale: y = saturate(round((x - input_zero_point) * factor) + zero_point), exactly.

    The factor has three forms: `#qvit.real<0.02 / 0.05>`, the exact real number; `#qvit.dyadic<m, shift>`, m / 2^shift;
    `#qvit.pot<shift>`, 2^-shift. Vectors lie along `axis`.

    `qvit.requantize %x by ... divided_by %z ... : (tensor<3x17x32xi32>, tensor<3x17x1xi32>) -> tensor<3x17x32xi8>` also
    divides by positive integers, such as the row sums of a softmax; z is i32, ui32 or i64, and broadcasts against x. By
    a real factor f that is y = saturate(round((x - input_zero_point) * f / z) + zero_point), exactly. By a dyadic one it
    is one integer division for each z, of bit length n: y = saturate(round((x - input_zero_point) * R / 2^(shift + n - 1))
    + zero_point) with R = floor(m * 2^(n-1) / z), of |m| where m < 0; R is off by less than 2^-29 relative if
    2^30 <= |m|. `pot<shift>` stands for `dyadic<2^30, shift + 30>`.

    ```mlir
    %y = qvit.requantize %x by #qvit.dyadic<1518500250, 39> zero_point <3> : tensor<17x96xi32> -> tensor<17x96xi8>
    ```
    """

    name = "qvit.requantize"

    input = operand_def(TensorType)
    divisor = opt_operand_def(TensorType)
    form = prop_def(RealAttr | DyadicAttr | PotAttr)
    input_zero_point = opt_prop_def(ZeroPointAttr)
    zero_point = opt_prop_def(ZeroPointAttr)
    axis = opt_prop_def(IntegerAttr.constr(i64))
    rounding = prop_def(RoundingAttr, default_value=HALF_EVEN)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    custom_directives = (InputAndDivisor,)

    assembly_format = (
        "$input `by` $form (`divided_by` $divisor^)? (`input_zero_point` $input_zero_point^)?"
        " (`zero_point` $zero_point^)? (`axis` $axis^)? (`rounding` $rounding^)?"
        " attr-dict `:` custom<InputAndDivisor>(type($input), type($divisor)) `->` type($result)"
    )

    def __init__(
        self,
        input: SSAValue,
        form: Form,
        element: Attribute,
        zero_points: tuple[ZeroPointAttr, ZeroPointAttr] = (ZeroPointAttr.of(0), ZeroPointAttr.of(0)),
        axis: int | None = None,
        rounding: Rounding = Rounding.HALF_EVEN,
        divisor: SSAValue | None = None,
    ) -> None:
        before, after = (None if z.number == 0 else z for z in zero_points)
        varies = any(p is not None and p.length is not None for p in (form, before, after))
        super().__init__(
            operands=[input, divisor],
            properties={
                "form": form,
                "input_zero_point": before,
                "zero_point": after,
                "axis": IntegerAttr(axis, i64) if varies and axis is not None else None,
                "rounding": RoundingAttr(rounding),
            },
            result_types=[TensorType(element, shape_of(input))],
        )

    def verify_(self) -> None:
        require_integer("input", self.input)
        require_integer("result", self.result)
        require_shape(self.result, shape_of(self.input))
        parts = {"form": self.form, "input_zero_point": self.input_zero_point, "zero_point": self.zero_point}
        vectors = {name: part.length for name, part in parts.items() if part is not None and part.length is not None}
        require(
            bool(vectors) == (self.axis is not None),
            f"axis must be given exactly when a parameter is a vector; vectors: {', '.join(vectors) or 'none'}",
        )
        for name, length in vectors.items():
            verify_axis(self.axis.value.data if self.axis else 0, length, tensor_type(self.input), name)
        if self.input_zero_point:
            _verify_zero_point("input", self.input_zero_point, self.input)
        if self.zero_point:
            _verify_zero_point("result", self.zero_point, self.result)
        if self.divisor is not None:
            found = require_integer("divisor", self.divisor)
            require(found in DIVISORS, f"divisor: expected elements of type i32, ui32 or i64, found {found}")
            shape = shape_of(self.input)
            require(
                broadcast_shapes(shape_of(self.divisor), shape) == shape,
                f"divisor: expected a shape that broadcasts to {shape}, found {shape_of(self.divisor)}",
            )

    def fold(self) -> list[SSAValue | Attribute] | None:
        """x => x where nothing changes: factor 1, equal zero points, equal types. bit-exact."""
        one = self.form in (RealAttr(ScaleAttr.of()), PotAttr.of(0)) and self.divisor is None
        if one and self.input_zero_point == self.zero_point and self.input.type == self.result.type:
            return [self.input]
        return None


@irdl_op_definition
class AddRequantOp(IRDLOperation):
    """The residual add on codes: y = saturate(round(f_a (a - z_a) + f_b (b - z_b)) + zero_point), exactly.

    f_a and f_b have the forms of requantize's factor; real ones are legal until they are lowered. With `round_each` both
    terms are rounded before they are added (I-ViT), else their exact sum is rounded once.

    ```mlir
    %y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.pot<1> : (tensor<17x96xi16>, tensor<17x96xi16>) -> tensor<17x96xi16>
    ```
    """

    name = "qvit.add_requant"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    lhs_form = prop_def(RealAttr | DyadicAttr | PotAttr)
    rhs_form = prop_def(RealAttr | DyadicAttr | PotAttr)
    lhs_zero_point = opt_prop_def(ZeroPointAttr)
    rhs_zero_point = opt_prop_def(ZeroPointAttr)
    zero_point = opt_prop_def(ZeroPointAttr)
    rounding = prop_def(RoundingAttr, default_value=HALF_EVEN)
    round_each = opt_prop_def(UnitAttr)
    axis = opt_prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$lhs `by` $lhs_form `,` $rhs `by` $rhs_form (`lhs_zero_point` $lhs_zero_point^)? (`rhs_zero_point` $rhs_zero_point^)?"
        " (`zero_point` $zero_point^)? (`axis` $axis^)? (`rounding` $rounding^)? (`round_each` $round_each^)?"
        " attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        lhs_form: Form,
        rhs: SSAValue,
        rhs_form: Form,
        element: Attribute,
        zero_points: tuple[int, int, int] = (0, 0, 0),
        rounding: Rounding = Rounding.HALF_EVEN,
        round_each: bool = False,
        axis: int | None = None,
    ) -> None:
        names = ("lhs_zero_point", "rhs_zero_point", "zero_point")
        super().__init__(
            operands=[lhs, rhs],
            properties={
                "lhs_form": lhs_form,
                "rhs_form": rhs_form,
                **{n: ZeroPointAttr.of(z) if z else None for n, z in zip(names, zero_points, strict=True)},
                "rounding": RoundingAttr(rounding),
                "round_each": UnitAttr() if round_each else None,
                "axis": None if axis is None else IntegerAttr(axis, i64),
            },
            result_types=[TensorType(element, shape_of(lhs))],
        )

    def verify_(self) -> None:
        operands = {"lhs": self.lhs, "rhs": self.rhs, "result": self.result}
        zero_points = (self.lhs_zero_point, self.rhs_zero_point, self.zero_point)
        for (name, operand), zero_point in zip(operands.items(), zero_points, strict=True):
            require_integer(name, operand)
            if zero_point:
                require(zero_point.number is not None, f"{name}: expected one zero point for the whole tensor")
                _verify_zero_point(name, zero_point, operand)
        require(
            shape_of(self.lhs) == shape_of(self.rhs),
            f"lhs, rhs: expected equal shapes, found {shape_of(self.lhs)} and {shape_of(self.rhs)}",
        )
        require_shape(self.result, shape_of(self.lhs))
        forms = {"lhs_form": self.lhs_form.length, "rhs_form": self.rhs_form.length}
        vectors = {name: length for name, length in forms.items() if length is not None}
        require(bool(vectors) == (self.axis is not None), "axis must be given exactly when a form has a vector")
        for name, length in vectors.items():
            verify_axis(self.axis.value.data if self.axis else 0, length, tensor_type(self.lhs), name)


@irdl_op_definition
class ThresholdOp(IRDLOperation):
    """A quantizer as comparators: q = lowest + #{m : x >= thresholds[m]} (Lin & Shah).

    thresholds: integers [M], or [dim, M] with one non-decreasing row for each index along `axis`.

    ```mlir
    %q = qvit.threshold %x, %t lowest -4 axis 1 : (tensor<17x96xi32>, tensor<96x7xi32>) -> tensor<17x96xi3>
    ```
    """

    name = "qvit.threshold"

    input = operand_def(TensorType)
    thresholds = operand_def(TensorType)
    lowest = prop_def(IntegerAttr.constr(i64))
    axis = opt_prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$input `,` $thresholds `lowest` $lowest (`axis` $axis^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self, input: SSAValue, thresholds: SSAValue, lowest: int, element: Attribute, axis: int | None = None
    ) -> None:
        super().__init__(
            operands=[input, thresholds],
            properties={
                "lowest": IntegerAttr(lowest, i64),
                "axis": None if axis is None else IntegerAttr(axis, i64),
            },
            result_types=[TensorType(element, shape_of(input))],
        )

    def verify_(self) -> None:
        require_integer("input", self.input)
        require_integer("thresholds", self.thresholds)
        result = require_integer("result", self.result)
        require_shape(self.result, shape_of(self.input))
        levels = shape_of(self.thresholds)
        require(
            len(levels) == (1 if self.axis is None else 2),
            f"thresholds: expected [levels], or [dimension, levels] with an axis, found shape {levels}",
        )
        if self.axis is not None:
            verify_axis(self.axis.value.data, levels[0], tensor_type(self.input), "input")
        lowest = self.lowest.value.data
        require(
            result.lo <= lowest and lowest + levels[-1] <= result.hi,
            f"result: codes {lowest}..{lowest + levels[-1]} do not fit {result} ({result.lo}..{result.hi})",
        )
