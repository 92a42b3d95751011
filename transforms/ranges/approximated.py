"""Approximations: each states the intervals of its intermediates, with its actual tables."""

from collections.abc import Callable, Mapping, Sequence

from qvit.dialects.approximations.base import (
    FunctionApproximation,
    Interval,
    LayerNormApproximation,
    RangeError,
    SoftmaxApproximation,
)
from qvit.dialects.ops.approximated import ApproximatedOp, IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.interval import WORD, Analysis, Range

_NARROWER = "use narrower codes, or another approximation"
_RESULTS = ("y", "sum")
"""What approximations call their results."""

Tables = Sequence[Array]


def _results(op: ApproximatedOp) -> list[IntType]:
    return [type for result in op.results if (type := integer_of(result)) is not None]


def _approximated(
    a: Analysis, op: ApproximatedOp, intervals: Callable[[Tables], Mapping[str, Interval]]
) -> tuple[Range, ...]:
    """The results; every intermediate is measured against a word, and a result against its type."""
    types = _results(op)
    tables = [a.weights.array(table) for table in op.tables]
    known = [table for table in tables if table is not None]
    if len(known) != len(tables):
        a.fail(op, "one of its tables is no constant: nothing is known of its intermediates")
        return tuple(map(Range.of_type, types))
    try:
        found = intervals(known)
    except RangeError as error:
        a.fail(op, str(error))
        return tuple(map(Range.of_type, types))
    ranges = {name: Range.of(lo, hi) for name, (lo, hi) in found.items()}
    results: dict[str, IntType] = dict(zip(_RESULTS, types, strict=False))
    for name, interval in ranges.items():
        type = results.get(name, WORD)
        if name != "y" or not interval.fits(type):  # codes are made to fill their type
            a.measure(op, name, interval, type, _NARROWER)
    return tuple(ranges[name] for name in results)


def int_softmax(a: Analysis, op: IntSoftmaxOp) -> tuple[Range, ...]:
    """Entries that the mask leaves out are 0, whatever is stated of the others."""
    approximation, codes, length = op.approximation.data, a.of(op.input).ends, shape_of(op.input)[-1]
    assert isinstance(approximation, SoftmaxApproximation)

    def intervals(tables: Tables) -> Mapping[str, Interval]:
        approximation.check(codes, length, tables)
        found = approximation.intermediates(codes, length, tables)
        if op.mask is None:
            return found
        return {name: (min(lo, 0), max(hi, 0)) for name, (lo, hi) in found.items()}

    return _approximated(a, op, intervals)


def int_function(a: Analysis, op: IntFunctionOp) -> tuple[Range, ...]:
    approximation, (result,) = op.approximation.data, _results(op)
    assert isinstance(approximation, FunctionApproximation)
    codes = a.of(op.input).minus(Range.exactly(a.weights.zero_point(op.input_zero_point))).ends

    def intervals(tables: Tables) -> Mapping[str, Interval]:
        approximation.check(codes, tables)
        return approximation.intermediates(codes, tables, result)

    return _approximated(a, op, intervals)


def int_layer_norm(a: Analysis, op: IntLayerNormOp) -> tuple[Range, ...]:
    approximation, (result,) = op.approximation.data, _results(op)
    assert isinstance(approximation, LayerNormApproximation)
    codes, channels = a.of(op.input).ends, shape_of(op.input)[-1]

    def intervals(tables: Tables) -> Mapping[str, Interval]:
        approximation.check(codes, channels, tables)
        return approximation.intermediates(codes, channels, tables, result)

    return _approximated(a, op, intervals)
