"""--map-to-npu: integer products onto the matrix unit."""

import sys
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, i8, i32
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.elementwise import AddOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.shape import TransposeOp
from qvit.dialects.types import element_of, is_float, shape_of
from qvit.transforms.rule import Exactness, Rewrite, Rule, require
from qvit_npu.dialect import TileMatmulOp


def _require_codes(name: str, codes: SSAValue, zero_point: ZeroPointAttr | None) -> None:
    """The unit multiplies signed bytes as they are."""
    require(element_of(codes) == i8, f"{name} is of {element_of(codes)}, the unit takes i8")
    require(zero_point is None, f"{name} has the zero point {zero_point}, the unit subtracts none")


class _ToNpu(Rule):
    """What both rules share: a tile, and what has to fit it."""

    exactness = Exactness.BIT_EXACT

    def __init__(self, tile: int) -> None:
        super().__init__()
        self.tile = tile

    def require_tiles(self, outputs: int, depth: int) -> None:
        fit = outputs % self.tile == 0 and depth % self.tile == 0
        require(fit, f"{outputs} outputs of depth {depth} are no multiples of the tile {self.tile}")


class LinearToNpu(_ToNpu):
    """linear(x, W, b) => tile_matmul(x, W) + b, x and W of i8 without zero points. bit-exact."""

    name = "linear-to-npu"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, LinearOp) or is_float(element_of(op.input)):
            return None
        _require_codes("input", op.input, op.input_zero_point)
        _require_codes("weight", op.weight, op.weight_zero_point)
        require(len(shape_of(op.input)) >= 2, "input is a vector, the unit takes rows")
        require(element_of(op.result) == i32, f"the accumulator is {element_of(op.result)}, the unit's is i32")
        self.require_tiles(*shape_of(op.weight))
        product = TileMatmulOp(op.input, op.weight, self.tile)
        return Rewrite([product] if op.bias is None else [product, AddOp(product.result, op.bias)])


class MatmulToNpu(_ToNpu):
    """matmul(a, b) => tile_matmul(a, b^T), a and b of i8 without zero points. bit-exact."""

    name = "matmul-to-npu"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, MatmulOp) or is_float(element_of(op.lhs)):
            return None
        _require_codes("lhs", op.lhs, op.lhs_zero_point)
        _require_codes("rhs", op.rhs, op.rhs_zero_point)
        require(element_of(op.result) == i32, f"the accumulator is {element_of(op.result)}, the unit's is i32")
        *leading, depth, outputs = shape_of(op.rhs)
        self.require_tiles(outputs, depth)
        rank = len(leading)
        turned = TransposeOp(op.rhs, [*range(rank), rank + 1, rank])
        return Rewrite([turned, TileMatmulOp(op.lhs, turned.result, self.tile)])


@dataclass(frozen=True)
class MapToNpuPass(ModulePass):
    """Map integer products of 8-bit codes onto the matrix unit; name those that stay, and why, on stderr.

    Legal on any module of the qvit dialect, best after --delay-dequant. `tile` is the unit's width; every mapped product
    gives the same integers.
    """

    name: ClassVar[str] = "map-to-npu"

    tile: int = 16

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        rules: list[Rule] = [LinearToNpu(self.tile), MatmulToNpu(self.tile)]
        PatternRewriteWalker(GreedyRewritePatternApplier(list(rules)), apply_recursively=False).rewrite_module(op)
        for left in op.walk():
            for remark in (remark for rule in rules for remark in rule.why_not(left)):
                print(f"remark: {remark.src}: {remark.rule}: {remark.reason}", file=sys.stderr)
