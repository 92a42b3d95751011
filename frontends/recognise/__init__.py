"""Recognisers: from the plain operators that exporters write to the operations that they mean.

They work on the dialect, not on the source graph, so that every reader shares them. Each takes its pattern whole or
declines with a reason; what is left as plain float operations still runs. `recognise` applies all of them.

A recogniser replaces constants such as float32(sqrt 2) by the number that was meant: equal up to float rounding.
"""

from xdsl.dialects.builtin import ModuleOp
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.provenance import Remark
from qvit.dialects.weights import Weights
from qvit.frontends.recognise.attention import NanGuard, SplitScale, ZeroMask
from qvit.frontends.recognise.gelu import RecogniseGelu, RecogniseTanhGelu
from qvit.frontends.recognise.layer_norm import RecogniseLayerNorm
from qvit.frontends.recognise.linear import (
    BiasOfLinear,
    LinearOfReshape,
    MatmulToLinear,
    QuantizedWeight,
    TransposeOfWeight,
)


def recognise(module: ModuleOp) -> list[Remark]:
    """Apply every recogniser to a freshly imported module; returns what was declined, in program order."""
    weights, declined = Weights(module), list[Remark]()
    stored = GreedyRewritePatternApplier([QuantizedWeight(weights, declined)])
    PatternRewriteWalker(stored, apply_recursively=False).rewrite_module(module)  # Sub, then Mul, as they come
    shapes = GreedyRewritePatternApplier(
        [
            MatmulToLinear(weights),
            TransposeOfWeight(weights),
            BiasOfLinear(weights),
            LinearOfReshape(),
            ZeroMask(weights),
        ]
    )
    PatternRewriteWalker(shapes).rewrite_module(module)
    functions = GreedyRewritePatternApplier(
        [
            RecogniseLayerNorm(weights, declined),
            RecogniseGelu(weights, declined),
            RecogniseTanhGelu(weights, declined),
            NanGuard(weights, declined),
            SplitScale(weights, declined),
        ]
    )
    PatternRewriteWalker(functions, apply_recursively=False).rewrite_module(module)
    # a walk that rewrites nothing removes what the recognised operations left without a use
    PatternRewriteWalker(GreedyRewritePatternApplier([])).rewrite_module(module)
    return declined
