"""What verifiers share: messages that name the operand, the rule, and the values that broke it."""

from collections.abc import Sequence

from xdsl.ir import Attribute, SSAValue
from xdsl.utils.exceptions import VerifyException

from qvit.dialects.attributes import ZeroPointAttr, verify_axis
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import BOOLEAN, broadcast_shapes, element_dtype, int_type, is_float, shape_of, tensor_type

ACCUMULATORS = (32, 64)


def require(condition: bool, message: str) -> None:
    """A verifier's rule: VerifyException with `message` unless it holds."""
    if not condition:
        raise VerifyException(message)


def require_shape(result: SSAValue, expected: Sequence[int]) -> None:
    found = tensor_type(result).get_shape()
    require(found == tuple(expected), f"result: expected shape {tuple(expected)}, found {found}")


def require_element(name: str, operand: SSAValue, expected: Attribute) -> None:
    found = tensor_type(operand).element_type
    require(found == expected, f"{name}: expected elements of type {expected}, found {found}")


def require_float(**operands: SSAValue | None) -> None:
    """Every operand has float elements, all of the same type."""
    seen: dict[str, Attribute] = {}
    for name, operand in operands.items():
        if operand is None:
            continue
        element = tensor_type(operand).element_type
        require(is_float(element), f"{name}: expected a tensor of f32 or f64, found {tensor_type(operand)}")
        seen[name] = element
    require(len(set(seen.values())) <= 1, f"element types differ: {', '.join(f'{n} {e}' for n, e in seen.items())}")


def require_integer(name: str, operand: SSAValue) -> IntType:
    """The operand has integer elements of at most 64 bits."""
    element = tensor_type(operand).element_type
    found = int_type(element)
    if found is None:
        raise VerifyException(f"{name}: expected a tensor of integers, found {tensor_type(operand)}")
    element_dtype(element)
    return found


def takes_integers(result: SSAValue, **operands: SSAValue) -> bool:
    """Whether an op that takes floats or integers, never a mix, is the integer one: then with an i32 or i64 result."""
    kinds = {name: int_type(tensor_type(operand).element_type) is not None for name, operand in operands.items()}
    if not any(kinds.values()):
        require_float(**operands, result=result)
        return False
    types = ", ".join(f"{name} {tensor_type(operand).element_type}" for name, operand in operands.items())
    require(all(kinds.values()), f"operands must be all floats or all integers, found {types}")
    for name, operand in operands.items():
        require_integer(name, operand)
    accumulator = int_type(tensor_type(result).element_type)
    require(
        accumulator is not None and accumulator.signed and accumulator.bits in ACCUMULATORS,
        f"result: integers accumulate in i32 or i64, found {tensor_type(result).element_type}",
    )
    return True


def require_mask(mask: SSAValue | None, operand: SSAValue) -> None:
    """Truth values that broadcast against the operand."""
    if mask is not None:
        require_element("mask", mask, BOOLEAN)
        broadcast = broadcast_shapes(shape_of(mask), shape_of(operand))
        require(broadcast == shape_of(operand), f"mask: {shape_of(mask)} does not broadcast to {shape_of(operand)}")


def require_in_range(name: str, zero_point: ZeroPointAttr, codes: IntType) -> None:
    """A zero point is a code itself; one that lies in a weight file is checked when it is read."""
    for number in zero_point.numbers:
        require(
            codes.lo <= number <= codes.hi, f"{name}: zero point {number} is outside {codes} ({codes.lo}..{codes.hi})"
        )


def require_zero_point(
    name: str, zero_point: ZeroPointAttr | None, operand: SSAValue, integers: bool, axis: int | None
) -> None:
    """A zero point belongs to an integer operand, lies in its range, and is a vector only along `axis`."""
    if zero_point is None:
        return
    require(integers, f"{name}: zero points belong to integer operands")
    found = require_integer(name, operand)
    require_in_range(name, zero_point, found)
    if zero_point.number is not None:
        return
    require(axis is not None, f"{name}: only one zero point for the whole tensor is possible here")
    verify_axis(axis or 0, zero_point.length, tensor_type(operand), name)
