"""--range-analysis: intervals hold and are reached, and everything that could overflow is refused, nothing else."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import integer_graphs
import ir_text
import numpy as np
import pytest
import random_graphs
from approximation_examples import EXAMPLES, Example
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.interpreter import IMPLEMENTATIONS, ExecutionError, run
from qvit.dialects.approximations.base import FunctionApproximation, LayerNormApproximation, SoftmaxApproximation
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.ops.weights import WeightOp
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.range_analysis import RangeAnalysisPass, RangeReport, analyse, bounds
from qvit.transforms.ranges.interval import Quantity, Range, signed_bits
from qvit.transforms.ranges.table import TRANSFERS

Array = NDArray[Any]

FLOAT_RESULTS = "batch_norm conv_transpose2d dequantize div erf gelu layer_norm pow reduce_mean relu resize sigmoid softmax sqrt tanh"
"""The operations that have no integer result."""


def test_every_operation_with_an_integer_result_has_a_transfer_function() -> None:
    names = {op.name for op in IMPLEMENTATIONS} - {f"qvit.{name}" for name in FLOAT_RESULTS.split()}
    assert {op.name for op in TRANSFERS} == names


def main_of(module: ModuleOp) -> FuncOp:
    (function,) = (op for op in module.ops if isinstance(op, FuncOp))
    return function


def returned(module: ModuleOp) -> Sequence[SSAValue]:
    last = main_of(module).body.block.last_op
    assert last is not None
    return last.operands


def result_range(report: RangeReport, module: ModuleOp) -> Range:
    (value,) = returned(module)
    return report.ranges[value]


def quantity(report: RangeReport, what: str) -> Quantity:
    (found,) = (q for q in report.quantities if q.what == what)
    return found


def assert_inside(found: Range, values: Array) -> None:
    wide = values.astype(object)
    assert ((wide >= found.lo) & (wide <= found.hi)).all(), (found, values)


# --- soundness: no value of any run leaves its interval ---


def assert_sound(module: ModuleOp, inputs: Sequence[Array], report: RangeReport) -> None:
    try:
        results = run(module, inputs)
    except ExecutionError:
        assert report.failures
        return
    for value, array in zip(returned(module), results.values(), strict=True):
        assert_inside(report.ranges[value], array)


def test_random_graphs_have_every_operation() -> None:
    rng = np.random.default_rng(0)
    made = {type(op) for _ in range(150) for op in integer_graphs.integer_graph(rng).walk()}
    assert made.issuperset(TRANSFERS.keys() - {QuantizeOp, WeightOp})


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_integer_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    module = integer_graphs.integer_graph(rng)
    report = analyse(module)
    for inputs in integer_graphs.inputs_for(module, rng, 4):
        assert_sound(module, inputs, report)


@settings(max_examples=40)
@given(random_graphs.graphs(), st.integers(0, 2**32 - 1))
def test_graphs_that_delay_dequant_made(graph: random_graphs.Graph, seed: int) -> None:
    delay_dequant(graph.module, allow_bounded=True)
    report = analyse(graph.module)
    rng = np.random.default_rng(seed)
    arguments = [(shape_of(argument), integer_of(argument)) for argument in main_of(graph.module).args]
    extreme = [
        old if type is None or type.bits == 32 else rng.choice([type.lo, type.hi], shape).astype(type.dtype)
        for old, (shape, type) in zip(graph.inputs, arguments, strict=True)
    ]
    for inputs in (graph.inputs, extreme):

        def holds(op: Any, array: Array) -> None:
            if op.results[0] in report.ranges:
                assert_inside(report.ranges[op.results[0]], array)

        run(graph.module, inputs, observe=holds)
    assert report.failures == []


# --- tightness: the interval is the one of all results, where operands are free ---

EXACT = [
    "%y = qvit.add %a, %b : (tensor<1xi3>, tensor<1xui2>) -> tensor<1xi32>",
    "%y = qvit.sub %a, %b : (tensor<1xi3>, tensor<1xui2>) -> tensor<1xi32>",
    "%y = qvit.mul %a, %b : (tensor<1xi3>, tensor<1xi2>) -> tensor<1xi32>",
    "%y = qvit.clip %x {low = -2 : i64} : tensor<1xi3>",
    "%y = qvit.clip %x {low = -2 : i64, high = 1 : i64} : tensor<1xi3>",
    '%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<1xi2>, tensor<1xi2>) -> tensor<1xui1>',
    "%y = qvit.select %c, %a, %b : (tensor<1xui1>, tensor<1xi3>, tensor<1xi3>) -> tensor<1xi3>",
    "%y = qvit.matmul %a, %b lhs_zero_point <1> rhs_zero_point <1>"
    " : (tensor<1x2xi2>, tensor<2x1xui1>) -> tensor<1x1xi32>",
    "%y = qvit.shift_matmul %a, %b rhs_zero_point <1> : (tensor<1x1xui5>, tensor<1x1xi3>) -> tensor<1x1xi32>",
    "%y = qvit.linear %x, %w input_zero_point <1> weight_zero_point <[1, 0]>"
    " : (tensor<2xi2>, tensor<2x2xui1>) -> tensor<2xi32>",
    "%y = qvit.conv2d %x, %w input_zero_point <1> : (tensor<1x2x1x1xi2>, tensor<1x2x1x1xi2>) -> tensor<1x1x1x1xi32>",
    "%y = qvit.requantize %x by #qvit.dyadic<-5, 2> input_zero_point <2> zero_point <-1> : tensor<1xi4> -> tensor<1xi5>",
    "%y = qvit.requantize %x by #qvit.dyadic<[3, -5], 1> input_zero_point <[1, 2]> axis 0 rounding floor"
    " : tensor<2xi3> -> tensor<2xi4>",
    "%y = qvit.requantize %x by #qvit.pot<[1, -1]> zero_point <[1, 2]> axis 0 rounding half_away"
    " : tensor<2xi3> -> tensor<2xi4>",
    "%y = qvit.requantize %x by #qvit.real<[0.3, -1.7]> zero_point <1> axis 0 : tensor<2xi3> -> tensor<2xi4>",
    "%y = qvit.requantize %x by #qvit.real<0.3> input_zero_point <[1, 2]> axis 0 : tensor<2xi3> -> tensor<2xi4>",
    "%y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.dyadic<-7, 1> lhs_zero_point <1> zero_point <2>"
    " : (tensor<1xi3>, tensor<1xi2>) -> tensor<1xi5>",
    "%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.real<-1.3> round_each"
    " : (tensor<1xi3>, tensor<1xi3>) -> tensor<1xi8>",
    "%y = qvit.reduce_sum %x {axes = array<i64: 0>, keepdims = false} : tensor<3xi2> -> tensor<i32>",
    "%y = qvit.argmax %x {axis = 0 : i64, keepdims = false} : tensor<3xi2> -> tensor<i64>",
    "%y = qvit.concat %a, %b axis 0 : (tensor<1xi2>, tensor<1xi2>) -> tensor<2xi2>",
    "%y = qvit.slice %x axis 0 start 2 size 2 step -2 : tensor<3xi2> -> tensor<2xi2>",
    "%y = qvit.gather %x, %i axis 0 : (tensor<2xi3>, tensor<1xui1>) -> tensor<1xi3>",
    "%y = qvit.broadcast %x : tensor<1xi2> -> tensor<2x1xi2>",
    "%y = qvit.reshape %x : tensor<2xi2> -> tensor<1x2xi2>",
    "%y = qvit.transpose %x [1, 0] : tensor<2x1xi2> -> tensor<1x2xi2>",
]


def all_inputs(module: ModuleOp) -> Iterator[list[Array]]:
    arguments = main_of(module).args
    types = [(shape_of(argument), integer_of(argument)) for argument in arguments]
    each = [
        [
            np.array(codes, type.dtype).reshape(shape)
            for codes in product(range(type.lo, type.hi + 1), repeat=np.prod(shape))
        ]
        for shape, type in types
        if type is not None
    ]
    for inputs in product(*each):
        yield list(inputs)


@pytest.mark.parametrize("text", EXACT, ids=lambda text: text.split()[2] + str(EXACT.index(text)))
def test_the_interval_is_that_of_all_results(text: str) -> None:
    module = ir_text.parse(ir_text.function(text))
    report = analyse(module)
    found = np.stack([run(module, inputs)["output0"].astype(np.int64) for inputs in all_inputs(module)])
    interval = result_range(report, module)
    assert report.failures == []
    assert np.broadcast_to(interval.lo, found.shape[1:]).tolist() == found.min(0).tolist()
    assert np.broadcast_to(interval.hi, found.shape[1:]).tolist() == found.max(0).tolist()


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_away", "floor"])
@pytest.mark.parametrize("form", ["dyadic<23, 1>", "dyadic<-23, 1>", "pot<-3>", "real<11.3>", "real<-11.3>"])
@pytest.mark.parametrize(("least", "most"), [(1, 4), (3, 3), (5, 17), (7, 8), (0, 2)])
def test_divisors(form: str, rounding: str, least: int, most: int) -> None:
    """All quotients of -8..7 less 1 and a divisor in least..most; one below 1 ends the run."""
    text = ir_text.function(
        [
            f"%c = qvit.clip %z {{low = {least} : i64, high = {most} : i64}} : tensor<1xi32>",
            f"%y = qvit.requantize %x by #qvit.{form} divided_by %c input_zero_point <1> zero_point <1> rounding {rounding}"
            " : (tensor<1xi4>, tensor<1xi32>) -> tensor<1xi16>",
        ],
        {"%z": "tensor<1xi32>", "%x": "tensor<1xi4>"},
    )
    module = ir_text.parse(text)
    found = [
        run(module, [np.array([z], np.int32), np.array([x], np.int8)])["output0"].item()
        for z in range(max(least, 1), most + 1)
        for x in range(-8, 8)
    ]
    assert result_range(analyse(module), module).ends == (min(found), max(found))


@pytest.mark.parametrize(("most", "results"), [(8, [2000, 1000, 1500]), (9, [1000, 1500, 1000])])
def test_a_reciprocal_may_grow_at_a_power_of_two(most: int, results: list[int]) -> None:
    """R / 2^(n - 1), for a multiplier of 3 and 6, 7, 8, 9, is floor(12 / 6) / 4 = 2/4, then 1/4, 3/8, and 2/8."""
    text = ir_text.function(
        [
            f"%c = qvit.clip %z {{low = {most - 2} : i64, high = {most} : i64}} : tensor<i32>",
            "%d = qvit.constant dense<4000> : tensor<i16>",
            "%y = qvit.requantize %d by #qvit.dyadic<3, 0> divided_by %c : (tensor<i16>, tensor<i32>) -> tensor<i16>",
        ],
        {"%z": "tensor<i32>"},
    )
    module = ir_text.parse(text)
    report = analyse(module)
    assert [run(module, [np.array(z, np.int32)])["output0"].item() for z in range(most - 2, most + 1)] == results
    assert result_range(report, module).ends == (min(results), max(results))
    assert quantity(report, "product").lo <= 4000 * 1  # R = 1 for 7


# --- the bounds of products with constant weights are reached ---


def extreme(weights: Array, type: IntType, largest: bool) -> Array:
    """The codes that make a sum with these weights largest, or smallest."""
    return np.where((weights > 0) == largest, type.hi, type.lo).astype(type.dtype)


@pytest.mark.parametrize("codes", ["i8", "ui8", "i4"])
@pytest.mark.parametrize("zero", [0, 3])
def test_the_bound_of_a_linear_layer_is_reached_exactly(codes: str, zero: int) -> None:
    rng = np.random.default_rng(1)
    weight, bias, zeros = rng.integers(-128, 128, (5, 24)), rng.integers(-9999, 9999, 5), rng.integers(-3, 4, 5)
    text = ir_text.function(
        [
            f"%w = qvit.constant dense<{weight.tolist()}> : tensor<5x24xi8>",
            f"%b = qvit.constant dense<{bias.tolist()}> : tensor<5xi32>",
            f"%y = qvit.linear %x, %w, %b input_zero_point <{zero}> weight_zero_point <{zeros.tolist()}>"
            f" : (tensor<5x24x{codes}>, tensor<5x24xi8>, tensor<5xi32>) -> tensor<5x5xi32>",
        ],
        {"%x": f"tensor<5x24x{codes}>"},
    )
    module = ir_text.parse(text)
    type = integer_of(main_of(module).args[0])
    assert type is not None
    found = result_range(analyse(module), module)
    for largest, end in ((True, found.hi), (False, found.lo)):
        x = extreme(weight - zeros[:, None], type, largest)  # row n is the worst one of channel n
        assert run(module, [x])["output0"].diagonal().tolist() == end.tolist()


def test_the_bound_of_a_convolution_is_reached_exactly() -> None:
    weight = np.random.default_rng(2).integers(-8, 8, (4, 2, 2, 3))
    text = ir_text.function(
        [
            f"%w = qvit.constant dense<{weight.tolist()}> : tensor<4x2x2x3xi4>",
            "%y = qvit.conv2d %x, %w input_zero_point <7> {groups = 2 : i64}"
            " : (tensor<4x4x2x3xui4>, tensor<4x2x2x3xi4>) -> tensor<4x4x1x1xi32>",
        ],
        {"%x": "tensor<4x4x2x3xui4>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert found.lo.shape == (4, 1, 1)
    for largest, end in ((True, found.hi), (False, found.lo)):
        filters = extreme(weight, IntType(4, signed=False), largest)
        x = np.zeros((4, 4, 2, 3), np.uint8)
        for channel in range(4):
            group = channel // 2
            x[channel, 2 * group : 2 * group + 2] = filters[channel]
        assert run(module, [x])["output0"][:, :, 0, 0].diagonal().tolist() == end.ravel().tolist()


def test_the_bound_of_a_matmul_by_a_constant_is_reached_exactly() -> None:
    weight = np.random.default_rng(3).integers(-128, 128, (24, 5))
    text = ir_text.function(
        [
            f"%w = qvit.constant dense<{weight.tolist()}> : tensor<24x5xi8>",
            "%y = qvit.matmul %x, %w lhs_zero_point <3> : (tensor<5x24xi8>, tensor<24x5xi8>) -> tensor<5x5xi32>",
        ],
        {"%x": "tensor<5x24xi8>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    for largest, end in ((True, found.hi), (False, found.lo)):
        x = extreme(weight.T, IntType(8), largest)
        assert run(module, [x])["output0"].diagonal().tolist() == end.tolist()


def test_the_bound_of_a_product_of_activations_is_reached_exactly() -> None:
    text = "%y = qvit.matmul %a, %b lhs_zero_point <3> : (tensor<2x24xi8>, tensor<24x2xui8>) -> tensor<2x2xi32>"
    module = ir_text.parse(ir_text.function(text))
    found = result_range(analyse(module), module)
    assert found.ends == (24 * -131 * 255, 24 * 124 * 255)
    a, b = np.full((2, 24), -128, np.int8), np.full((24, 2), 255, np.uint8)
    assert run(module, [a, b])["output0"].min() == found.lo.min()


def test_sums_beyond_64_bits() -> None:
    text = "%y = qvit.linear %x, %w : (tensor<3xi32>, tensor<1x3xi32>) -> tensor<1xi64>"
    (found,) = analyse(ir_text.parse(ir_text.function(text))).quantities
    assert (found.lo, found.hi, found.bits) == (-3 * 2**31 * (2**31 - 1), 3 * 2**62, 65)


def test_channels_are_followed() -> None:
    """Through a requantize with a factor a channel, and what moves elements."""
    text = ir_text.function(
        [
            "%w = qvit.constant dense<[[1], [2], [3], [-4]]> : tensor<4x1xi8>",
            "%a = qvit.linear %x, %w : (tensor<5x1xui2>, tensor<4x1xi8>) -> tensor<5x4xi32>",
            "%b = qvit.requantize %a by #qvit.pot<[0, 0, 0, 1]> axis 1 : tensor<5x4xi32> -> tensor<5x4xi8>",
            "%c = qvit.reshape %b : tensor<5x4xi8> -> tensor<5x2x2xi8>",
            "%d = qvit.transpose %c [2, 0, 1] : tensor<5x2x2xi8> -> tensor<2x5x2xi8>",
            "%e = qvit.slice %d axis 0 start 1 size 1 step 1 : tensor<2x5x2xi8> -> tensor<1x5x2xi8>",
        ],
        {"%x": "tensor<5x1xui2>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert (found.lo.ravel().tolist(), found.hi.ravel().tolist()) == ([0, -6], [6, 0])


def test_a_large_table_keeps_one_interval_a_channel() -> None:
    table = np.arange(200 * 50).reshape(200, 50) % 251 - 125
    text = ir_text.function([f"%t = qvit.constant dense<{table.tolist()}> : tensor<200x50xi8>"], {})
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert found.lo.tolist() == table.min(0, keepdims=True).tolist()
    assert found.hi.tolist() == table.max(0, keepdims=True).tolist()


def test_empty_tensors() -> None:
    text = ir_text.function(
        [
            "%y = qvit.linear %x, %w : (tensor<2x0xi8>, tensor<3x0xi8>) -> tensor<2x3xi32>",
        ]
    )
    module = ir_text.parse(text)
    assert result_range(analyse(module), module).ends == (0, 0)


def test_a_residual_add_that_only_rational_numbers_decide() -> None:
    """Ties of one operand, known element by element, that 2^-60 times the other one breaks."""
    text = ir_text.function(
        [
            "%a = qvit.constant dense<[1, 2, 3]> : tensor<3xi8>",
            "%y = qvit.add_requant %a by #qvit.real<0.5>, %b by #qvit.real<8.67361738e-19>"
            " : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi8>",
        ],
        {"%b": "tensor<3xi8>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert (found.lo.tolist(), found.hi.tolist()) == ([0, 1, 1], [1, 1, 2])


def test_an_index_that_is_not_there() -> None:
    """The run ends there; until then any slice may be meant."""
    text = ir_text.function(
        [
            "%i = qvit.constant dense<[0, 2]> : tensor<2xi32>",
            "%y = qvit.gather %x, %i axis 0 : (tensor<2xi4>, tensor<2xi32>) -> tensor<2xi4>",
        ],
        {"%x": "tensor<2xi4>"},
    )
    module = ir_text.parse(text)
    assert result_range(analyse(module), module).ends == (-8, 7)


# --- comparisons that intervals decide ---


BELOW, TOUCHING, EQUAL = ((-8, 1), (2, 7)), ((-8, 2), (2, 7)), ((2, 2), (2, 2))


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ("lt", {BELOW: (1, 1), TOUCHING: (0, 1), EQUAL: (0, 0)}),
        ("le", {BELOW: (1, 1), TOUCHING: (1, 1), EQUAL: (1, 1)}),
        ("gt", {BELOW: (0, 0), TOUCHING: (0, 0), EQUAL: (0, 0)}),
        ("ge", {BELOW: (0, 0), TOUCHING: (0, 1), EQUAL: (1, 1)}),
        ("eq", {BELOW: (0, 0), TOUCHING: (0, 1), EQUAL: (1, 1)}),
        ("ne", {BELOW: (1, 1), TOUCHING: (0, 1), EQUAL: (0, 0)}),
    ],
)
def test_comparisons(predicate: str, expected: dict[Any, tuple[int, int]]) -> None:
    for operands, found in expected.items():
        clips = [
            f"%{name} = qvit.clip %x{name} {{low = {low} : i64, high = {high} : i64}} : tensor<i4>"
            for name, (low, high) in zip("ab", operands, strict=True)
        ]
        compare = f'%y = qvit.compare %a, %b {{predicate = "{predicate}"}} : (tensor<i4>, tensor<i4>) -> tensor<ui1>'
        text = ir_text.function([*clips, compare], {"%xa": "tensor<i4>", "%xb": "tensor<i4>"})
        module = ir_text.parse(text)
        assert result_range(analyse(module), module).ends == found


@pytest.mark.parametrize(("condition", "expected"), [("1", (-8, 7)), ("0", (-2, 1))])
def test_a_condition_that_is_known(condition: str, expected: tuple[int, int]) -> None:
    text = ir_text.function(
        [
            f"%c = qvit.constant dense<{condition}> : tensor<ui1>",
            "%d = qvit.clip %b {low = -2 : i64, high = 1 : i64} : tensor<i4>",
            "%y = qvit.select %c, %a, %d : (tensor<ui1>, tensor<i4>, tensor<i4>) -> tensor<i4>",
        ],
        {"%a": "tensor<i4>", "%b": "tensor<i4>"},
    )
    module = ir_text.parse(text)
    assert result_range(analyse(module), module).ends == expected


def test_comparisons_of_floats_and_quantizers() -> None:
    text = ir_text.function(
        [
            '%c = qvit.compare %a, %b {predicate = "lt"} : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xui1>',
            "%x = qvit.quantize %a <0.5> : tensor<2xf32> -> tensor<2xi4>",
            "%z = qvit.add %x, %c : (tensor<2xi4>, tensor<2xui1>) -> tensor<2xi32>",
        ],
        {"%a": "tensor<2xf32>", "%b": "tensor<2xf32>"},
    )
    module = ir_text.parse(text)
    assert result_range(analyse(module), module).ends == (-8, 8)


def test_levels_and_indices_that_are_not_constants() -> None:
    text = "%y = qvit.threshold %x, %t lowest -4 : (tensor<2xi32>, tensor<7xi32>) -> tensor<2xi8>"
    module = ir_text.parse(ir_text.function(text))
    assert result_range(analyse(module), module).ends == (-4, 3)
    text = ir_text.function(
        [
            "%c = qvit.constant dense<[[1, 2, 3], [4, 5, 6]]> : tensor<2x3xi8>",
            "%y = qvit.gather %c, %i axis 0 : (tensor<2x3xi8>, tensor<2xi32>) -> tensor<2x3xi8>",
        ],
        {"%i": "tensor<2xi32>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert (found.lo.ravel().tolist(), found.hi.ravel().tolist()) == ([1, 2, 3], [4, 5, 6])


# --- widths ---

K, REACH = 257, 255 * 32767 * 257


def layer(weight: int, bias: int, accumulator: str = "i32") -> ModuleOp:
    """257 codes of 8 bits, all with one weight."""
    text = ir_text.function(
        [
            f"%w = qvit.constant dense<{weight}> : tensor<1x{K}xi16>",
            f"%b = qvit.constant dense<{bias}> : tensor<1x{accumulator}>",
            f'%y = qvit.linear %x, %w, %b {{qvit.src = ["fc1"]}} : (tensor<{K}xui8>, tensor<1x{K}xi16>,'
            f" tensor<1x{accumulator}>) -> tensor<1x{accumulator}>",
        ],
        {"%x": f"tensor<{K}xui8>"},
    )
    return ir_text.parse(text)


@pytest.mark.parametrize(
    ("weight", "edge", "step"), [(32767, 2**31 - 1 - REACH, 1), (-32768, -(2**31) + 255 * 32768 * K, -1)]
)
def test_an_accumulator_is_accepted_up_to_its_very_edge(weight: int, edge: int, step: int) -> None:
    worst = [np.full(K, 255, np.uint8)]
    module = layer(weight, edge)
    report = analyse(module)
    assert report.failures == []
    assert (quantity(report, "accumulator").bits, quantity(report, "accumulator").headroom) == (32, 0)
    assert run(module, worst)["output0"].item() == (2**31 - 1 if step > 0 else -(2**31))

    module = layer(weight, edge + step)
    report = analyse(module)
    (failure,) = report.failures
    assert (failure.src, failure.rule) == ("fc1", "qvit.linear")
    assert (quantity(report, "accumulator").bits, quantity(report, "accumulator").headroom) == (33, -1)
    with pytest.raises(ExecutionError):
        run(module, worst)
    assert analyse(layer(weight, edge + step, "i64")).failures == []


def test_what_is_said_of_an_accumulator_that_overflows() -> None:
    (failure,) = analyse(layer(32767, 2**31 - REACH)).failures
    assert failure.reason == (
        "its accumulator is in 0..2147483648, which takes 33 bits, and i32 has to hold it:"
        " accumulate in i64 (accumulator=64), or use narrower codes"
    )


def test_no_partial_sum_leaves_the_accumulator() -> None:
    """Not even where the codes are all positive, so that the whole sum cannot be as large as some of its parts."""
    rng = np.random.default_rng(4)
    weight, bias = rng.integers(-128, 128, 12), -1000
    text = ir_text.function(
        [
            f"%w = qvit.constant dense<{[weight.tolist()]}> : tensor<1x12xi8>",
            f"%b = qvit.constant dense<{bias}> : tensor<1xi32>",
            "%c = qvit.clip %x {low = 100 : i64} : tensor<12xui8>",
            "%y = qvit.linear %c, %w, %b : (tensor<12xui8>, tensor<1x12xi8>, tensor<1xi32>) -> tensor<1xi32>",
        ],
        {"%x": "tensor<12xui8>"},
    )
    module = ir_text.parse(text)
    report = analyse(module)
    accumulator, result = quantity(report, "accumulator"), result_range(report, module).ends
    terms = [w * (255 if w > 0 else 100) for w in weight.tolist()]
    assert result[1] == sum(terms) + bias
    positive = sum(t for t in terms if t > 0)
    assert (accumulator.hi, positive > result[1]) == (positive, True)
    for _ in range(200):
        x = rng.choice([100, 255], 12)
        products = rng.permutation(x * weight)
        sums = np.concatenate([[0], np.cumsum(products)])
        assert accumulator.lo <= min(sums.min(), sums.min() + bias)
        assert max(sums.max(), sums.max() + bias) <= accumulator.hi


def test_padding_leaves_products_out() -> None:
    text = ir_text.function(
        [
            "%w = qvit.constant dense<1> : tensor<1x1x2x2xi8>",
            "%c = qvit.clip %x {low = 100 : i64} : tensor<1x1x1x1xui8>",
            "%y = qvit.conv2d %c, %w {padding = array<i64: 1, 1, 1, 1>}"
            " : (tensor<1x1x1x1xui8>, tensor<1x1x2x2xi8>) -> tensor<1x1x2x2xi32>",
        ],
        {"%x": "tensor<1x1x1x1xui8>"},
    )
    module = ir_text.parse(text)
    found = result_range(analyse(module), module)
    assert found.lo.min() <= 100
    assert_inside(found, run(module, [np.full((1, 1, 1, 1), 100, np.uint8)])["output0"])


EDGES = [
    # what fits by one, and what does not
    ("%y = qvit.add %a, %b : (tensor<1xi32>, tensor<1xi32>) -> tensor<1xi32>", "sum", (0, 1)),
    ("%y = qvit.add %a, %b : (tensor<1xi32>, tensor<1xi32>) -> tensor<1xi32>", "sum", (0, -1)),
    ("%y = qvit.sub %a, %b : (tensor<1xi32>, tensor<1xi32>) -> tensor<1xi32>", "difference", (0, 1)),
    ("%y = qvit.mul %a, %b : (tensor<1xi32>, tensor<1xi32>) -> tensor<1xi32>", "product", (1, -1)),
    ("%y = qvit.mul %a, %b : (tensor<1xi32>, tensor<1xi64>) -> tensor<1xi64>", "product", (2**32, 2**32 + 1)),
]


@pytest.mark.parametrize(("text", "what", "numbers"), EDGES)
def test_arithmetic_at_its_edge(text: str, what: str, numbers: tuple[int, int]) -> None:
    operand = ir_text.operand_types(text)["%b"]
    for number, fits in zip(numbers, (True, False), strict=True):
        constant = f"%b = qvit.constant dense<{number}> : {operand}"
        report = analyse(ir_text.parse(ir_text.function([constant, text], {"%a": "tensor<1xi32>"})))
        assert (quantity(report, what).headroom, report.failures == []) == ((0, True) if fits else (-1, False))


def test_a_sum_of_elements_at_its_edge() -> None:
    text = "%y = qvit.reduce_sum %x {{axes = array<i64: 0>, keepdims = false}} : tensor<{}xi16> -> tensor<i32>"
    assert analyse(ir_text.parse(ir_text.function(text.format(65536)))).failures == []
    assert len(analyse(ir_text.parse(ir_text.function(text.format(65537)))).failures) == 1


def test_partial_sums_of_elements() -> None:
    text = ir_text.function(
        [
            "%x = qvit.constant dense<[100, -100, 7]> : tensor<3xi8>",
            "%y = qvit.reduce_sum %x {axes = array<i64: 0>, keepdims = false} : tensor<3xi8> -> tensor<i32>",
        ],
        {},
    )
    module = ir_text.parse(text)
    report = analyse(module)
    assert result_range(report, module).ends == (7, 7)
    assert (quantity(report, "accumulator").lo, quantity(report, "accumulator").hi) == (-100, 107)


@pytest.mark.parametrize(
    ("text", "what", "bits"),
    [
        ("requantize %x by #qvit.dyadic<1, 3> : tensor<1xi64> -> tensor<1xi8>", "product", 64),
        ("requantize %x by #qvit.dyadic<2, 3> : tensor<1xi64> -> tensor<1xi8>", "product", 65),
        ("requantize %x by #qvit.dyadic<-1, 3> : tensor<1xi64> -> tensor<1xi8>", "product", 65),
        ("requantize %x by #qvit.dyadic<2147483647, 3> : tensor<1xi32> -> tensor<1xi8>", "product", 63),
        ("requantize %x by #qvit.pot<-31> : tensor<1xi32> -> tensor<1xi8>", "product", 63),
        ("requantize %x by #qvit.pot<-1> : tensor<1xi64> -> tensor<1xi8>", "product", 65),
        (
            "requantize %x by #qvit.real<0.5> input_zero_point <1> : tensor<1xi64> -> tensor<1xi8>",
            "operand less its zero point",
            65,
        ),
        (
            "requantize %x by #qvit.real<0.5> input_zero_point <1> : tensor<1xi32> -> tensor<1xi8>",
            "operand less its zero point",
            33,
        ),
        (
            "requantize %x by #qvit.dyadic<1, 3> divided_by %z : (tensor<1xi64>, tensor<1xi32>) -> tensor<1xi8>",
            "product",
            64,
        ),
        (
            "requantize %x by #qvit.dyadic<-1, 3> divided_by %z : (tensor<1xi64>, tensor<1xi32>) -> tensor<1xi8>",
            "product",
            65,
        ),
        (
            "requantize %x by #qvit.dyadic<2147483647, 3> divided_by %z : (tensor<1xi8>, tensor<1xi32>) -> tensor<1xi8>",
            "dividend of the reciprocal",
            62,
        ),
        (
            "requantize %x by #qvit.dyadic<7, 3> divided_by %z : (tensor<1xi8>, tensor<1xi64>) -> tensor<1xi8>",
            "dividend of the reciprocal",
            66,
        ),
        (
            "requantize %x by #qvit.pot<3> divided_by %z : (tensor<1xi8>, tensor<1xi64>) -> tensor<1xi8>",
            "dividend of the reciprocal",
            94,
        ),
        (
            "add_requant %a by #qvit.dyadic<-1, 2>, %b by #qvit.pot<2> : (tensor<1xi64>, tensor<1xi8>) -> tensor<1xi8>",
            "product of lhs",
            65,
        ),
        (
            "add_requant %a by #qvit.pot<2>, %b by #qvit.pot<-1> : (tensor<1xi8>, tensor<1xi64>) -> tensor<1xi8>",
            "product of rhs",
            65,
        ),
        # -2^15 * 2^16 twice, one of them over 2^32 more: 2^63 + 2^31
        (
            "add_requant %a by #qvit.dyadic<65536, 40>, %b by #qvit.dyadic<65536, 8>"
            " : (tensor<1xi16>, tensor<1xi16>) -> tensor<1xi8>",
            "sum of products",
            65,
        ),
        (
            "add_requant %a by #qvit.dyadic<65536, 40>, %b by #qvit.dyadic<65535, 8>"
            " : (tensor<1xi16>, tensor<1xi16>) -> tensor<1xi8>",
            "sum of products",
            64,
        ),
    ],
)
def test_intermediates_of_requantizing(text: str, what: str, bits: int) -> None:
    report = analyse(ir_text.parse(ir_text.function("%y = qvit." + text)))
    found = quantity(report, what)
    assert (found.bits, found.headroom, found.type) == (bits, 64 - bits, "i64")
    assert (report.failures == []) == (bits <= 64)


def test_terms_that_are_rounded_each_have_no_sum_of_products() -> None:
    text = (
        "%y = qvit.add_requant %a by #qvit.dyadic<65536, 62>, %b by #qvit.dyadic<65536, 0> round_each"
        " : (tensor<1xi16>, tensor<1xi16>) -> tensor<1xi8>"
    )
    report = analyse(ir_text.parse(ir_text.function(text)))
    assert [q.what for q in report.quantities] == ["product of lhs", "product of rhs"]
    assert report.failures == []


@pytest.mark.parametrize(
    ("interval", "bits"),
    [
        ((0, 0), 1),
        ((-1, 0), 1),
        ((0, 1), 2),
        ((-2, 1), 2),
        ((-3, 0), 3),
        ((-128, 127), 8),
        ((0, 128), 9),
        ((-129, 0), 9),
    ],
)
def test_the_narrowest_signed_type(interval: tuple[int, int], bits: int) -> None:
    assert signed_bits(interval) == bits


# --- approximations ---


def approximated(example: Example, codes: str | None = None, mask: bool = False, constant: bool = True) -> ModuleOp:
    """A row of 6 codes through an approximation."""
    built = example.built
    approximation, codes = built.approximation, codes or str(example.codes.type)
    types = [f"tensor<{len(table)}x{type}>" for table, type in built.tables]
    names = [f"%t{i}" for i in range(len(types))]
    lines = [
        f"{name} = qvit.constant dense<{table.tolist()}> : {type}"
        for name, (table, _), type in zip(names, built.tables, types, strict=True)
    ]
    shapes = ["6", "1"] if isinstance(approximation, SoftmaxApproximation) else ["6"]
    results = [f"tensor<{shape}x{type}>" for shape, type in zip(shapes, built.results, strict=False)]
    kind = {SoftmaxApproximation: "softmax", FunctionApproximation: "function", LayerNormApproximation: "layer_norm"}
    op = next(name for base, name in kind.items() if isinstance(approximation, base))
    tables = f" tables({', '.join(names)} : {', '.join(types)})" if names else ""
    masked = " mask(%m : tensor<6xui1>)" if mask else ""
    parameters = ", ".join(f"{name} = {value}" for name, value in approximation.parameters.items())
    attribute = f"#qvit.{approximation.name}" + (f"<{parameters}>" if parameters else "")
    signature = f"(tensor<6x{codes}>) -> ({', '.join(results)})"
    outputs = ", ".join(f"%y{i}" for i in range(len(results)))
    lines.append(f"{outputs} = qvit.int_{op} %x{tables}{masked} by {attribute} : {signature}")
    arguments = [f"%x: tensor<6x{codes}>", "%m: tensor<6xui1>"]
    if not constant:
        arguments += [f"{name}: {type}" for name, type in zip(names, types, strict=True)]
        lines = lines[-1:]
    body = "\n".join(lines)
    return ir_text.parse(
        f"func.func @main({', '.join(arguments)}) -> ({', '.join(results)}) {{\n{body}\n"
        f"func.return {outputs} : {', '.join(results)}\n}}"
    )


UNSOUND = ("i-gelu-published", "ita-gelu")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_intermediates_of_approximations(example: Example) -> None:
    module = approximated(example)
    report = analyse(module)
    assert report.failures == []
    approximation, tables = example.built.approximation, [table for table, _ in example.built.tables]
    codes, result = (example.codes.type.lo, example.codes.type.hi), example.built.results[0]
    match approximation:
        case SoftmaxApproximation():
            stated = approximation.intermediates(codes, 6, tables)
        case FunctionApproximation():
            stated = approximation.intermediates(codes, tables, result)
        case LayerNormApproximation():
            stated = approximation.intermediates(codes, 6, tables, result)
        case _:
            raise AssertionError
    assert {q.what: (q.lo, q.hi) for q in report.quantities} == {n: i for n, i in stated.items() if n != "y"}
    values = returned(module)
    if report.conditions:  # it does not take all codes
        assert example.name in UNSOUND
        assert report.ranges[values[0]].ends == (result.lo, result.hi)
        return
    assert report.ranges[values[0]].ends == stated["y"]
    assert [report.ranges[v].ends for v in values[1:]] == [i for n, i in stated.items() if n == "sum"][
        : len(values) - 1
    ]


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if isinstance(e.built.approximation, SoftmaxApproximation)], ids=lambda e: e.name
)
def test_masked_rows(example: Example) -> None:
    module = approximated(example, "i2", mask=True)
    report = analyse(module)
    type, rng = IntType(2), np.random.default_rng(0)
    for mask in (np.zeros(6), np.array([1, 0, 0, 0, 0, 0]), np.array([0, 1, 1, 0, 1, 0]), np.ones(6)):
        x = rng.integers(type.lo, type.hi, 6, endpoint=True).astype(type.dtype)
        assert_sound(module, [x, mask.astype(np.uint8)], report)
    assert report.ranges[returned(module)[0]].ends[0] == 0


def test_masked_entries_are_0_whatever_is_stated_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(e for e in EXAMPLES if e.name == "sm8")
    monkeypatch.setattr(type(example.built.approximation), "intermediates", lambda *_: {"e": (3, 7), "y": (5, 9)})
    for mask, ends in ((False, (5, 9)), (True, (0, 9))):
        module = approximated(example, mask=mask)
        assert result_range(analyse(module), module).ends == ends


@pytest.mark.parametrize("name", ["sm8", "sm8-late", "table", "ln"])
def test_codes_that_an_approximation_does_not_take(name: str) -> None:
    example = next(e for e in EXAMPLES if e.name == name)
    if name != "ln":  # exponentials that do not end, and a table that does
        built = example.built
        flat = tuple((np.full(256, 65535 if "sm8" in name else 1), type) for _, type in built.tables)
        example = replace(example, built=replace(built, tables=flat))
    module = approximated(example, "i32")
    report = analyse(module)
    (condition,) = report.conditions
    assert condition.rule.startswith("qvit.int_")
    assert (report.failures != []) == (name == "ln")  # of the others no intermediate is too wide
    for value in returned(module):
        type = integer_of(value)
        assert type is not None
        assert report.ranges[value].ends == (type.lo, type.hi)


def test_the_zero_point_of_a_function() -> None:
    text = ir_text.function(
        [
            f"%t = qvit.constant dense<{list(range(-128, 128))}> : tensor<256xi16>",
            "%c = qvit.clip %x {low = -100 : i64, high = 100 : i64} : tensor<2xi8>",
            "%y = qvit.int_function %c tables(%t : tensor<256xi16>) input_zero_point <3> by #qvit.table<lowest = -128>"
            " : (tensor<2xi8>) -> tensor<2xi16>",
        ],
        {"%x": "tensor<2xi8>"},
    )
    module = ir_text.parse(text)
    assert result_range(analyse(module), module).ends == (-103, 97)


def test_codes_behind_the_end_of_a_table() -> None:
    text = ir_text.function(
        [
            "%t = qvit.constant dense<1> : tensor<256xi8>",
            "%c = qvit.clip %x {low = 200 : i64} : tensor<2xi16>",
            "%y = qvit.int_function %c tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128>"
            " : (tensor<2xi16>) -> tensor<2xi8>",
        ],
        {"%x": "tensor<2xi16>"},
    )
    module = ir_text.parse(text)
    report = analyse(module)
    assert [condition.rule for condition in report.conditions] == ["qvit.int_function"]
    assert (report.quantities, result_range(report, module).ends) == ([], (-128, 127))


def test_tables_that_are_not_constants() -> None:
    example = next(e for e in EXAMPLES if e.name == "table")
    (failure,) = analyse(approximated(example, constant=False)).failures
    assert failure.reason == "one of its tables is no constant: nothing is known of its intermediates"


# --- attention, divided late ---


LATE = {
    e.name: e
    for e in EXAMPLES
    if isinstance(e.built.approximation, SoftmaxApproximation) and e.built.approximation.late
}


def attention_text(
    length: int,
    zero: int,
    rounding: str = "half_up",
    mask: bool = False,
    scores: str = "i8",
    name: str = "sm8-late",
    flat: bool = False,
) -> str:
    """16 times the average of values, plus 5. flat: all exponentials are those of the maximum."""
    built = LATE[name].built
    approximation, tables = (
        built.approximation,
        [(np.full_like(t, t[0]) if flat else t, type) for t, type in built.tables],
    )
    types = [f"tensor<{len(table)}x{type}>" for table, type in tables]
    names = [f"%t{i}" for i in range(len(tables))]
    constants = [
        f"{name} = qvit.constant dense<{table.tolist()}> : {type}"
        for name, (table, _), type in zip(names, tables, types, strict=True)
    ]
    fields = ", ".join(f"{name} = {value}" for name, value in approximation.parameters.items())
    attribute = f"#qvit.{approximation.name}" + (f"<{fields}>" if fields else "")
    masked = f" mask(%m : tensor<{length}xui1>)" if mask else ""
    factor = 16 * float(built.scale)
    shift = 30 - math.floor(math.log2(factor))
    x, p, z, v = f"tensor<1x{length}x{scores}>", f"tensor<1x{length}xui8>", "tensor<1x1xi32>", f"tensor<{length}x2xi8>"
    softmax = f"qvit.int_softmax %x tables({', '.join(names)} : {', '.join(types)}){masked} by {attribute}"
    form = f"#qvit.dyadic<{round(factor * 2**shift)}, {shift}> divided_by %z zero_point <5> rounding {rounding}"
    lines = "\n  ".join(constants)
    return f"""
func.func @main(%x: {x}, %v: {v}, %m: tensor<{length}xui1>) -> tensor<1x2xi16> {{
  {lines}
  %p, %z = {softmax} : ({x}) -> ({p}, {z})
  %a = qvit.matmul %p, %v rhs_zero_point <{zero}> : ({p}, {v}) -> tensor<1x2xi32>
  %y = qvit.requantize %a by {form} : (tensor<1x2xi32>, {z}) -> tensor<1x2xi16>
  func.return %y : tensor<1x2xi16>
}}"""


@pytest.mark.parametrize("rounding", ["half_up", "floor"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", LATE)
def test_the_average_of_attention_is_bounded_by_the_values(name: str, mask: bool, rounding: str) -> None:
    """The worst row has the maximum once, and else the difference where rounding adds most to a weight's share."""
    length, built = 40, LATE[name].built
    module = ir_text.parse(attention_text(length, -3, rounding, mask, name=name))
    report = analyse(module)
    found = result_range(report, module)
    assert isinstance(built.approximation, SoftmaxApproximation)
    rows = np.full((256, length), -128)
    rows += 255 - np.arange(256)[:, None]
    rows[:, 7] = 127
    weights, sums = built.approximation.apply(rows, [table for table, _ in built.tables], None, built.results)
    x = rows[[np.argmax(weights.sum(-1) / sums[:, 0])]].astype(np.int8)
    lowest, highest = (
        run(module, [x, np.full((length, 2), value, np.int8), np.ones(length, np.uint8)])["output0"].item(0)
        for value in (-128, 127)
    )
    assert lowest - 1 <= found.ends[0] <= lowest <= 16 * -125 + 5
    assert 16 * 130 + 4 <= highest <= found.ends[1] <= highest + 1
    rng = np.random.default_rng(0)
    for _ in range(50):
        spread = int(rng.integers(1, 129))
        x = rng.integers(128 - spread, 128, (1, length)).astype(np.int8)
        v = rng.choice([-128, 127], (length, 2)).astype(np.int8)
        m = rng.integers(0, 2, length).astype(np.uint8)
        assert_inside(found, run(module, [x, v, m])["output0"])


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("divided_by %z", "divided_by %other"),
        ("qvit.matmul %p, %v", "qvit.matmul %p, %v lhs_zero_point <1>"),
        ("divided_by %z zero_point", "divided_by %z input_zero_point <1> zero_point"),
        ("qvit.matmul %p, %v", "qvit.matmul %b, %v"),
    ],
)
def test_what_is_no_average(what: str, instead: str) -> None:
    """Sums that are not those of the weights, weights less a zero point, and weights that no softmax made."""
    text = attention_text(40, 0).replace(what, instead)
    text = text.replace("%m: ", "%b: tensor<1x40xui8>, %other: tensor<1x1xi32>, %m: ")
    assert analyse(ir_text.parse(attention_text(40, 0))).values[-1].hi < 16 * 127 * 2
    assert analyse(ir_text.parse(text)).values[-1].hi == 2**15 - 1


def test_an_average_of_positive_values_may_be_0() -> None:
    text = attention_text(4, 0, mask=True)
    text = text.replace(
        "%a = qvit.matmul %p, %v", "%c = qvit.clip %v {low = 100 : i64} : tensor<4x2xi8>\n%a = qvit.matmul %p, %c"
    )
    module = ir_text.parse(text)
    inputs = [np.zeros((1, 4), np.int8), np.full((4, 2), 127, np.int8), np.zeros(4, np.uint8)]
    assert run(module, inputs)["output0"].tolist() == [[5, 5]]
    assert result_range(analyse(module), module).ends[0] == 5


def test_attention_whose_scores_are_too_wide() -> None:
    report = analyse(ir_text.parse(attention_text(40, 0, scores="i16", flat=True)))
    assert [condition.rule for condition in report.conditions] == ["qvit.int_softmax"]
    assert report.values[-1].hi == 2**15 - 1


def test_conditions_are_an_error_unless_told_unchecked(capsys: pytest.CaptureFixture[str]) -> None:
    module = ir_text.parse(attention_text(40, 0, scores="i16", flat=True))
    with pytest.raises(DiagnosticException, match="1 numbers or conditions are not proven:\n.*scores differ by"):
        RangeAnalysisPass().apply(Context(), module)
    RangeAnalysisPass(unchecked=True).apply(Context(), module)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-3:-1] == ["  failures                  0", "  conditions                1"]
    assert lines[-1].startswith("    qvit.int_softmax: qvit.int_softmax: scores differ by")
    found = json.loads(RangeAnalysisPass(unchecked=True).run(module).to_json())
    assert [list(condition) for condition in found["conditions"]] == [["src", "rule", "reason"]]


# --- attention by shifts ---

LOGARITHMIC = """
func.func @main(%x: tensor<1x600xi8>, %v: tensor<600x2xi8>, %c: tensor<1x600xui5>) -> tensor<1x2xi32> {
  %q = qvit.int_softmax %x by #qvit.lis<up = 5, x0 = -444, b = 1733, c = 1143650, n = 1> : (tensor<1x600xi8>) -> tensor<1x600xui5>
  %a = qvit.shift_matmul %q, %v rhs_zero_point <3> : (tensor<1x600xui5>, tensor<600x2xi8>) -> tensor<1x2xi32>
  func.return %a : tensor<1x2xi32>
}"""


def test_rows_of_a_logarithmic_softmax_sum_to_at_most_three_halves() -> None:
    module = ir_text.parse(LOGARITHMIC)
    report = analyse(module)
    assert report.failures == []
    found = result_range(report, module)
    assert found.ends == (-131 * 3 << 14, 124 * 3 << 14)
    (accumulator,) = [q for q in report.quantities if q.what == "accumulator"]
    assert (accumulator.lo, accumulator.hi, accumulator.bits) == (*found.ends, 24)
    rng = np.random.default_rng(0)
    for spread in (1, 5, 30, 128):
        x = rng.integers(-spread, spread, (1, 600)).astype(np.int8)
        for v in (np.full((600, 2), -128), np.full((600, 2), 127), rng.choice([-128, 127], (600, 2))):
            assert_inside(found, run(module, [x, v.astype(np.int8), np.zeros((1, 600), np.uint8)])["output0"])


def test_any_codes_for_shifts_may_sum_to_more() -> None:
    (failure,) = analyse(ir_text.parse(LOGARITHMIC.replace("shift_matmul %q", "shift_matmul %c"))).failures
    assert failure.rule == "qvit.shift_matmul"
    assert str(-131 * 600 << 15) in failure.reason


# --- functions, report, pass ---

TWO = """
func.func @a(%x: tensor<2xi32>, %y: tensor<2xi8>) -> tensor<2xi32> attributes {qvit.integer_only} {
  %z = qvit.add %x, %y {qvit.src = ["sum_a"]} : (tensor<2xi32>, tensor<2xi8>) -> tensor<2xi32>
  func.return %z : tensor<2xi32>
}
func.func @main(%x: tensor<2xi32>) -> tensor<2xi32> {
  %z = qvit.add %x, %x {qvit.src = ["not_checked"]} : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>
  func.return %z : tensor<2xi32>
}
func.func @b(%x: tensor<2x!type>, %w: tensor<2xi8>) -> tensor<2xi32> attributes {qvit.integer_only} {
  %z = qvit.mul %x, %w {qvit.src = ["product_b"]} : (tensor<2x!type>, tensor<2xi8>) -> tensor<2xi32>
  %q = "test.op"(%z) {qvit.src = ["foreign"]} : (tensor<2xi32>) -> tensor<2xi32>
  %u = qvit.clip %q {low = 0 : i64} : tensor<2xi32>
  func.return %u : tensor<2xi32>
}
"""


def two(type: str = "i32") -> ModuleOp:
    return ir_text.parse(TWO.replace("!type", type))


def test_all_failures_of_the_checked_functions_are_listed() -> None:
    assert [(f.src, f.rule) for f in analyse(two()).failures] == [
        ("sum_a", "qvit.add"),
        ("product_b", "qvit.mul"),
        ("foreign", "test.op"),
    ]


def test_nothing_is_known_of_what_another_operation_makes() -> None:
    module = two("i8")
    report = analyse(module)
    assert list(report.ranges.values())[-1].ends == (0, 2**31 - 1)
    assert report.failures[-1].reason.startswith("the analysis does not know this operation")


def test_bounds() -> None:
    module = layer(2, 100)
    assert list(bounds(module).values()) == [(0, 255), (2, 2), (100, 100), (100, 255 * 2 * K + 100)]


def test_report() -> None:
    report = analyse(layer(32767, 2**31 - REACH))
    found = json.loads(report.to_json())
    assert found["values"][-1] == {
        "src": "fc1",
        "op": "qvit.linear",
        "type": "tensor<1xi32>",
        "lo": 2**31 - REACH,
        "hi": 2**31 - 1,
        "intervals": 1,
    }
    assert found["quantities"] == [
        {
            "src": "fc1",
            "op": "qvit.linear",
            "what": "accumulator",
            "lo": 0,
            "hi": 2**31,
            "bits": 33,
            "type": "i32",
            "headroom": -1,
        }
    ]
    assert [list(failure) for failure in found["failures"]] == [["src", "rule", "reason"]]
    assert report.table().splitlines() == [
        "range-analysis",
        "  values                    4",
        "  widest accumulator       33 bits of i32: fc1",
        "  tightest of               1",
        "     -1 bits left of i32: fc1 (qvit.linear), accumulator 0..2147483648",
        "  failures                  1",
        f"    fc1: qvit.linear: {report.failures[0].reason}",
    ]


def test_the_tightest_come_first() -> None:
    report = analyse(two())
    headrooms = [q.headroom for q in report.tightest]
    assert headrooms == sorted(q.headroom for q in report.quantities)[:5]
    assert report.widest is None


def test_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = layer(1, 0)
    before = str(module)
    RangeAnalysisPass(report=str(tmp_path / "r.json")).apply(Context(), module)
    assert str(module) == before
    assert (tmp_path / "r.json").read_text() == analyse(module).to_json()
    assert capsys.readouterr() == ("", analyse(module).table())


def test_pass_refuses_what_may_overflow_and_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DiagnosticException) as error:
        RangeAnalysisPass(report=str(tmp_path / "r.json")).apply(Context(), two())
    lines = str(error.value).splitlines()
    assert lines[0] == "range-analysis: 3 numbers or conditions are not proven:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["sum_a", "product_b", "foreign"]
    assert len(json.loads((tmp_path / "r.json").read_text())["failures"]) == 3
    RangeAnalysisPass(report_only=True).apply(Context(), two())
    assert capsys.readouterr().err == analyse(two()).table()


def test_a_page_is_not_its_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its report is JSON"):
        RangeAnalysisPass(report=str(tmp_path / "r.html")).apply(Context(), layer(1, 0))
