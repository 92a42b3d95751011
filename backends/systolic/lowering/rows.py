"""Operations on rows that follow no product: normalisation, softmax, functions, requantization of what has a home."""

from xdsl.ir import Operation

from qvit.backends.systolic.isa import Memory
from qvit.backends.systolic.lowering.build import Builder, blocks, element
from qvit.backends.systolic.lowering.groups import Chain, rows_alike
from qvit.backends.systolic.lowering.tensors import Home, Matrix, View
from qvit.backends.systolic.lowering.vectors import Here, Tile, run_tail
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.types import shape_of

ROWS = 64
"""Rows that one instruction takes, at most: what follows can begin with them."""


def rowwise(b: Builder, chain: Chain, result: Matrix) -> None:
    """All rows of the head's operand, some at a time, with the operations behind it."""
    op = chain.head
    view = b.view(op.operands[0]).broadcast(shape_of(op.results[0]))
    held = element(op.operands[0])
    sums: Home | None = None
    if isinstance(op, IntSoftmaxOp) and len(op.outputs) > 1:
        sums = b.new_home(op.outputs[1])
        b.define(op.outputs[1], View.of(sums, shape_of(op.outputs[1])))
    # four bytes an element and as many again, in a sixteenth of the memory
    rows = max(1, min(ROWS, b.machine.memory.activations // 16 // (4 * max(result.columns, 1))))
    across = isinstance(op, (IntLayerNormOp, IntSoftmaxOp)) or _needs_rows(op)
    alike = rows_alike(op)
    before = 0
    with b.scope():
        for matrix in view.rows():
            for first, last in _row_blocks(matrix.rows, rows, alike):
                for left, right in [(0, matrix.columns)] if across else blocks(matrix.columns, 8191):
                    here: Here = {}
                    b.at(op)
                    place = b.read(matrix.part(first, last, left, right))
                    tile = Tile(place, Memory.SPM, held, before + first, last - first, left, right - left)
                    if sums is None:
                        run_tail(b, chain.ops, tile, result, here)
                        continue
                    assert isinstance(op, IntSoftmaxOp)
                    mine = Matrix(sums, before + first, last - first, 1, 1, 1)
                    with b.written(mine) as place:
                        here[op.outputs[1]] = place
                        run_tail(b, chain.ops, tile, result, here)
            before += matrix.rows


def _row_blocks(total: int, most: int, alike: int | None) -> list[tuple[int, int]]:
    """Parts of at most `most` rows; where constants are those of `alike` rows, no part has rows of two kinds."""
    if alike is None:
        return blocks(total, most)
    return [
        (start + first, start + last)
        for start in range(0, total, alike)
        for first, last in blocks(min(alike, total - start), most)
    ]


def _needs_rows(op: Operation) -> bool:
    return isinstance(op, IntFunctionOp) and bool(getattr(op.approximation.data, "rowwise", False))
