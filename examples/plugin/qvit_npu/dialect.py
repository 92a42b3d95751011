"""The dialect `npu`."""

from collections.abc import Sequence

from xdsl.dialects.builtin import IntegerAttr, TensorType, i8, i32, i64
from xdsl.ir import Dialect, SSAValue
from xdsl.irdl import IRDLOperation, irdl_op_definition, operand_def, prop_def, result_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from qvit.dialects.types import broadcast_shapes, shape_of


def product_shape(lhs: Sequence[int], rhs: Sequence[int]) -> tuple[int, ...]:
    """[..., M, K] x [..., N, K] -> [..., M, N]; VerifyException if they do not fit."""
    if min(len(lhs), len(rhs)) < 2 or lhs[-1] != rhs[-1]:
        raise VerifyException(f"lhs, rhs: expected [..., M, K] and [..., N, K], found {lhs} and {rhs}")
    return (*broadcast_shapes(lhs[:-2], rhs[:-2]), lhs[-2], rhs[-2])


@irdl_op_definition
class TileMatmulOp(IRDLOperation):
    """C = A B^T on a matrix unit of tile x tile multipliers; A [..., M, K], B [..., N, K], both i8, C [..., M, N], i32.

    B is stored with its outputs as rows, as the unit loads it. N and K are multiples of the tile.

    ```mlir
    %c = npu.tile_matmul %a, %b tile 16 : (tensor<17x96xi8>, tensor<32x96xi8>) -> tensor<17x32xi32>
    ```
    """

    name = "npu.tile_matmul"

    lhs = operand_def(TensorType.constr(i8))
    rhs = operand_def(TensorType.constr(i8))
    tile = prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType.constr(i32))

    traits = traits_def(Pure())

    assembly_format = "$lhs `,` $rhs `tile` $tile attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue, tile: int) -> None:
        super().__init__(
            operands=[lhs, rhs],
            properties={"tile": IntegerAttr(tile, i64)},
            result_types=[TensorType(i32, product_shape(shape_of(lhs), shape_of(rhs)))],
        )

    def verify_(self) -> None:
        expected = product_shape(shape_of(self.lhs), shape_of(self.rhs))
        if shape_of(self.result) != expected:
            raise VerifyException(f"result: expected shape {expected}, found {shape_of(self.result)}")
        tile = self.tile.value.data
        rows, columns = shape_of(self.rhs)[-2:]
        if tile < 1 or rows % tile or columns % tile:
            raise VerifyException(f"rhs: expected multiples of the tile {tile}, found {rows} x {columns}")


Npu = Dialect("npu", [TileMatmulOp])
