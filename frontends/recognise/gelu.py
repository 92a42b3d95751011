"""GELU, as exporters write it before opset 20: through erf, or through tanh."""

from collections import Counter
from math import isclose, pi, sqrt

from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qvit.dialects.ops.elementwise import AddOp, DivOp, ErfOp, MulOp, PowOp, TanhOp
from qvit.dialects.ops.nonlinear import GeluOp
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.provenance import Remark, describe, inherit
from qvit.dialects.weights import Weights
from qvit.frontends.recognise.matching import Decline, factors, made_by, only_user, other, require, scalar


def _half_product(x: SSAValue, function: ErfOp | TanhOp, weights: Weights) -> tuple[MulOp, list[Operation]]:
    """(product, operations) of x * (1 + f) * 0.5, the factors in any order, f the result of `function`."""
    name = function.name.removeprefix("qvit.")
    plus = only_user(function.result)
    if isinstance(plus, QuantizeOp):
        raise Decline(f"{name} is quantized ({describe(plus)})")
    if not isinstance(plus, AddOp):
        raise Decline(f"{name} is not followed by an addition alone")
    require(scalar(other(plus, function.result), weights) == 1, f"{name} is added to something else than 1")
    top = only_user(plus.result)
    if isinstance(top, QuantizeOp):
        raise Decline(f"1 + {name} is quantized ({describe(top)})")
    while isinstance(top, MulOp):
        found = list(factors(top.result))
        rest = [f for f in found if f is not plus.result]
        halves = [f for f in rest if scalar(f, weights) == 0.5]
        if len(found) == 3 and len(halves) == 1 and any(f is x for f in rest):
            inside = [operand.owner for operand in top.operands if not any(operand is f for f in found)]
            return top, [function, plus, *(op for op in inside if isinstance(op, MulOp))]
        top = only_user(top.result)
    raise Decline(f"1 + {name} is not multiplied by the argument and 0.5")


class RecogniseGelu(RewritePattern):
    """x * (1 + erf(x / sqrt 2)) * 0.5, the factors in any order => gelu(x)."""

    rule = "gelu"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, erf: ErfOp, rewriter: PatternRewriter) -> None:
        try:
            x, inner = self._argument(erf)
            product, ops = _half_product(x, erf, self.weights)
        except Decline as reason:
            self.declined.append(Remark(describe(erf), self.rule, str(reason)))
            return
        new = GeluOp(x)
        inherit(new, inner, *ops, product)
        rewriter.replace(product, new)

    def _argument(self, erf: ErfOp) -> tuple[SSAValue, Operation]:
        scaled = erf.input.owner
        if isinstance(scaled, DivOp):
            number = scalar(scaled.rhs, self.weights)
            require(number and isclose(number, sqrt(2), rel_tol=1e-6), "the argument of erf is not divided by sqrt 2")
            return scaled.lhs, scaled
        product = made_by(erf.input, MulOp, "the argument of erf")
        for factor, x in ((product.rhs, product.lhs), (product.lhs, product.rhs)):
            number = scalar(factor, self.weights)
            if number and isclose(number, sqrt(0.5), rel_tol=1e-6):
                return x, product
        raise Decline("the argument of erf is not multiplied by 1 / sqrt 2")


def _monomial(value: SSAValue, weights: Weights) -> tuple[float, Counter[SSAValue], list[Operation]]:
    """(c, exponents, operations) of a value that is c times powers of other values."""
    if (number := scalar(value, weights)) is not None:
        return number, Counter(), []
    op = value.owner
    if isinstance(op, MulOp):
        (a, left, ops), (b, right, more) = (_monomial(v, weights) for v in (op.lhs, op.rhs))
        return a * b, left + right, [*ops, *more, op]
    if isinstance(op, PowOp) and (exponent := scalar(op.rhs, weights)) in (2, 3):
        c, powers, ops = _monomial(op.lhs, weights)
        times = int(exponent)
        return c**times, Counter({v: n * times for v, n in powers.items()}), [*ops, op]
    return 1.0, Counter([value]), []


class RecogniseTanhGelu(RewritePattern):
    """x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) * 0.5, multiplied out in any order => gelu(x, tanh)."""

    rule = "gelu"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, tanh: TanhOp, rewriter: PatternRewriter) -> None:
        if not isinstance(tanh.input.owner, MulOp):
            return  # the tanh of a pooler, or a softcap
        try:
            x, inner = self._argument(tanh)
            product, ops = _half_product(x, tanh, self.weights)
        except Decline as reason:
            self.declined.append(Remark(describe(tanh), self.rule, str(reason)))
            return
        new = GeluOp(x, tanh=True)
        inherit(new, *inner, *ops, product)
        rewriter.replace(product, new)

    def _argument(self, tanh: TanhOp) -> tuple[SSAValue, list[Operation]]:
        """x and the operations of sqrt(2 / pi) (x + 0.044715 x^3), also as sqrt(2 / pi) x (1 + 0.044715 x^2)."""
        c, powers, ops = _monomial(tanh.input, self.weights)
        require(
            isclose(c, sqrt(2 / pi), rel_tol=1e-5), f"the argument of tanh has the factor {c:.6g}, not sqrt(2 / pi)"
        )
        sums = [value for value in powers if isinstance(value.owner, AddOp)]
        bare = [value for value in powers if value not in sums]
        # where x is a sum itself, the sum that holds x is the polynomial
        for value in sorted(sums, key=lambda v: v in bare):
            add = value.owner
            assert isinstance(add, AddOp)
            terms = [_monomial(operand, self.weights) for operand in add.operands]
            for (c1, low, more), (c3, high, rest) in (terms, terms[::-1]):
                x = next(iter(high), None)
                cubic = c1 == 1 and isclose(c3, 0.044715, rel_tol=1e-4)
                outside = powers - Counter([value])
                if x is not None and cubic and high - low == Counter({x: 2}) and outside + low == Counter([x]):
                    return x, [*more, *rest, add, *ops]
        raise Decline("the argument of tanh is not sqrt(2 / pi) (x + 0.044715 x^3)")
