"""What exporters write around the scores of an attention (torch's scaled_dot_product_attention)."""

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qvit.dialects.ops.elementwise import AddOp, CompareOp, MulOp, SelectOp
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import MatmulOp
from qvit.dialects.ops.shape import BroadcastOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, describe, inherit
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.frontends.recognise.matching import Decline, made_by, only_user, require, scalar


class ZeroMask(RewritePattern):
    """x + 0 => x, the constant of any shape that does not enlarge x. bit-exact, but for the sign of a zero."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: AddOp, rewriter: PatternRewriter) -> None:
        for value, mask in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            numbers = self.weights.array(mask)
            if numbers is not None and not numbers.any() and shape_of(value) == shape_of(op.result):
                if isinstance(value.owner, Operation):
                    inherit(value.owner, op)
                rewriter.replace(op, [], [value])
                return


class NanGuard(RewritePattern):
    """select(is NaN(p), 0, p) => p, p = softmax(s). real-exact: a row with a finite number in it has no NaN.

    Declined where a mask that is known at run time only may hide a whole row.
    """

    rule = "NaN guard"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: SelectOp, rewriter: PatternRewriter) -> None:
        test = op.condition.owner
        if not isinstance(test, CompareOp) or test.predicate.data != "ne" or test.lhs is not test.rhs:
            return
        try:
            require(test.lhs is op.rhs, "another value than the tested one is kept")
            require(scalar(op.lhs, self.weights) == 0, "NaN becomes something else than 0")
            softmax = made_by(op.rhs, SoftmaxOp, "the guarded value")
            self._require_open_rows(softmax)
        except Decline as reason:
            self.declined.append(Remark(describe(op), self.rule, str(reason)))
            return
        inherit(softmax, test, op)
        rewriter.replace(op, [], [softmax.result])

    def _require_open_rows(self, softmax: SoftmaxOp) -> None:
        """No row of the scores is minus infinity throughout: of the terms, at most one constant hides anything."""
        hiding = 0
        for term in _terms(softmax.input):
            owner, numbers = _source(term), self.weights.array(term)
            if numbers is None:
                run_time = not isinstance(owner, Operation) or isinstance(owner, SelectOp)
                require(not run_time, f"the mask {describe(term)} is known at run time only: it may hide a whole row")
                continue
            axis = softmax.axis.value.data + numbers.ndim - len(shape_of(softmax.input))
            rows = np.isfinite(numbers)
            hiding += not rows.all()
            open_ = rows.any(axis=axis) if axis >= 0 else rows
            require(open_.all() and not (np.isnan(numbers) | (numbers == np.inf)).any(), "the mask hides a whole row")
        require(hiding <= 1, "several masks hide elements: together they may hide a whole row")


def _terms(value: SSAValue) -> list[SSAValue]:
    op = value.owner
    return [*_terms(op.lhs), *_terms(op.rhs)] if isinstance(op, AddOp) else [value]


def _source(value: SSAValue) -> object:
    """What makes a value, seen through operations that only move elements."""
    owner = value.owner
    moved = isinstance(owner, BroadcastOp | ReshapeOp | SliceOp | TransposeOp)
    return _source(owner.input) if moved else owner


class SplitScale(RewritePattern):
    """matmul(a * c, b * d) => matmul(a, b) * (c d), c and d numbers: the scale of the scores in one place.

    Equal up to float rounding: exporters take the square root of the scale for each side.
    """

    rule = "attention scale"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: MatmulOp, rewriter: PatternRewriter) -> None:
        left, right = op.lhs.owner, op.rhs.owner
        if not isinstance(left, MulOp) or not isinstance(right, MulOp):
            return
        try:
            (a, c), (b, d) = self._side(left, op), self._side(right, op)
        except Decline as reason:
            self.declined.append(Remark(describe(op), self.rule, str(reason)))
            return
        product = MatmulOp(a, b)
        inherit(product, left, right, op)
        element = element_of(op.result)
        number = ConstantOp(np.array(c * d, element_dtype(element)), element)
        scaled = MulOp(product.result, number.result)
        inherit(scaled, op)
        rewriter.replace(op, [product, number, scaled])

    def _side(self, mul: MulOp, product: MatmulOp) -> tuple[SSAValue, float]:
        for value, factor in ((mul.lhs, mul.rhs), (mul.rhs, mul.lhs)):
            if (number := scalar(factor, self.weights)) is not None and shape_of(value) == shape_of(mul.result):
                require(only_user(mul.result) is product, f"{describe(mul)} is used elsewhere too")
                return value, number
        raise Decline(f"{describe(mul)} does not multiply by one number")
