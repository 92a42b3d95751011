"""What --delay-dequant says it did and could not do, by hand; and the names under which traces keep tensors."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import product
from pathlib import Path

import ir_text
import numpy as np
import pytest
from random_graphs import Array, rational_run
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run, trace_names
from qvit.dialects.provenance import sources
from qvit.transforms.delay_dequant import DelayDequantPass, Report, delay_dequant
from qvit.transforms.statistics import float_elements, macs, macs_total

# One linear layer whose bias is exact, one product of activations that is blocked by a softmax.
SMALL = """
func.func @main(%q: tensor<2x3xi8>, %v: tensor<4x5xi8>) -> (tensor<2x5xf32>, tensor<2x4xi8>) {
  %x = qvit.dequantize %q <0.5> {qvit.src = ["dq_x"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %w = qvit.constant dense<1> : tensor<4x3xi8> {qvit.src = ["weight"]}
  %u = qvit.dequantize %w <0.25> {qvit.src = ["dq_w"]} : tensor<4x3xi8> -> tensor<4x3xf32>
  %c = qvit.constant dense<[1, 2, 3, 4]> : tensor<4xi32> {qvit.src = ["bias"]}
  %b = qvit.dequantize %c <0.125> {qvit.src = ["dq_b"]} : tensor<4xi32> -> tensor<4xf32>
  %y = qvit.linear %x, %u, %b {qvit.src = ["fc"]} : (tensor<2x3xf32>, tensor<4x3xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  %s = qvit.softmax %y axis 1 {qvit.src = ["softmax"]} : tensor<2x4xf32>
  %t = qvit.dequantize %v <0.5> {qvit.src = ["dq_v"]} : tensor<4x5xi8> -> tensor<4x5xf32>
  %m = qvit.matmul %s, %t {qvit.src = ["pv"]} : (tensor<2x4xf32>, tensor<4x5xf32>) -> tensor<2x5xf32>
  %o = qvit.quantize %y <0.5> {qvit.src = ["q_y"]} : tensor<2x4xf32> -> tensor<2x4xi8>
  func.return %m, %o : tensor<2x5xf32>, tensor<2x4xi8>
}
"""


def report_of(text: str, **options: bool | int) -> Report:
    return delay_dequant(ir_text.parse(text), **options)  # pyright: ignore


def test_numbers_by_hand() -> None:
    report = report_of(SMALL)
    assert json.loads(report.to_json()) == {
        "macs_total": 2 * 3 * 4 + 2 * 4 * 5,
        "macs_integer": {"before": 0, "after": 24},
        # dq_x, dq_w, dq_b, fc, softmax, dq_v, pv; then dq of fc, softmax, dq_v, pv
        "float_elements": {"before": 6 + 12 + 4 + 8 + 8 + 20 + 10, "after": 8 + 8 + 20 + 10},
        "qdq_ops": {"before": 5, "after": 2},
        "moved": [{"src": "fc", "op": "qvit.linear", "macs": 24}],
        "rules": {
            "linear-of-dequantize": {"count": 1, "exactness": "real-exact"},
            "quantize-of-dequantize": {"count": 1, "exactness": "real-exact"},
        },
        "blocked": [
            {
                "src": "pv",
                "rule": "matmul-of-dequantize",
                "reason": "operand not quantized: lhs is made by qvit.softmax at softmax",
            }
        ],
        "notes": [],
    }


def test_table() -> None:
    lines = [line.split() for line in report_of(SMALL).table().splitlines()]
    assert lines[:5] == [
        ["delay-dequant", "before", "after"],
        ["integer", "MACs", "0.0%", "37.5%", "of", "64"],
        ["float", "elements", "68", "46"],
        ["quantize", "+", "dq", "5", "2"],
        ["products", "moved", "1"],
    ]
    assert ["linear-of-dequantize", "1", "x", "real-exact"] in lines
    assert ["blocked", "1"] in lines
    text = " ".join(" ".join(line) for line in lines)
    assert "1 x matmul-of-dequantize, first pv: operand not quantized: lhs is made by qvit.softmax at softmax" in text


def test_an_empty_module_has_a_report() -> None:
    report = report_of("builtin.module {}")
    assert (report.macs_total, report.moved, report.rules, report.blocked, report.notes) == (0, [], {}, [], [])
    assert "0.0%" in report.table()
    assert json.loads(report.to_json())["qdq_ops"] == {"before": 0, "after": 0}


def test_the_file_is_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    DelayDequantPass(report=str(path)).apply(Context(), ir_text.parse(SMALL))
    expected = report_of(SMALL)
    assert path.read_text() == expected.to_json()
    assert json.loads(path.read_text()) == json.loads(json.dumps(asdict(expected)))
    assert capsys.readouterr() == ("", expected.table())


@pytest.mark.parametrize("accumulator", [0, 8, 16, 33, 128])
def test_accumulators_of_other_widths_are_refused(accumulator: int) -> None:
    with pytest.raises(ValueError, match=f"accumulator must be 32 or 64, found {accumulator}"):
        DelayDequantPass(accumulator=accumulator).apply(Context(), ir_text.parse(SMALL))


# --- products ---

LAYER = """
  %x{i} = qvit.dequantize %q <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
  %u{i} = qvit.dequantize %w <0.25> : tensor<2x2xi8> -> tensor<2x2xf32>
  %y{i} = qvit.linear %x{i}, %u{i} {{qvit.src = ["fc{i}"]}} : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
"""


def test_every_moved_product_is_listed() -> None:
    """Many of them: an operation that is gone must not be taken for a new one in its place in memory."""
    n = 40
    layers = "".join(LAYER.format(i=i) for i in range(n))
    results, types = ", ".join(f"%y{i}" for i in range(n)), ", ".join(["tensor<1x2xf32>"] * n)
    text = f"func.func @main(%q: tensor<1x2xi8>, %w: tensor<2x2xi8>) -> ({types}) {{{layers} func.return {results} : {types} }}"
    report = report_of(text)
    assert [m["src"] for m in report.moved] == [f"fc{i}" for i in range(n)]
    assert report.rules == {"linear-of-dequantize": {"count": n, "exactness": "real-exact"}}


def test_products_that_took_integers_before_did_not_move() -> None:
    text = """func.func @main(%q: tensor<1x2xi8>, %w: tensor<2x2xi8>) -> (tensor<1x2xi32>, tensor<1x2xf32>) {
      %p = qvit.linear %q, %w {qvit.src = ["old"]} : (tensor<1x2xi8>, tensor<2x2xi8>) -> tensor<1x2xi32>
      %x = qvit.dequantize %q <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
      %u = qvit.dequantize %w <0.25> : tensor<2x2xi8> -> tensor<2x2xf32>
      %y = qvit.linear %x, %u {qvit.src = ["new"]} : (tensor<1x2xf32>, tensor<2x2xf32>) -> tensor<1x2xf32>
      func.return %p, %y : tensor<1x2xi32>, tensor<1x2xf32>
    }"""
    report = report_of(text)
    assert [m["src"] for m in report.moved] == ["new"]
    assert (report.macs_integer.before, report.macs_integer.after) == (4, 8)


@pytest.mark.parametrize(
    ("weight", "zero", "code", "fits"),
    [
        # i1 reaches 1; 2^31 - 1 is the largest sum of 32 bits
        ((1 << 31) - 1, 0, 0, True),
        (-(1 << 31), 0, 0, False),
        ((1 << 31) - 1, -1, 0, False),
        (0, (1 << 31) - 1, 0, True),
        (-1, (1 << 31) - 1, 0, False),
        # a bias counts; if there is no room for it, the sum may still be taken without
        (1, 0, (1 << 31) - 2, True),
        (1, 0, (1 << 31) - 1, False),
        (1, 0, -(1 << 31) + 2, True),
        (-2, 0, -(1 << 31) + 3, True),
        (-2, 0, -(1 << 31) + 2, False),
    ],
)
def test_accumulators_to_the_last_bit(weight: int, zero: int, code: int, fits: bool) -> None:
    text = f"""func.func @main(%q: tensor<1x1xi1>) -> tensor<1x1xf32> {{
      %x = qvit.dequantize %q <0.5> : tensor<1x1xi1> -> tensor<1x1xf32>
      %w = qvit.constant dense<{weight}> : tensor<1x1xi32>
      %u = qvit.dequantize %w <0.25, zero_point = {zero}> : tensor<1x1xi32> -> tensor<1x1xf32>
      %c = qvit.constant dense<{code}> : tensor<1xi32>
      %b = qvit.dequantize %c <0.125> : tensor<1xi32> -> tensor<1xf32>
      %y = qvit.linear %x, %u, %b : (tensor<1x1xf32>, tensor<1x1xf32>, tensor<1xf32>) -> tensor<1x1xf32>
      func.return %y : tensor<1x1xf32>
    }}"""
    before, after = ir_text.parse(text), ir_text.parse(text)
    delay_dequant(after)
    assert joined(after, "i32") == fits
    for q in (-1, 0):
        codes = [np.array([[q]], np.int8)]
        assert run(before, codes)["output0"].tolist() == run(after, codes)["output0"].tolist()


def joined(module: ModuleOp, accumulator: str) -> bool:
    """Whether the layer takes integers, and the bias among them."""
    linear = next(op for op in module.walk() if op.name == "qvit.linear")
    return len(linear.operands) == 3 and accumulator in str(linear.results[0].type)


@pytest.mark.parametrize(("code", "fits"), [((1 << 31) - 1, True), (-(1 << 31), False)])
def test_accumulators_of_64_bits_to_the_last_bit(code: int, fits: bool) -> None:
    """2^31 * (2^32 - 1) + 2^31 - 1 is 2^63 - 1."""
    text = f"""func.func @main(%q: tensor<1x2xi32>) -> tensor<1x1xf32> {{
      %x = qvit.dequantize %q <0.5> : tensor<1x2xi32> -> tensor<1x2xf32>
      %w = qvit.constant dense<[[2147483647, -2147483648]]> : tensor<1x2xi32>
      %u = qvit.dequantize %w <0.25> : tensor<1x2xi32> -> tensor<1x2xf32>
      %c = qvit.constant dense<{code}> : tensor<1xi32>
      %b = qvit.dequantize %c <0.125> : tensor<1xi32> -> tensor<1xf32>
      %y = qvit.linear %x, %u, %b : (tensor<1x2xf32>, tensor<1x2xf32>, tensor<1xf32>) -> tensor<1x1xf32>
      func.return %y : tensor<1x1xf32>
    }}"""
    module = ir_text.parse(text)
    delay_dequant(module, accumulator_bits=64)
    assert joined(module, "i64") == fits


# --- biases ---

WITH_BIAS = """func.func @main(%q: tensor<1x2x1x1xi8>, %w: tensor<3x2x1x1xi8>, %v: tensor<3x1xi8>, %r: tensor<2x1xi8>)
    -> (tensor<1x3x1x1xf32>, tensor<2x3xf32>) {{
  %x = qvit.dequantize %q <{s}> : tensor<1x2x1x1xi8> -> tensor<1x2x1x1xf32>
  %u = qvit.dequantize %w <0.3> : tensor<3x2x1x1xi8> -> tensor<3x2x1x1xf32>
  {bias}
  %y = qvit.conv2d %x, %u, %b {{qvit.src = ["conv"]}} : (tensor<1x2x1x1xf32>, tensor<3x2x1x1xf32>, tensor<3xf32>) -> tensor<1x3x1x1xf32>
  %p = qvit.dequantize %r <0.7> : tensor<2x1xi8> -> tensor<2x1xf32>
  %t = qvit.dequantize %v <[0.1, 0.2, 0.3], axis = 0> : tensor<3x1xi8> -> tensor<3x1xf32>
  %z = qvit.linear %p, %t, %b {{qvit.src = ["fc"]}} : (tensor<2x1xf32>, tensor<3x1xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y, %z : tensor<1x3x1x1xf32>, tensor<2x3xf32>
}}"""
FLOATS = "%b = qvit.constant dense<[0.1, -2.3, 5.7]> : tensor<3xf32>"
CODES = """%c = qvit.constant dense<[31, -65, 9]> : tensor<3xi16>
  %b = qvit.dequantize %c <[0.7, 0.1, 0.9], zero_point = [0, 5, 1], axis = 0> : tensor<3xi16> -> tensor<3xf32>"""


@pytest.mark.parametrize(("bias", "reason"), [(FLOATS, "stored in float"), (CODES, "not stored at exactly")])
def test_float_biases_are_noted(bias: str, reason: str) -> None:
    report = report_of(WITH_BIAS.format(bias=bias, s=0.1))
    assert [(n.src, n.rule, reason in n.reason) for n in report.notes] == [("conv", "bias", True), ("fc", "bias", True)]
    assert report.blocked == []


@pytest.mark.parametrize("bias", [FLOATS, CODES])
def test_rounded_biases_are_off_by_the_bound_at_most(bias: str) -> None:
    before = ir_text.parse(WITH_BIAS.format(bias=bias, s=0.1))
    after = before.clone()
    report = delay_dequant(after, allow_bounded=True)
    # half a step of the coarsest channel, which is 0.7 * 0.3
    step = Fraction(float(np.float32(0.7))) * Fraction(float(np.float32(0.3)))
    assert report.rules["round-bias"] == {"count": 2, "exactness": "bounded", "bound": float(step / 2)}
    assert report.notes == []
    shapes = ((1, 2, 1, 1), (3, 2, 1, 1), (3, 1), (2, 1))
    inputs: list[Array] = [np.arange(np.prod(s)).reshape(s).astype(np.int8) - 3 for s in shapes]
    exact, rounded = (rational_run(str(m), inputs) for m in (before, after))
    off = [abs(a - b).max() for a, b in zip(exact, rounded, strict=True)]
    assert max(off) > 0
    assert max(off) <= step / 2


def test_bounded_rules_are_not_counted_where_nothing_is_rewritten() -> None:
    """The bias could be rounded, but the sums could overflow."""
    text = """func.func @main(%q: tensor<1x3xi16>, %w: tensor<1x3xi16>) -> tensor<1x1xf32> {
      %x = qvit.dequantize %q <0.5> : tensor<1x3xi16> -> tensor<1x3xf32>
      %u = qvit.dequantize %w <0.25> : tensor<1x3xi16> -> tensor<1x3xf32>
      %b = qvit.constant dense<0.1> : tensor<1xf32>
      %y = qvit.linear %x, %u, %b : (tensor<1x3xf32>, tensor<1x3xf32>, tensor<1xf32>) -> tensor<1x1xf32>
      func.return %y : tensor<1x1xf32>
    }"""
    report = report_of(text, allow_bounded=True)
    assert report.rules == {}
    assert len(report.blocked) == 1


def test_infinite_biases_stay() -> None:
    text = WITH_BIAS.format(bias='%b = qvit.constant dense<"0x0000807F"> : tensor<3xf32>', s=0.1)
    report = report_of(text, allow_bounded=True)
    assert len(report.moved) == 2
    assert "round-bias" not in report.rules


def test_a_channel_of_scale_zero_has_no_step_to_round_to() -> None:
    text = WITH_BIAS.format(bias=FLOATS, s="0.1").replace("%w <0.3>", "%w <[0.3, 0.0, 0.7], axis = 0>")
    report = report_of(text, allow_bounded=True)
    assert report.rules["round-bias"]["count"] == 1  # that of the other layer
    assert [n.src for n in report.notes] == ["conv"]


@pytest.mark.parametrize("allow_bounded", [False, True])
def test_a_bias_keeps_its_name(allow_bounded: bool) -> None:
    """Where it is laid along the channels, and where it joins the accumulator."""
    named = CODES.replace("axis = 0>", 'axis = 0> {qvit.src = ["bias"]}')
    module = ir_text.parse(WITH_BIAS.format(bias=named, s=0.1))
    delay_dequant(module, allow_bounded=allow_bounded)
    ours = [op for op in module.walk() if op.name.startswith("qvit.")]
    if allow_bounded:
        assert [sources(op) for op in ours if op.name == "qvit.dequantize"] == [("bias", "conv"), ("bias", "fc")]
    else:
        assert [sources(op) for op in ours if op.name == "qvit.reshape"] == [("bias",)]


@pytest.mark.parametrize("wide", ["0.1 : f64", "[0.1, 0.3] : f64"])
@pytest.mark.parametrize("element", ["f32", "f64"])
def test_scales_of_another_precision_than_the_tensors(wide: str, element: str) -> None:
    """Per row and per column, so that one scale multiplies behind the dequantize: all operations stay of one type."""
    for s, t in (("[0.3, 0.7]", wide), (wide, "[0.3, 0.7]")):
        axes = [", axis = 0" if "[" in v else "" for v in (s, t)]
        text = f"""func.func @main(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2x{element}> {{
          %x = qvit.dequantize %q <{s}{axes[0]}> : tensor<2x3xi8> -> tensor<2x3x{element}>
          %u = qvit.dequantize %w <{t}{axes[1]}> : tensor<2x3xi8> -> tensor<2x3x{element}>
          %y = qvit.linear %x, %u : (tensor<2x3x{element}>, tensor<2x3x{element}>) -> tensor<2x2x{element}>
          func.return %y : tensor<2x2x{element}>
        }}"""
        before, after = ir_text.parse(text), ir_text.parse(text)
        delay_dequant(after)
        after.verify()
        inputs: list[Array] = [np.array([[1, -2, 3], [4, 5, -6]], np.int8)] * 2
        assert np.array_equal(*(rational_run(str(m), inputs)[0] for m in (before, after)))


def test_indices_that_leave_the_tensor_are_no_crash() -> None:
    text = """func.func @main(%q: tensor<2xi8>) -> tensor<1xf32> {
      %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2xi8> -> tensor<2xf32>
      %i = qvit.constant dense<7> : tensor<1xi32>
      %y = qvit.gather %x, %i axis 0 : (tensor<2xf32>, tensor<1xi32>) -> tensor<1xf32>
      func.return %y : tensor<1xf32>
    }"""
    report = report_of(text)
    assert [b.rule for b in report.blocked] == ["gather-of-dequantize"]


# --- multiply-accumulates ---


def all_of(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, shape))


def macs_of(op: str) -> int:
    return macs(ir_text.parse_op(op))


@pytest.mark.parametrize(("batch", "m", "k", "n"), [((), 2, 3, 4), ((2,), 1, 5, 2), ((2, 3), 2, 1, 3)])
def test_macs_of_matmul(batch: tuple[int, ...], m: int, k: int, n: int) -> None:
    lhs, rhs, result = ("x".join(map(str, s)) for s in ((*batch, m, k), (k, n), (*batch, m, n)))
    text = f"%y = qvit.matmul %a, %b : (tensor<{lhs}xf32>, tensor<{rhs}xf32>) -> tensor<{result}xf32>"
    assert macs_of(text) == sum(1 for _ in all_of((*batch, m, n, k)))
    text = (
        text.replace(f"{lhs}xf32", f"{lhs}xi8")
        .replace(f"{rhs}xf32", f"{rhs}xi8")
        .replace(f"{result}xf32", f"{result}xi32")
    )
    assert macs_of(text) == sum(1 for _ in all_of((*batch, m, n, k)))


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_macs_of_linear(leading: tuple[int, ...]) -> None:
    x, y = ("x".join(map(str, (*leading, n))) for n in (5, 4))
    text = f"%y = qvit.linear %x, %w, %b : (tensor<{x}xf32>, tensor<4x5xf32>, tensor<4xf32>) -> tensor<{y}xf32>"
    assert macs_of(text) == sum(1 for _ in all_of((*leading, 4, 5)))


def test_macs_of_conv2d() -> None:
    """Every output times its group's channels and the kernel; zeros of the padding are multiplied, too."""
    text = (
        "%y = qvit.conv2d %x, %w {groups = 2 : i64, padding = array<i64: 1, 0, 1, 0>, strides = array<i64: 2, 1>}"
        " : (tensor<2x4x5x6xf32>, tensor<6x2x3x2xf32>) -> tensor<2x6x3x5xf32>"
    )
    assert macs_of(text) == sum(1 for _ in all_of((2, 6, 3, 5, 2, 3, 2)))


def test_macs_of_conv_transpose2d() -> None:
    """Every input times its group's outputs and the kernel."""
    text = (
        "%y = qvit.conv_transpose2d %x, %w {groups = 2 : i64, strides = array<i64: 2, 2>}"
        " : (tensor<2x4x5x6xf32>, tensor<4x3x3x2xf32>) -> tensor<2x6x11x12xf32>"
    )
    assert macs_of(text) == sum(1 for _ in all_of((2, 4, 5, 6, 3, 3, 2)))


def test_macs_of_others_are_zero() -> None:
    assert macs_of("%y = qvit.mul %a, %b : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>") == 0
    assert macs_total(ir_text.parse(SMALL)) == 24 + 40


def test_constants_are_not_made() -> None:
    text = """func.func @main(%q: tensor<2x3xi8>) -> tensor<2x3xf32> {
      %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
      %c = qvit.constant dense<1.0> : tensor<3xf32>
      %w = qvit.weight "w" : tensor<3xf32>
      %y = qvit.add %x, %c : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
      %z = qvit.add %y, %w : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
      func.return %z : tensor<2x3xf32>
    }"""
    assert float_elements(ir_text.parse(text)) == 6 + 6 + 6


# --- the names of traces ---


def names_of(module: ModuleOp) -> list[str]:
    return [name for names in trace_names(module).values() for name in names]


def test_a_quantize_that_changes_nothing_keeps_its_name() -> None:
    text = """func.func @main(%f: tensor<2x3xf32>) -> (tensor<3x2xi8>, tensor<2x3xi8>) {
      %p = qvit.quantize %f <0.5> {qvit.src = ["q1"]} : tensor<2x3xf32> -> tensor<2x3xi8>
      %x = qvit.dequantize %p <0.5> {qvit.src = ["dq1"]} : tensor<2x3xi8> -> tensor<2x3xf32>
      %r = qvit.quantize %x <0.5> {qvit.src = ["q2"]} : tensor<2x3xf32> -> tensor<2x3xi8>
      %y = qvit.dequantize %r <0.5> {qvit.src = ["dq2"]} : tensor<2x3xi8> -> tensor<2x3xf32>
      %t = qvit.transpose %y [1, 0] {qvit.src = ["transpose"]} : tensor<2x3xf32> -> tensor<3x2xf32>
      %s = qvit.quantize %t <0.5> {qvit.src = ["q3"]} : tensor<3x2xf32> -> tensor<3x2xi8>
      func.return %s, %r : tensor<3x2xi8>, tensor<2x3xi8>
    }"""
    module = ir_text.parse(text)
    assert names_of(module) == ["q1", "q2", "q3"]
    delay_dequant(module)
    assert [op.name for op in module.walk() if op.name.startswith("qvit.")] == ["qvit.quantize", "qvit.transpose"]
    by_op = {op.name: names for op, names in trace_names(module).items()}
    assert {"q1", "q2"} <= set(by_op["qvit.quantize"])
    assert "q3" in by_op["qvit.transpose"]
    assert len(names_of(module)) == len(set(names_of(module)))


def test_a_name_of_two_belongs_to_neither() -> None:
    text = """func.func @main(%q: tensor<2xi8>) -> (tensor<2xi8>, tensor<2xi8>) {
      %x = qvit.dequantize %q <0.5> {qvit.src = ["dq"]} : tensor<2xi8> -> tensor<2xf32>
      %a = qvit.quantize %x <0.3> {qvit.src = ["q1"]} : tensor<2xf32> -> tensor<2xi8>
      %b = qvit.quantize %x <0.7> {qvit.src = ["q2"]} : tensor<2xf32> -> tensor<2xi8>
      func.return %a, %b : tensor<2xi8>, tensor<2xi8>
    }"""
    module = ir_text.parse(text)
    delay_dequant(module)
    assert names_of(module) == ["q1", "q2"]


def test_no_name_is_claimed_twice() -> None:
    """One dequantized bias for two convolutions, of which each lays the codes along its own channels."""
    conv = 'qvit.conv2d %x, %u, %b {{qvit.src = ["{}"]}} : (tensor<1x2x1x1xf32>, tensor<3x2x1x1xf32>, tensor<3xf32>)'
    text = f"""func.func @main(%q: tensor<1x2x1x1xi8>, %w: tensor<3x2x1x1xi8>) -> (tensor<1x3x1x1xf32>, tensor<1x3x1x1xf32>) {{
      %x = qvit.dequantize %q <0.1> {{qvit.src = ["dq_x"]}} : tensor<1x2x1x1xi8> -> tensor<1x2x1x1xf32>
      %u = qvit.dequantize %w <0.3> {{qvit.src = ["dq_w"]}} : tensor<3x2x1x1xi8> -> tensor<3x2x1x1xf32>
      %c = qvit.constant dense<[31, -65, 9]> : tensor<3xi16>
      %b = qvit.dequantize %c <0.7> {{qvit.src = ["bias"]}} : tensor<3xi16> -> tensor<3xf32>
      %y = {conv.format("conv1")} -> tensor<1x3x1x1xf32>
      %z = {conv.format("conv2")} -> tensor<1x3x1x1xf32>
      func.return %y, %z : tensor<1x3x1x1xf32>, tensor<1x3x1x1xf32>
    }}"""
    module = ir_text.parse(text)
    delay_dequant(module)
    assert sorted(set(names_of(module))) == sorted(names_of(module))
    assert {"conv1", "conv2"} <= set(names_of(module))
