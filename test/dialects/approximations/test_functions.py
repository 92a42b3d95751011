"""table, lin and quad: against the oracle over all codes, against the real functions, and their intermediates."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle_own as oracle
import pytest
from approximation_examples import Measured, arrays

from qvit.dialects.approximations.base import Built, Codes, FunctionApproximation, FunctionSpec, RangeError
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.approximations.lin import Lin
from qvit.dialects.approximations.quad import Form, Quad
from qvit.dialects.approximations.table import Table
from qvit.dialects.semantics.integers import IntType, saturate

I4, I8, I12, I16, I32 = (IntType(bits) for bits in (4, 8, 12, 16, 32))
UI8, UI12, UI16 = (IntType(bits, False) for bits in (8, 12, 16))


def codes(scale: Fraction, type: IntType, zero_point: int = 0) -> Codes:
    return Codes(scale, zero_point, type)


def over(range_: int, type: IntType = I16) -> Codes:
    """Symmetric codes of -range..range."""
    return Codes(Fraction(range_, 1 << (type.bits - 1)), 0, type)


def build(kind: type[FunctionApproximation], function: str, input: Codes, output: Codes) -> Built:
    return kind.build(FunctionSpec(function, input, output))


def real(function: str, input: Codes, built: Built) -> np.ndarray:
    """The exact results in units of those built, saturated."""
    exact = FUNCTIONS[function](input.real()) / float(built.scale) + built.zero_point
    return np.clip(exact, built.results[0].lo, built.results[0].hi)


def results(input: Codes, built: Built) -> np.ndarray:
    """Of all codes, lowest first."""
    approximation = built.approximation
    assert isinstance(approximation, FunctionApproximation)
    x = np.arange(input.type.lo, input.type.hi + 1) - input.zero_point * approximation.centred
    y = approximation.apply(x, arrays(built), built.results[0])
    assert y.dtype == built.results[0].dtype
    return y.astype(np.int64)


# --- table ---


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "output", [codes(Fraction(1, 20), I8), codes(Fraction(1, 60), UI8, 37), codes(Fraction(1, 2**14), I16)]
)
def test_table_is_the_rounded_function(function: str, output: Codes) -> None:
    for input in (codes(Fraction(1, 20), I8), codes(Fraction(1, 30), UI8, 100), codes(Fraction(1, 3), I4, -2)):
        b = build(Table, function, input, output)
        y, exact = results(input, b), real(function, input, b)
        assert (y == np.floor(exact + 0.5)).all()
        assert b.results == (output.type,)
        assert b.approximation == Table(input.type.lo)
        stated = b.approximation.intermediates((input.type.lo, input.type.hi), arrays(b), output.type)  # pyright: ignore
        assert stated == {"y": (y.min(), y.max())}
        part = b.approximation.intermediates((0, 3), arrays(b), output.type)  # pyright: ignore
        assert part == {"y": (y[-input.type.lo :][:4].min(), y[-input.type.lo :][:4].max())}


def test_table_conditions() -> None:
    b = build(Table, "gelu", codes(Fraction(1, 20), I4), codes(Fraction(1, 20), I8))
    table = b.tables[0][0]
    a = b.approximation
    assert isinstance(a, Table)
    a.check((-8, 7), [table])
    for beyond in ((-9, 7), (-8, 8)):
        with pytest.raises(RangeError, match=r"^the table has results for codes -8\.\.7, the codes are"):
            a.check(beyond, [table])
    for x in (-9, 8):
        with pytest.raises(IndexError):
            a.apply(np.array([x]), [table], I8)
    with pytest.raises(OverflowError, match="does not fit i4"):
        a.apply(np.array([7]), [np.full(16, 8)], I4)
    with pytest.raises(RangeError, match="^a table takes codes of at most 8 bits, found i9: use lin or quad$"):
        build(Table, "gelu", codes(Fraction(1, 20), IntType(9)), codes(Fraction(1, 20), I8))
    with pytest.raises(RangeError, match="^no function swish; there are gelu, "):
        build(Table, "swish", codes(Fraction(1, 20), I8), codes(Fraction(1, 20), I8))
    with pytest.raises(RangeError, match="^unknown options size; known are none$"):
        Table.build(FunctionSpec("gelu", codes(Fraction(1), I8), codes(Fraction(1), I8)), size=3)
    for lowest in (-129, 1):
        with pytest.raises(ValueError, match=rf"^table: lowest must be in -128\.\.0, found {lowest}$"):
            Table(lowest)


# --- lin and quad ---


def compare(input: Codes, b: Built, step: int) -> Measured:
    """Every `step`th code and those at both ends, and at the middle; the intervals are exact where all are tried."""
    a, tables, result = b.approximation, arrays(b), b.results[0]
    assert isinstance(a, Lin | Quad)
    shift = input.zero_point * a.centred
    lo, hi, zero = input.type.lo - shift, input.type.hi - shift, input.zero_point - shift
    near = [n for n in range(zero - 40, zero + 40) if lo <= n <= hi]
    x = sorted({*range(lo, hi + 1, step), *range(lo, lo + 40), *range(hi - 40, hi + 1), *near})
    y = a.apply(np.array(x), tables, result)
    lists, measured = [t.tolist() for t in tables], Measured()
    for number, found in zip(x, y.tolist(), strict=True):
        given = (number, a.parameters)
        target = (result.lo, result.hi)
        expected, seen = (
            oracle.lin(*given, lists[0], target) if isinstance(a, Lin) else oracle.quad(*given, lists, target)
        )
        assert found == expected
        measured.add({name: [value] for name, value in seen.items()})
    a.check((lo, hi), tables)
    stated = a.intermediates((lo, hi), tables, result)
    measured.check(stated)
    if step == 1:
        assert measured.extent == stated
    return measured


INSTANCES = [
    (kind, function, input, output)
    for kind in (Lin, Quad)
    for function in FUNCTIONS
    for input, output in [
        (over(8), over(8 if "elu" in function or function in ("silu", "identity") else 1, I8)),
        (over(8), over(8 if "elu" in function or function in ("silu", "identity") else 1, I16)),
        (codes(Fraction(1, 7000), UI16, 30000), codes(Fraction(1, 25), UI8, 40)),
        (codes(Fraction(1, 7000), I16, -9000), codes(Fraction(1, 9000), UI16, 20000)),
        (over(6, I12), codes(Fraction(1, 30), I8, -20)),
        (codes(Fraction(1, 300), UI12, 1000), codes(Fraction(1, 3000), I16, 100)),
    ]
    if not (kind is Quad and function in ("relu", "identity") and output.type.bits > 8)
]


@pytest.mark.parametrize(
    ("kind", "function", "input", "output"),
    INSTANCES,
    ids=lambda v: v if isinstance(v, str) else getattr(v, "__name__", None) or str(v.type),
)
def test_against_the_oracle(kind: type[Lin] | type[Quad], function: str, input: Codes, output: Codes) -> None:
    b = build(kind, function, input, output)
    compare(input, b, 509 if input.type.bits > 12 else 17)
    # what build says of the error is so, and no more than the kind of result lets expect
    y, exact = results(input, b), real(function, input, b)
    assert b.error == np.abs(y - exact).max()
    if b.results[0].bits == 8:
        assert b.error < (0.7 if function == "relu" else 0.6)  # a kink inside a piece
        assert (b.results[0], float(b.scale), b.zero_point) == (output.type, float(output.scale), output.zero_point)
    else:
        assert b.error < (50 if function == "relu" else 25 if kind is Lin else 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Lin, Quad])
@pytest.mark.parametrize("function", ["gelu", "silu", "tanh", "sigmoid"])
@pytest.mark.parametrize("bits", [8, 16])
def test_against_the_oracle_on_all_codes(kind: type[Lin] | type[Quad], function: str, bits: int) -> None:
    for range_ in (4, 8):
        compare(over(range_), build(kind, function, over(range_), over(range_, IntType(bits))), 1)


@pytest.mark.parametrize(
    ("kind", "function", "bits", "most"),
    [
        *[(kind, function, 8, (0.51, 0.51, 0.52)) for kind in (Lin, Quad) for function in ("gelu", "silu")],
        (Quad, "tanh", 8, (0.51, 0.52, 0.64)),
        (Quad, "sigmoid", 8, (0.51, 0.51, 0.52)),
        (Quad, "gelu", 16, (1.8, 1.9, 1.7)),
        (Quad, "silu", 16, (1.8, 1.7, 2.2)),
        (Quad, "tanh", 16, (2.0, 2.0, 1.9)),
        (Quad, "sigmoid", 16, (2.1, 2.0, 2.0)),
        (Lin, "gelu", 16, (1.6, 2.2, 4.0)),
        (Lin, "silu", 16, (1.4, 1.7, 2.6)),
        (Lin, "tanh", 16, (3.9, 13, 50)),
        (Lin, "sigmoid", 16, (1.3, 2.3, 6.9)),
    ],
)
def test_largest_errors(kind: type[Lin] | type[Quad], function: str, bits: int, most: tuple[float, ...]) -> None:
    """Over all codes of three ranges."""
    for range_, limit in zip((4, 8, 16), most, strict=True):
        top = range_ if function in ("gelu", "silu") else 1
        b = build(kind, function, over(range_), over(top, IntType(bits)))
        assert b.error is not None
        assert 0.5 < b.error <= limit
        if bits == 8:
            y, exact = results(over(range_), b), real(function, over(range_), b)
            assert (y == np.floor(exact + 0.5)).mean() > (0.98 if range_ == 16 else 0.993)


def test_an_example_by_hand() -> None:
    b = build(Quad, "gelu", over(8), over(8))
    assert b.approximation == Quad(form=2, lowest=0, segment=10, guard=0, offset=0)
    constant, linear, square = (t.tolist() for t, _ in b.tables)
    assert (constant[:3], linear[:3], square[:3]) == ([231, 543, 681], [205, 110, 32], [-25, -22, -17])
    x = np.array([0, 1000, -1000, 4096, -4096, -32768, 32767])
    assert b.approximation.apply(x, arrays(b), I16).tolist() == [-1, 596, -404, 3446, -650, 0, 32767]  # pyright: ignore


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "erf", "identity"])
def test_lin_keeps_order(function: str) -> None:
    for output in (over(8, I8), codes(Fraction(1, 2**14), I16)):
        b = build(Lin, function, over(8), output)
        assert (np.diff(results(over(8), b)) >= 0).all()


def test_results_of_16_bits_that_do_not_fit() -> None:
    """Then they come in codes of their own."""
    wanted = codes(Fraction(1, 2**17), I16)  # -1/4 .. 1/4
    b = build(Quad, "tanh", over(8), wanted)
    assert b.scale == 1 / 32760
    assert b.zero_point == 0
    b = build(Quad, "sigmoid", over(8), codes(Fraction(1, 2**16), UI16))
    assert b.scale == 1 / 65520
    assert (b.zero_point, b.results) == (-32760, (I16,))
    assert results(over(8), b)[32768] == 0  # 1/2
    b = build(Lin, "identity", over(8), wanted)
    assert (b.scale, b.results) == (2.0**-17 * 32, (I16,))
    b = build(Lin, "gelu", over(8), wanted)
    assert float(b.scale) == 2.0**-17 * 32
    assert b.zero_point < 0
    b = build(Lin, "tanh", over(16), over(1))  # 1 has no code of 2^-15
    assert results(over(16), b).max() == 32767
    assert b.scale == 2.0**-15


def test_operands_beyond_the_last_piece() -> None:
    """Where the function is constant the pieces end earlier; every code beyond has that constant."""
    b = build(Quad, "tanh", over(64), over(1))
    assert isinstance(b.approximation, Quad)
    end = 64 << b.approximation.segment
    assert end < 32768
    y = results(over(64), b)
    assert (y[32768 + end :] == y[-1]).all()
    assert (y[: 32768 - end] == y[0]).all()
    assert abs(y[-1] - 32760) <= 1
    assert y[0] == -y[-1]


def test_conditions_of_lin() -> None:
    b = build(Lin, "gelu", over(8, I12), over(8, I8))
    a, (nodes,) = b.approximation, (t.astype(np.int64) for t, _ in b.tables)
    assert isinstance(a, Lin)
    a.check((-2048, 2047), [nodes])
    for beyond in ((-2049, 2047), (-2048, 2048)):
        for refuse in (lambda c: a.check(c, [nodes]), lambda c: a.intermediates(c, [nodes], I8)):
            with pytest.raises(RangeError, match=r"^lin: the nodes reach over codes -2048\.\.2047, the codes are"):
                refuse(beyond)
    for x in (-2049, 2048):
        with pytest.raises(IndexError):
            a.apply(np.array([x]), [nodes], I8)
    a.check((0, 1), [nodes.clip(-32768, 32767)])
    for wide in (nodes - nodes.max() + 32768, nodes - nodes.min() - 32769):
        with pytest.raises(RangeError, match="^lin: nodes reach over .* 16 bits are possible"):
            a.check((0, 1), [wide])
    with pytest.raises(RangeError, match="^lin takes codes of 9 to 16 bits, found i8: use table$"):
        build(Lin, "gelu", over(8, I8), over(8, I8))
    with pytest.raises(RangeError, match="^lin takes codes of 9 to 16 bits, found i32: requantize them$"):
        build(Lin, "gelu", over(8, I32), over(8, I8))
    with pytest.raises(RangeError, match="^lin has results of at most 16 bits, i32 is wanted: requantize$"):
        build(Lin, "gelu", over(8), over(8, I32))
    with pytest.raises(
        RangeError, match=r"^lin of tanh is off by .* units of i8, at most 1 may be: .* use smaller ones$"
    ):
        build(Lin, "tanh", over(2000), over(1, I8))
    with pytest.raises(RangeError, match="^unknown options pieces"):
        Lin.build(FunctionSpec("gelu", over(8), over(8)), pieces=3)
    for field, value in (("lowest", 1), ("segment", 0), ("segment", 9), ("guard", 9), ("offset", 1 << 18)):
        with pytest.raises(ValueError, match=f"^lin: {field} must be in .*, found {value}$"):
            replace(a, **{field: value})


def test_conditions_of_quad() -> None:
    b = build(Quad, "tanh", over(8), over(1))
    a, tables = b.approximation, [t.astype(np.int64) for t, _ in b.tables]
    assert isinstance(a, Quad)
    a.check((-65535, 65535), tables)
    for beyond in ((-65536, 3), (-3, 65536)):
        with pytest.raises(RangeError, match="^quad: codes reach 65536, at most 16 bits are possible$"):
            a.check(beyond, tables)
    with pytest.raises(RangeError, match=r"^quad: the tables have different lengths, \[63, 64\]$"):
        a.check((0, 1), [*tables[:2], tables[2][:63]])
    constant, linear, square = tables
    codes_ = (-32768, 32767)
    with pytest.raises(RangeError, match=r"^quad: piece reaches over .*\.\.32768, beyond 16 bits"):
        a.check(codes_, [constant + 32768 - a.intermediates(codes_, tables, I16)["piece"][1], linear, square])
    a.check(codes_, [constant + 32767 - a.intermediates(codes_, tables, I16)["piece"][1], linear, square])
    with pytest.raises(RangeError, match="^quad: slope reaches over .*, beyond 16 bits"):
        a.check(codes_, [constant, linear + 32768, square])
    direct = build(Quad, "gelu", over(8, I12), over(8, I8))
    assert direct.approximation.parameters["form"] == Form.DIRECT
    for beyond in ((-2049, 2047), (-2048, 2048)):
        with pytest.raises(RangeError, match=r"^quad: the pieces reach over codes -2048\.\.2047, the codes are"):
            direct.approximation.check(beyond, arrays(direct))  # pyright: ignore
    with pytest.raises(RangeError, match="^quad takes codes of 9 to 16 bits, found ui8: use table$"):
        build(Quad, "gelu", codes(Fraction(1), UI8), over(8, I8))
    with pytest.raises(RangeError, match="^quad has no 16-bit form of relu, but of gelu, .*: use lin$"):
        build(Quad, "relu", over(8), over(8))
    with pytest.raises(RangeError, match="^quad of tanh is off by"):
        build(Quad, "tanh", over(2000), over(1, I8))
    for field, value in (("form", 3), ("lowest", 1), ("segment", 17), ("guard", -1), ("offset", -(1 << 18))):
        with pytest.raises(ValueError, match=f"^quad: {field} must be in .*, found {value}$"):
            replace(a, **{field: value})


def test_results_saturate() -> None:
    a = Lin(-128, 1, 0, 0)
    nodes = np.arange(257) * 100 - 12800
    x = np.arange(-128, 128) + 0
    assert a.apply(x, [nodes], I8).tolist() == saturate(nodes[(x + 128) // 2] + (x % 2) * 50, I8).tolist()
