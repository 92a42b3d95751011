"""--lower-requant: the values before and after, how exact it says it is, and what it says of what it leaves."""

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import ir_text
import numpy as np
import oracle
import pytest
from linalg_cases import attention_block
from numpy.typing import NDArray
from safetensors.numpy import save_file
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.interpreter import evaluate, run
from qvit.dialects.attributes import RealAttr
from qvit.dialects.ops.quantization import AddRequantOp
from qvit.dialects.provenance import set_sources, sources
from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.types import integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.lower_requant import LowerRequantPass, Options, Report, lower_requant
from qvit.transforms.requant.choice import fixed
from qvit.transforms.requant.equality import Step, equal_codes
from qvit.transforms.rule import Exactness
from qvit.transforms.verify_integer_only import floats_left

Array = NDArray[Any]
BOUNDED = Options(allow_bounded=True)


def module_of(line: str) -> ModuleOp:
    return ir_text.parse(ir_text.function(line))


def only(module: ModuleOp) -> Operation:
    (op,) = (op for op in module.walk() if op.name.startswith("qvit."))
    return op


def lowered(line: str, options: Options = BOUNDED) -> tuple[str, Report]:
    """The text after the pass, without result and types, and the report."""
    module = module_of(line)
    report = lower_requant(module, options)
    module.verify()
    return str(only(module)).partition(" = ")[2].rpartition(" : ")[0], report


def operands_of(op: Operation, rng: np.random.Generator) -> list[Array]:
    """All codes along the first axis, where they are few; else the edges, small and large numbers, and any."""
    arrays: list[Array] = []
    for i, operand in enumerate(op.operands):
        t, (rows, *rest) = integer_of(operand), shape_of(operand)
        assert t is not None
        if op.name == "qvit.requantize" and i == 1:
            arrays.append(rng.integers(1, 1 << 20, (rows, *rest)).astype(t.dtype))
            continue
        if t.bits <= 8:
            column = np.arange(t.lo, t.hi + 1)
        else:
            edges = np.array([t.lo, t.lo + 1, -1 if t.signed else 1, 0, 1, t.hi - 1, t.hi])
            scales = np.exp2(rng.uniform(0, t.bits - 1, 4000)) * (rng.choice([-1, 1], 4000) if t.signed else 1)
            column = np.concatenate([edges, scales.astype(np.int64)])
        array = np.resize(column, rows).reshape(rows, *[1] * len(rest))
        if i:  # the other operand of a sum: other pairs
            array = rng.permutation(array)
        arrays.append(np.broadcast_to(array, (rows, *rest)).astype(t.dtype))
    return arrays


def both(line: str, options: Options = BOUNDED) -> tuple[Array, Array, Report]:
    """What the operation computes before and after."""
    module = module_of(line)
    operands = operands_of(only(module), np.random.default_rng(0))
    before = evaluate(module, only(module), operands)
    report = lower_requant(module, options)
    return before, evaluate(module, only(module), operands), report


# --- the same codes ---

FACTORS = [
    "0.0234 * 0.00317 / 0.0517",
    "0.3 / 0.7",
    "-0.3 / 0.7",
    "3.0 / 4.0",
    "0.5 * 0.25",
    "1.9",
    "0.0",
    "200.0 / 3.0",
]
REST = ["", "input_zero_point <3> zero_point <-5>", "zero_point <127>"]


@pytest.mark.parametrize("mode", Rounding)
@pytest.mark.parametrize("source", ["i8", "ui8", "i16", "i32"])
def test_requantize_to_8_bits_is_exact(source: str, mode: Rounding) -> None:
    for factor in FACTORS:
        for rest in REST:
            rounding = f"{rest} rounding {mode}"
            line = f"%y = qvit.requantize %x by #qvit.real<{factor}> {rounding} : tensor<5000x1x{source}> -> tensor<5000x1xi8>"
            before, after, report = both(line, Options())
            assert [op.exactness for op in report.lowered] == [Exactness.BIT_EXACT]
            assert np.array_equal(before, after), line


def test_requantize_per_channel_is_exact() -> None:
    random = Random(3)
    numbers = ", ".join(repr(float(np.float32(random.uniform(-0.01, 0.01)))) for _ in range(60))
    zeros = ", ".join(str(random.randrange(-20, 20)) for _ in range(60))
    line = (
        f"%y = qvit.requantize %x by #qvit.real<[{numbers}] / 0.7> input_zero_point <[{zeros}]> zero_point <[{zeros}]>"
        " axis 1 : tensor<4000x60xi32> -> tensor<4000x60xi8>"
    )
    before, after, report = both(line, Options())
    (op,) = report.lowered
    assert (op.exactness, op.channels, op.bounded, op.bound) == (Exactness.BIT_EXACT, 60, 0, 0)
    assert np.array_equal(before, after)


def test_one_factor_for_channels_of_different_zero_points() -> None:
    line = (
        "%y = qvit.requantize %x by #qvit.real<0.3 / 0.7> input_zero_point <[3, -100]> zero_point <[5, 127]> axis 1"
        " : tensor<256x2xi8> -> tensor<256x2xi8>"
    )
    before, after, report = both(line, Options())
    assert np.array_equal(before, after)
    assert [(op.channels, op.exactness) for op in report.lowered] == [(1, Exactness.BIT_EXACT)]


ADDS = [
    ("#qvit.real<0.3 / 0.7>", "#qvit.real<0.02 / 0.7>"),
    ("#qvit.real<0.75>", "#qvit.dyadic<-5, 3>"),
    ("#qvit.pot<2>", "#qvit.real<-0.3 / 0.7>"),
    ("#qvit.real<0.5 * 4.0>", "#qvit.real<0.25>"),
    ("#qvit.dyadic<3, 2>", "#qvit.dyadic<5, 4>"),
]


@pytest.mark.parametrize("mode", Rounding)
@pytest.mark.parametrize("each", ["", " round_each"])
@pytest.mark.parametrize("forms", ADDS)
def test_add_requant(forms: tuple[str, str], each: str, mode: Rounding) -> None:
    """Pairs of four-bit codes, and samples of 16 bits: the same codes, or where it says bounded, within the bound."""
    for element, rows in (("i4", 256), ("i16", 20000)):
        line = (
            f"%y = qvit.add_requant %a by {forms[0]}, %b by {forms[1]} lhs_zero_point <3> zero_point <-2> rounding {mode}{each}"
            f" : (tensor<{rows}x1x{element}>, tensor<{rows}x1x{element}>) -> tensor<{rows}x1x{element}>"
        )
        module = module_of(line)
        add = only(module)
        assert isinstance(add, AddRequantOp)
        factors = [Weights(module).exact_factors(form)[0] for form in (add.lhs_form, add.rhs_form)]
        a, b = operands_of(add, np.random.default_rng(0))
        before = evaluate(module, add, [a, b])
        report = lower_requant(module, BOUNDED)
        after = evaluate(module, add, [a, b])
        bound = report.lowered[0].bound if report.lowered else 0.0
        assert bound < 2**-14
        differing = np.flatnonzero(before != after)
        assert not len(differing) or report.lowered[0].exactness is Exactness.BOUNDED
        for i in differing.tolist():  # within the bound of where the code changes
            terms = [(int(a.flat[i]) - 3) * factors[0], int(b.flat[i]) * factors[1]]
            numbers = [*terms, terms[0] + terms[1]]
            changes = (
                oracle.rounded(n - Fraction(bound), mode) < oracle.rounded(n + Fraction(bound), mode) for n in numbers
            )
            assert any(changes)
            assert abs(int(before.flat[i]) - int(after.flat[i])) == 1
        assert len(differing) < len(before) / 100


def test_sums_take_one_shift() -> None:
    text, report = lowered(
        "%y = qvit.add_requant %a by #qvit.real<0.3 / 0.7>, %b by #qvit.real<[0.02, 0.5] / 0.7> axis 0"
        " : (tensor<2xi16>, tensor<2xi16>) -> tensor<2xi16>"
    )
    assert report.left == []
    factors = [Fraction(float(np.float32(v))) for v in (0.3, 0.02, 0.5, 0.7)]
    a, b, c, d = factors
    # the larger factor of each channel has 31 bits
    shifts = [32, 31]
    left = [oracle.rounded(a / d * 2**s, "half_up") for s in shifts]
    right = [oracle.rounded(f / d * 2**s, "half_up") for f, s in zip((b, c), shifts, strict=True)]
    assert text == (
        f"qvit.add_requant %a by #qvit.dyadic<{left}, {shifts}>, %b by #qvit.dyadic<{right}, {shifts}> axis 0"
    )


def test_sums_of_wide_operands_leave_room() -> None:
    """|x1 m1| + |x2 m2| < 2^62, with |x| up to 2^31."""
    text, _ = lowered(
        "%y = qvit.add_requant %a by #qvit.real<0.3>, %b by #qvit.real<0.4>"
        " : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi16>"
    )
    m, n = (oracle.rounded(Fraction(float(np.float32(v))) * 2**31, "half_up") for v in (0.3, 0.4))
    assert m + n < 2**31 < 2 * (m + n)
    assert text == f"qvit.add_requant %a by #qvit.dyadic<{m}, 31>, %b by #qvit.dyadic<{n}, 31>"


# --- bounded ---


def test_what_is_not_proven_needs_permission() -> None:
    line = "%y = qvit.requantize %x by #qvit.real<0.3 / 0.7> : tensor<8xi32> -> tensor<8xi32>"
    text, report = lowered(line, Options())
    assert text == "qvit.requantize %x by #qvit.real<0.3 / 0.7>"
    factor = Fraction(float(np.float32(0.3))) / Fraction(float(np.float32(0.7)))
    bound = 2**31 * abs(factor - Fraction(oracle.rounded(factor * 2**32, "half_up"), 2**32))
    assert [r.reason for r in report.left] == [
        "its multipliers are not proven to give the same codes in 1 of 1 channels: off by at most"
        f" {float(bound):.3g} before rounding (--allow-bounded takes them)"
    ]
    assert (report.lowered, report.rounded) == ([], 0)
    _, report = lowered(line)
    assert [op.exactness for op in report.lowered] == [Exactness.BOUNDED]


@pytest.mark.parametrize("factor", ["0.3 / 0.7", "0.001 / 0.7", "-1.0e-8 / 7.0", "1.0e-17 / 7.0"])
@pytest.mark.parametrize(("source", "result"), [("i32", "i32"), ("i32", "i16"), ("i16", "i32")])
def test_the_bound_holds(factor: str, source: str, result: str) -> None:
    module = module_of(f"%y = qvit.requantize %x by #qvit.real<{factor}> : tensor<8x{source}> -> tensor<8x{result}>")
    op = only(module)
    (exact,) = Weights(module).exact_factors(op.properties["form"])  # pyright: ignore
    report = lower_requant(module, BOUNDED)
    (number,) = Weights(module).exact_factors(op.properties["form"])  # pyright: ignore
    before, after = integer_of(op.operands[0]), integer_of(op.results[0])
    assert before is not None
    assert after is not None
    # the largest difference of numbers that both lie within the codes
    reach = min(Fraction(-before.lo), (after.hi + 1) / max(abs(exact), abs(number)))
    (found,) = report.lowered
    if found.exactness is Exactness.BOUNDED:
        assert abs(exact - number) * reach <= Fraction(found.bound) * (1 + Fraction(1, 2**30))
        assert found.bound < 0.5
    else:
        assert oracle.rounded(exact * before.lo, "half_even") == oracle.rounded(number * before.lo, "half_even")


def test_the_bound_of_divisors() -> None:
    """The reciprocal of 31 bits: below 2^-29 relative, of at most 129 codes and the numbers beyond that saturate."""
    line = "%y = qvit.requantize %x by {} divided_by %z : (tensor<3x2xi32>, tensor<3x1xi32>) -> tensor<3x2xi8>"
    text, report = lowered(line.format("#qvit.real<0.3 / 0.7>"))
    number = oracle.rounded(Fraction(float(np.float32(0.3))) / Fraction(float(np.float32(0.7))) * 2**32, "half_up")
    assert text == f"qvit.requantize %x by #qvit.dyadic<{number}, 32> divided_by %z"
    (op,) = report.lowered
    assert op.exactness is Exactness.BOUNDED
    assert 129 * 2.0**-31 < op.bound < 129 * 2.0**-29
    assert [r.reason for r in report.notes] == [
        "divisors decide what lies half-way between two codes: it stays half_even"
    ]
    (remark,) = lowered(line.format("#qvit.real<0.3 / 0.7>"), Options())[1].left
    assert "off by at most" in remark.reason


def test_divisors_of_powers_of_two() -> None:
    line = "%y = qvit.requantize %x by {} divided_by %z : (tensor<900x2xi32>, tensor<900x1xi32>) -> tensor<900x2xi32>"
    # what the form is defined as, and what has other reciprocals
    before, after, report = both(line.format("#qvit.dyadic<1073741824, 33>"), Options())
    assert [op.form for op in report.lowered] == ["pot"]
    assert np.array_equal(before, after)
    for form in ("#qvit.dyadic<1, 3>", "#qvit.dyadic<5, 3>", "#qvit.pot<3>"):
        text, report = lowered(line.format(form), Options())
        assert text.startswith(f"qvit.requantize %x by {form} ")
        assert (report.lowered, report.left) == ([], [])
    text, report = lowered(line.format("#qvit.real<0.125>"))
    assert text.startswith("qvit.requantize %x by #qvit.pot<3> ")
    # 2^31 / 8, times 2 / 2^30
    assert [(op.exactness, op.bound) for op in report.lowered] == [(Exactness.BOUNDED, 0.5)]
    (remark,) = lowered(line.format("#qvit.dyadic<1, 3>"), Options(form="pot"))[1].left
    assert remark.reason == "its multipliers are not 2^30, of which the form pot takes reciprocals"


# --- forms ---


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("#qvit.real<0.5 * 0.25>", "#qvit.pot<3>"),
        ("#qvit.real<8.0>", "#qvit.pot<-3>"),
        ("#qvit.real<3.0 / 3.0>", "#qvit.pot<0>"),
        ("#qvit.dyadic<4, 2>", "#qvit.pot<0>"),
        ("#qvit.dyadic<1073741824, 62>", "#qvit.pot<32>"),
        ("#qvit.dyadic<12, 5>", "#qvit.dyadic<12, 5>"),
        ("#qvit.dyadic<-4, 2>", "#qvit.dyadic<-4, 2>"),
        ("#qvit.real<0.0>", "#qvit.dyadic<0, 0>"),
        ("#qvit.real<-0.5>", "#qvit.dyadic<-1073741824, 31>"),
        ("#qvit.real<0.75>", "#qvit.dyadic<1610612736, 31>"),
    ],
)
def test_forms(form: str, expected: str) -> None:
    text, report = lowered(f"%y = qvit.requantize %x by {form} : tensor<256xi8> -> tensor<256xi8>", Options())
    assert text.split(" rounding ")[0] == f"qvit.requantize %x by {expected}"
    assert report.left == []
    assert len(report.lowered) == (form != expected)


def test_vectors_of_equal_numbers_become_numbers() -> None:
    line = "%y = qvit.requantize %x by {} axis 1 : tensor<8x2xi8> -> tensor<8x2xi8>"
    assert lowered(line.format("#qvit.real<[0.5, 2.0]>"))[0] == "qvit.requantize %x by #qvit.pot<[1, -1]> axis 1"
    assert lowered(line.format("#qvit.real<[0.5, 0.5]>"))[0] == "qvit.requantize %x by #qvit.pot<1>"
    text = lowered(line.format("#qvit.real<[0.5, 0.75]>"))[0]
    assert text == "qvit.requantize %x by #qvit.dyadic<[1073741824, 1610612736], 31> axis 1"
    zero_points = line.format("#qvit.real<[0.5, 0.5]> zero_point <[1, 2]>")
    assert lowered(zero_points)[0] == "qvit.requantize %x by #qvit.pot<1> zero_point <[1, 2]> axis 1"
    add = "%y = qvit.add_requant %a by #qvit.real<[0.5, 0.5]>, %b by #qvit.pot<1> axis 0 : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>"
    assert lowered(add)[0] == "qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1>"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("#qvit.real<0.3>", "its factor 0.3 is no power of two: it is 0.263 octaves above 2^-2"),
        (
            "#qvit.real<[0.5, 0.7, 3.0]>",
            "its factor 0.7 of channel 1 is no power of two: it is 0.485 octaves above 2^-1 (2 of 3 channels)",
        ),
        ("#qvit.dyadic<-4, 2>", "its factor -1 is no power of two: it is not positive"),
        ("#qvit.real<0.0>", "its factor 0 is no power of two: it is not positive"),
        ("#qvit.dyadic<3, 1>", "its factor 1.5 is no power of two: it is 0.415 octaves below 2^1"),
    ],
)
def test_why_no_power_of_two(form: str, reason: str) -> None:
    axis = "axis 0 " if "[" in form else ""
    line = f"%y = qvit.requantize %x by {form} {axis}: tensor<3xi8> -> tensor<3xi8>"
    text, report = lowered(line, Options(form="pot", allow_bounded=True))
    assert text == f"qvit.requantize %x by {form} {axis}".rstrip()
    assert [r.reason for r in report.left] == [reason]


@pytest.mark.parametrize("each", ["", " round_each"])
def test_why_a_sum_has_no_powers_of_two(each: str) -> None:
    types = ": (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi8>"
    pot = Options(form="pot")
    line = f"%y = qvit.add_requant %a by #qvit.real<0.5>, %b by #qvit.real<0.3>{each} {types}"
    assert [r.reason[:30] for r in lowered(line, pot)[1].left] == ["its factor 0.3 is no power of "]
    text, report = lowered(f"%y = qvit.add_requant %a by #qvit.real<0.5>, %b by #qvit.dyadic<2, 3>{each} {types}", pot)
    assert text.startswith("qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<2>")
    assert report.left == []


def test_factors_beyond_31_bits() -> None:
    """Either every code but that of 0 saturates, and the largest multiplier does too, or it is refused."""
    line = "%y = qvit.requantize %x by #qvit.real<{}> input_zero_point <2> : tensor<256xi8> -> tensor<256x{}>"
    for sign in ("", "-"):
        before, after, report = both(line.format(f"{sign}3.0e+12", "i8"), Options())
        assert np.array_equal(before, after)
        assert [op.exactness for op in report.lowered] == [Exactness.BIT_EXACT]
        assert f"#qvit.dyadic<{sign}2147483647, 0>" in lowered(line.format(f"{sign}3.0e+12", "i8"))[0]
    (remark,) = lowered(line.format("3.0e+12", "i64"))[1].left
    assert remark.reason == "its factor 3e+12 is beyond 2^31, and not all codes but those of 0 saturate"
    divided = (
        "%y = qvit.requantize %x by #qvit.real<3.0e+12> divided_by %z : (tensor<2xi8>, tensor<1xi32>) -> tensor<2xi8>"
    )
    (remark,) = lowered(divided)[1].left
    assert remark.reason == "its factor 3e+12 is beyond 2^31"
    types = ": (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>"
    (remark,) = lowered(f"%y = qvit.add_requant %a by #qvit.real<3.0e+12>, %b by #qvit.pot<1> {types}")[1].left
    assert remark.reason.startswith("there is no shift for the factors 3e+12 and 0.5")
    each = f"%y = qvit.add_requant %a by #qvit.real<3.0e+12>, %b by #qvit.pot<1> round_each {types}"
    assert lowered(each)[1].left[0].reason.startswith("its factor 3e+12 is beyond 2^31")


def test_factors_that_need_a_shift_beyond_62() -> None:
    for factor in ("1.0e-17", "-1.0e-17", "1.0e-25"):
        for mode in Rounding:
            line = f"%y = qvit.requantize %x by #qvit.real<{factor}> rounding {mode} : tensor<5000x1xi32> -> tensor<5000x1xi8>"
            before, after, report = both(line, BOUNDED)
            (op,) = report.lowered
            if op.exactness is Exactness.BIT_EXACT:
                assert np.array_equal(before, after)
            else:  # a multiplier of 0, and floor makes -1 of what is below 0
                assert (factor, mode) == ("1.0e-25", Rounding.FLOOR)
                assert 0 < op.bound < 1e-15
            assert all(abs(int(n)) < 2**31 for n in np.ravel(after))


# --- the shift 32 ---


def test_the_shift_32_where_it_gives_the_same_codes() -> None:
    options = Options(fixed32=True)
    line = "%y = qvit.requantize %x by {} axis 1 : tensor<4000x2xi32> -> tensor<4000x2xi8>"
    before, after, report = both(line.format("#qvit.real<[0.03, -0.07] / 0.9>"), options)
    assert np.array_equal(before, after)
    assert report.notes == []
    factors = [Fraction(float(np.float32(v))) / Fraction(float(np.float32(0.9))) for v in (0.03, -0.07)]
    numbers = [oracle.rounded(f * 2**32, "half_away") for f in factors]
    text = lowered(line.format("#qvit.real<[0.03, -0.07] / 0.9>"), options)[0]
    assert text == f"qvit.requantize %x by #qvit.dyadic<{numbers}, 32> axis 1 rounding half_up"
    # one channel is too small, or too large, for it
    for other in ("1.0e-7", "0.8"):
        text, report = lowered(
            line.format(f"#qvit.real<[0.03, {other}] / 0.9>"), Options(fixed32=True, allow_bounded=True)
        )
        assert "32>" not in text
        assert [r.rule for r in report.notes] == ["fixed32"]
        assert len(report.lowered) == 1
    # forms that are integers already
    before, after, report = both(line.format("#qvit.dyadic<[1518500251, 1518500250], 39>"), options)
    assert np.array_equal(before, after)
    assert len(report.lowered) + len(report.notes) == 1


def test_the_neighbour_where_the_nearest_gives_other_codes() -> None:
    """Both multipliers beside a factor are tried: some factors need the one that is further away."""
    random, step, further = Random(11), Step(-(2**31), 2**31 - 1, -128, 127), 0
    for _ in range(400):
        factor = Fraction(random.uniform(2**-11, 2**-10))
        choice = fixed([factor], [step], Rounding.HALF_UP)
        nearest = oracle.rounded(factor * 2**32, "half_away")
        if choice is not None and choice.numbers[0].multiplier != nearest:
            further += 1
            assert equal_codes([factor], [Fraction(nearest, 2**32)], [step], Rounding.HALF_UP) == [False]
            assert equal_codes([factor], [choice.numbers[0].factor], [step], Rounding.HALF_UP) == [True]
    assert further > 0


# --- rounding ---


@pytest.mark.parametrize("target", [Rounding.HALF_UP, Rounding.HALF_EVEN, Rounding.HALF_AWAY])
@pytest.mark.parametrize("mode", Rounding)
def test_rounding_changes_no_code(mode: Rounding, target: Rounding) -> None:
    """Free where no operand ties: odd multipliers; kept where one does."""
    options = Options(rounding=target, allow_bounded=True)
    for factor, ties in [("0.3 / 0.7", False), ("0.75", True), ("0.5", True), ("2.0", False), ("-0.75", True)]:
        line = f"%y = qvit.requantize %x by #qvit.real<{factor}> rounding {mode} : tensor<256x1xi8> -> tensor<256x1xi8>"
        before, after, report = both(line, options)
        assert np.array_equal(before, after)
        asked = mode not in (Rounding.FLOOR, target)
        assert report.rounded == (asked and not ties)
        assert [r.reason for r in report.notes] == [
            f"some operands lie half-way between two codes: it stays {mode}"
        ] * (asked and ties)
        kept = mode if not asked or ties else target
        suffix = "" if kept is Rounding.HALF_EVEN else f" rounding {kept}"
        assert lowered(line, options)[0].endswith(f">{suffix}")


def test_ties_that_saturate_do_not_count() -> None:
    """x = 2^20 ties with m = 2^k, shift k + 21, but long before that the code is the highest."""
    line = "%y = qvit.requantize %x by #qvit.dyadic<1536, 20> : tensor<5000x1xi32> -> tensor<5000x1x{}>"
    assert lowered(line.format("i8"))[0].endswith("dyadic<1536, 20>")  # 1024 * 1536 / 2^20 = 1.5
    line = line.replace("1536", "1518500352").replace(", 20", ", 39")  # 2^8 divides it: ties at multiples of 2^30
    before, after, report = both(line.format("i8"))
    assert report.rounded == 1
    assert np.array_equal(before, after)
    assert both(line.format("i32"))[2].rounded == 0


def test_rounding_of_sums() -> None:
    types = ": (tensor<9xi8>, tensor<9xi8>) -> tensor<9xi8>"
    line = "%y = qvit.add_requant %a by #qvit.real<0.3 / 0.7>, %b by #qvit.real<{} / 0.7>{} " + types
    assert lowered(line.format("0.2", ""))[1].rounded == 0
    assert lowered(line.format("0.2", " round_each"))[1].rounded == 1
    assert lowered(line.format("0.35", " round_each"))[1].rounded == 0  # 1/2: ties
    each = "%y = qvit.add_requant %a by #qvit.pot<0>, %b by #qvit.pot<-1> round_each " + types
    assert lowered(each)[1].rounded == 1


# --- ranges ---


def test_ranges_that_are_narrower_than_types() -> None:
    line = "%y = qvit.requantize %x by #qvit.real<0.3 / 0.7> : tensor<2xi32> -> tensor<2xi32>"
    module = module_of(line)
    assert lower_requant(module, Options()).left
    op = only(module)
    report = lower_requant(module, Options(bounds={op.operands[0]: (-1000, 1000)}.get))
    assert [r.exactness for r in report.lowered] == [Exactness.BIT_EXACT]
    # a tie at 2^20 only
    tie = "%y = qvit.requantize %x by #qvit.dyadic<3, 21> : tensor<2xi32> -> tensor<2xi32>"
    assert lowered(tie)[1].rounded == 0
    module = module_of(tie)
    bounds = {only(module).operands[0]: (-(2**20) + 1, 2**20 - 1)}
    assert lower_requant(module, Options(bounds=bounds.get)).rounded == 1
    module = module_of(tie)
    bounds = {only(module).operands[0]: (-(2**20) + 1, 2**20)}
    assert lower_requant(module, Options(bounds=bounds.get)).rounded == 0


@pytest.mark.parametrize(("source", "zero_point"), [("ui8", 255), ("ui8", 0), ("i8", -128), ("i8", 127)])
@pytest.mark.parametrize("shift", [8, 9])
def test_ranges_less_zero_points(source: str, zero_point: int, shift: int) -> None:
    """255 steps from the zero point: a tie at 2^7, none at 2^8."""
    line = (
        f"%y = qvit.requantize %x by #qvit.pot<{shift}> input_zero_point <{zero_point}>"
        f" : tensor<2x{source}> -> tensor<2xi8>"
    )
    assert lowered(line)[1].rounded == (shift == 9)


# --- shifts of sums that are integers already ---


def test_common_shifts() -> None:
    types = ": (tensor<256xi8>, tensor<256xi8>) -> tensor<256xi8>"
    text, report = lowered(f"%y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.pot<1> {types}", Options())
    assert text == "qvit.add_requant %a by #qvit.dyadic<1610612736, 31>, %b by #qvit.dyadic<1073741824, 31>"
    assert [op.exactness for op in report.lowered] == [Exactness.BIT_EXACT]
    same = f"%y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.dyadic<5, 2> {types}"
    assert lowered(same)[0] == "qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.dyadic<5, 2>"
    # 31 bits of one and the lowest bit of the other do not meet
    far = f"%y = qvit.add_requant %a by #qvit.dyadic<2147483647, 31>, %b by #qvit.dyadic<2147483647, 40> {types}"
    text, report = lowered(far)
    assert (text, report.lowered) == (far.partition(" = ")[2].rpartition(" : ")[0], [])
    assert "shift" in [r.rule for r in report.notes]


# --- names, files, reports ---


def test_names_are_kept() -> None:
    module = module_of("%y = qvit.requantize %x by #qvit.real<0.3> : tensor<2xi32> -> tensor<2xi8>")
    set_sources(only(module), ["a", "b"])
    report = lower_requant(module)
    assert sources(only(module)) == ("a", "b")
    assert [op.src for op in report.lowered] == ["b"]


def test_factors_in_weight_files(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    scales = np.random.default_rng(2).uniform(0.001, 0.01, 70).astype(np.float32)
    save_file({"s": scales}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    texts = ['@"s" : tensor<70xf32>', f"[{', '.join(repr(float(v)) for v in scales)}]"]
    found: list[str] = []
    for scale in texts:
        line = f"%y = qvit.requantize %x by #qvit.real<{scale} / 0.3> axis 1 : tensor<9x70xi32> -> tensor<9x70xi8>"
        listed = f'qvit.weights = [#qvit.weight_file<"{path}", "{digest}">]'
        module = ir_text.parse(f"builtin.module attributes {{{listed}}} {{{ir_text.function(line)}}}")
        assert lower_requant(module).left == []
        found.append(str(only(module)))
    assert found[0] == found[1]
    assert "#qvit.dyadic<[" in found[0]


def test_a_whole_block() -> None:
    """Read in float, made integer; the codes before are those after, and no factor is real."""
    before, after = ir_text.parse(attention_block()), ir_text.parse(attention_block())
    for module in (before, after):
        delay_dequant(module)
    report = lower_requant(after)
    after.verify()
    assert (len(report.lowered), report.left) == (4, [])
    assert not any(isinstance(p, RealAttr) for op in after.walk() for p in op.properties.values())
    assert len(floats_left(after)) < len(floats_left(before))
    x = np.random.default_rng(1).normal(size=(7, 16))
    assert run(before, [x])["output0"].tolist() == run(after, [x])["output0"].tolist()


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: Sequence[str] = [
        '%a = qvit.requantize %x by #qvit.real<0.3 / 0.7> {qvit.src = ["a"]} : tensor<4xi32> -> tensor<4xi32>',
        '%b = qvit.requantize %a by #qvit.real<0.5> {qvit.src = ["b"]} : tensor<4xi32> -> tensor<4xi8>',
        '%y = qvit.requantize %b by #qvit.real<0.3> {qvit.src = ["c"]} : tensor<4xi8> -> tensor<4xi8>',
    ]
    module = ir_text.parse(ir_text.function(lines))
    path = tmp_path / "r.json"
    LowerRequantPass(report=str(path), partial=True).apply(Context(), module)
    report = json.loads(path.read_text())
    assert report["counts"] == {"form": {"dyadic": 1, "pot": 1}, "exactness": {"bit-exact": 2}}
    assert [entry["src"] for entry in report["lowered"]] == ["b", "c"]
    assert report["lowered"][1] == {
        "src": "c",
        "op": "qvit.requantize",
        "form": "dyadic",
        "exactness": "bit-exact",
        "channels": 1,
        "bounded": 0,
        "bound": 0.0,
    }
    assert report["rounded"] == 1
    assert [(r["src"], r["rule"]) for r in report["left"]] == [("a", "dyadic")]
    assert [(r["src"], r["rule"]) for r in report["notes"]] == [("b", "rounding")]
    said = capsys.readouterr().err.splitlines()
    assert said[:5] == [
        "lower-requant",
        "  lowered                                     2",
        "    dyadic                               1",
        "    pot                                  1",
        "    bit-exact                            2",
    ]


def test_what_is_left_is_an_error() -> None:
    module = module_of(
        '%y = qvit.requantize %x by #qvit.real<0.3 / 0.7> {qvit.src = ["a"]} : tensor<4xi32> -> tensor<4xi32>'
    )
    with pytest.raises(
        DiagnosticException, match="^lower-requant: 1 operations keep their factors:\n  a: its multipliers"
    ):
        LowerRequantPass().apply(Context(), module)
    LowerRequantPass(allow_bounded=True).apply(Context(), module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "real"}, "lower-requant: form must be dyadic or pot, found real"),
        ({"rounding": "floor"}, "lower-requant: rounding must be half_up, half_even, half_away, found floor"),
        ({"report": "a.html"}, "lower-requant: its report is JSON, found a.html"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    module = module_of("%y = qvit.requantize %x by #qvit.real<0.5> : tensor<2xi8> -> tensor<2xi8>")
    with pytest.raises(ValueError, match=f"^{message}$"):
        LowerRequantPass(**options).apply(Context(), module)
