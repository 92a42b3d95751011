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
from qvit.dialects.provenance import Remark, describe
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.interval import WORD, Analysis, Range

_NARROWER = "use narrower codes, or another approximation"
_RESULTS = ("y", "sum")
"""What approximations call their results."""

Tables = Sequence[Array]


def results_of(op: ApproximatedOp) -> list[IntType]:
    """The types of its results."""
    return [type for result in op.results if (type := integer_of(result)) is not None]


def _approximated(
    a: Analysis,
    op: ApproximatedOp,
    check: Callable[[Tables], None],
    intermediates: Callable[[Tables], Mapping[str, Interval]],
) -> tuple[Range, ...]:
    """The results; every intermediate is measured against a word, and a result against its type.

    Where the approximation's conditions do not hold, what it states of its intermediates is measured if there is such a
    thing, for a table may end too early, but nothing is believed of its results.
    """
    types = results_of(op)
    anything = tuple(map(Range.of_type, types))
    tables = [a.weights.array(table) for table in op.tables]
    known = [table for table in tables if table is not None]
    if len(known) != len(tables):
        a.fail(op, "one of its tables is no constant: nothing is known of its intermediates")
        return anything
    sound = True
    try:
        check(known)
    except RangeError as error:
        a.conditions.append(Remark(describe(op), op.name, str(error)))
        sound = False
    try:
        stated = intermediates(known)
    except (IndexError, ValueError):
        if sound:
            raise
        return anything
    found = {name: Range.of(lo, hi) for name, (lo, hi) in stated.items()}
    results: dict[str, IntType] = dict(zip(_RESULTS, types, strict=False))
    for name, interval in found.items():
        type = results.get(name, WORD)
        if name != "y" or not interval.fits(type):  # codes are made to fill their type
            a.measure(op, name, interval, type, _NARROWER)
    return tuple(found[name] for name in results) if sound else anything


def int_softmax(a: Analysis, op: IntSoftmaxOp) -> tuple[Range, ...]:
    """Entries that the mask leaves out are 0, whatever is stated of the others."""
    approximation, codes, length = op.approximation.data, a.of(op.input).ends, shape_of(op.input)[-1]
    assert isinstance(approximation, SoftmaxApproximation)

    def intermediates(tables: Tables) -> Mapping[str, Interval]:
        found = approximation.intermediates(codes, length, tables)
        if op.mask is None:
            return found
        return {name: (min(lo, 0), max(hi, 0)) for name, (lo, hi) in found.items()}

    return _approximated(a, op, lambda tables: approximation.check(codes, length, tables), intermediates)


def int_function(a: Analysis, op: IntFunctionOp) -> tuple[Range, ...]:
    approximation, (result,) = op.approximation.data, results_of(op)
    assert isinstance(approximation, FunctionApproximation)
    codes = a.of(op.input).minus(Range.exactly(a.weights.zero_point(op.input_zero_point))).ends
    return _approximated(
        a,
        op,
        lambda tables: approximation.check(codes, tables),
        lambda tables: approximation.intermediates(codes, tables, result),
    )


def int_layer_norm(a: Analysis, op: IntLayerNormOp) -> tuple[Range, ...]:
    approximation, (result,) = op.approximation.data, results_of(op)
    assert isinstance(approximation, LayerNormApproximation)
    codes, channels = a.of(op.input).ends, shape_of(op.input)[-1]
    return _approximated(
        a,
        op,
        lambda tables: approximation.check(codes, channels, tables),
        lambda tables: approximation.intermediates(codes, channels, tables, result),
    )
