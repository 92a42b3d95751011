"""Canonicalization patterns of the dialect's operations; the operations name them, `--canonicalize` applies them."""

from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.provenance import inherit
from qvit.dialects.types import shape_of


class ReshapeOfReshape(RewritePattern):
    """reshape(reshape(x)) => reshape(x). bit-exact."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        inner = op.input.owner
        if not isinstance(inner, ReshapeOp):
            return
        new = ReshapeOp(inner.input, shape_of(op.result))
        inherit(new, inner, op)
        rewriter.replace(op, new)


class TransposeOfTranspose(RewritePattern):
    """transpose(transpose(x, p), q) => transpose(x, p[q]). bit-exact."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter) -> None:
        inner = op.input.owner
        if not isinstance(inner, TransposeOp):
            return
        new = TransposeOp(inner.input, [inner.order[q] for q in op.order])
        inherit(new, inner, op)
        rewriter.replace(op, new)
