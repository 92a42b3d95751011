"""Every integer operation in C against the interpreter: from one table, at the edges of types, and in random programs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from backends.test_interpreter import CASES, inputs_for, only_op
from c_programs import FORMS, WARNINGS, equal
from integer_graphs import inputs_for as graph_inputs
from integer_graphs import integer_graph
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.c import CompileError, load
from qvit.backends.c.program import EMITTERS
from qvit.backends.interpreter import ExecutionError, run
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.table import TRANSFERS

# Of these compiling, not running, takes the time: without the kernels of variants, which test_kernels.py has.
FLAGS = ("-O0", "-DQK_NO_SIMD", *WARNINGS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def check(module: ModuleOp, inputs: Sequence[Array], cache: Path) -> None:
    """The results are the interpreter's."""
    equal(load(module, flags=FLAGS, cache=cache)(*inputs), list(run(module, inputs).values()))


def is_integer(op: Operation) -> bool:
    return all(integer_of(value) is not None for value in (*op.operands, *op.results))


INTEGER_CASES = [text for text, _ in CASES if is_integer(ir_text.parse_op(text))]


@pytest.mark.parametrize(
    "text", [t for t in INTEGER_CASES if "#qvit.real" not in t], ids=lambda t: t.split(" = ", 1)[1][:50]
)
def test_every_operation(text: str, cache: Path) -> None:
    module = ir_text.parse(ir_text.function(text))
    check(module, inputs_for(only_op(module)), cache)


@pytest.mark.parametrize(
    "text", [t for t in INTEGER_CASES if "#qvit.real" in t], ids=lambda t: t.split(" = ", 1)[1][:50]
)
def test_real_factors_are_refused(text: str) -> None:
    module = ir_text.parse(ir_text.function(text))
    name = re.escape(only_op(module).name)
    with pytest.raises(CompileError, match=rf"{name}.*has a real number as its factor.*run --lower-requant"):
        load(module)


FLOATS = [text for text, _ in CASES if not is_integer(ir_text.parse_op(text))]


@pytest.mark.parametrize("text", FLOATS, ids=lambda t: t.split(" = ", 1)[1][:50])
def test_floats_are_refused(text: str) -> None:
    with pytest.raises(CompileError, match="expected integers, found tensor<.*f32>.*--integerize"):
        load(ir_text.parse(ir_text.function(text)))


def test_the_table_is_complete() -> None:
    """All operations that make integers from integers; constants and reshapes compute nothing."""
    assert set(EMITTERS) == set(TRANSFERS) - {QuantizeOp, ConstantOp, WeightOp, ReshapeOp}


# --- at the edges ---

# what the table above has no room for: words of 64 bits, products that exceed them, vectors along the first axis
EDGES = [
    "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 1> rounding {r} : tensor<200xi64> -> tensor<200xi64>",
    "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 62> divided_by %z input_zero_point <-2147483648> rounding {r}"
    " : (tensor<40x96xi32>, tensor<40x1xi32>) -> tensor<40x96xi8>",
    "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 62> rounding {r} : tensor<40xi64> -> tensor<40xi32>",
    "%y = qvit.requantize %x by #qvit.dyadic<-2147483647, 31> input_zero_point <-9223372036854775808> zero_point <7>"
    " rounding {r} : tensor<40xi64> -> tensor<40xi64>",
    "%y = qvit.requantize %x by #qvit.dyadic<1, 0> zero_point <-9223372036854775808> rounding {r} : tensor<40xi64> -> tensor<40xi64>",
    "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 0> input_zero_point <-2147483648> zero_point <127> rounding {r}"
    " : tensor<40xi32> -> tensor<40xi8>",
    "%y = qvit.requantize %x by #qvit.dyadic<-3, 1> zero_point <4294967295> rounding {r} : tensor<40xui32> -> tensor<40xui32>",
    "%y = qvit.requantize %x by #qvit.pot<-31> zero_point <5> rounding {r} : tensor<40xi64> -> tensor<40xi64>",
    "%y = qvit.requantize %x by #qvit.pot<62> rounding {r} : tensor<40xi64> -> tensor<40xi8>",
    "%y = qvit.requantize %x by #qvit.pot<[-31, 0, 1, 62]> input_zero_point <[1, 2, 3, 4]> zero_point <[0, 1, 2, 3]> axis 0"
    " rounding {r} : tensor<4x10xi32> -> tensor<4x10xi16>",
    "%y = qvit.requantize %x by #qvit.dyadic<[2147483647, -5], [62, 3]> axis 1 rounding {r} : tensor<20x2xi64> -> tensor<20x2xi32>",
    "%y = qvit.requantize %x by #qvit.pot<-31> divided_by %z rounding {r} : (tensor<40xi32>, tensor<40xi32>) -> tensor<40xi32>",
    "%y = qvit.requantize %x by #qvit.pot<62> divided_by %z rounding {r} : (tensor<40xi32>, tensor<40xui32>) -> tensor<40xi32>",
    "%y = qvit.requantize %x by #qvit.dyadic<-2147483647, 0> divided_by %z zero_point <3> rounding {r}"
    " : (tensor<40xi64>, tensor<40xi64>) -> tensor<40xi64>",
    "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 62> divided_by %z rounding {r} : (tensor<40xi8>, tensor<i64>) -> tensor<40xi8>",
    "%y = qvit.requantize %x by #qvit.dyadic<[2147483647, -1], 5> divided_by %z axis 0 rounding {r}"
    " : (tensor<2x20xi32>, tensor<2x1xi32>) -> tensor<2x20xi16>",
    "%y = qvit.add_requant %a by #qvit.dyadic<2147483647, 62>, %b by #qvit.dyadic<-2147483647, 0> rounding {r}"
    " : (tensor<40xi64>, tensor<40xi32>) -> tensor<40xi16>",
    "%y = qvit.add_requant %a by #qvit.pot<-31>, %b by #qvit.pot<62> zero_point <-5> rounding {r}"
    " : (tensor<40xi64>, tensor<40xi64>) -> tensor<40xi64>",
    "%y = qvit.add_requant %a by #qvit.pot<-31>, %b by #qvit.dyadic<2147483647, 1> lhs_zero_point <9223372036854775807>"
    " zero_point <5> rounding {r} round_each : (tensor<40xi64>, tensor<40xi64>) -> tensor<40xi64>",
    "%y = qvit.add_requant %a by #qvit.dyadic<[1, 2147483647], [62, 0]>, %b by #qvit.pot<[0, 9]> axis 0 rounding {r}"
    " : (tensor<2x20xi32>, tensor<2x20xi16>) -> tensor<2x20xi32>",
]


@pytest.mark.parametrize("rounding", ["half_even", "half_up", "half_away", "floor"])
@pytest.mark.parametrize("text", EDGES, ids=range(len(EDGES)))
def test_edges_of_factors(text: str, rounding: str, cache: Path) -> None:
    """On the ends of the types, ties and their neighbours, and any numbers."""
    module = ir_text.parse(ir_text.function(text.format(r=rounding)))
    rng = np.random.default_rng(2)
    inputs = [
        edges(operand, i == 1 and "divided_by" in text, rng) for i, operand in enumerate(only_op(module).operands)
    ]
    check(module, inputs, cache)


def edges(value: Any, positive: bool, rng: np.random.Generator) -> Array:
    held, shape = integer_of(value), shape_of(value)
    assert held is not None
    lo = 1 if positive else held.lo
    powers = [sign * (1 << k) + d for k in range(held.bits) for sign in (1, -1) for d in (-1, 0, 1)]
    some = [x for x in (lo, held.hi, 0, 1, -1, *powers) if lo <= x <= held.hi]
    picked = rng.permutation(np.array(some, object))
    count = int(np.prod(shape))
    picked[:2] = [lo, held.hi]
    return np.resize(picked, count).reshape(shape).astype(held.dtype)


SHAPES = [
    "%c = qvit.matmul %a, %b lhs_zero_point <-128> rhs_zero_point <127>"
    " : (tensor<2x1x4x5xi8>, tensor<3x5x6xui8>) -> tensor<2x3x4x6xi64>",
    "%c = qvit.matmul %a, %b : (tensor<1x5xi16>, tensor<2x5x1xi8>) -> tensor<2x1x1xi32>",
    "%c = qvit.matmul %a, %b lhs_zero_point <-2147483648> rhs_zero_point <[-128, 127]>"
    " : (tensor<3x2xi32>, tensor<2x2xi8>) -> tensor<3x2xi64>",
    "%c = qvit.matmul %a, %b : (tensor<3x0xi8>, tensor<0x2xi8>) -> tensor<3x2xi32>",
    "%c = qvit.shift_matmul %q, %v rhs_zero_point <3> : (tensor<2x1x3x4xui5>, tensor<2x4x2xi8>) -> tensor<2x2x3x2xi32>",
    "%y = qvit.linear %x, %w, %b input_zero_point <-128> weight_zero_point <127>"
    " : (tensor<2x3x4xi8>, tensor<5x4xi8>, tensor<5xi32>) -> tensor<2x3x5xi32>",
    "%y = qvit.linear %x, %w input_zero_point <200> : (tensor<4xui8>, tensor<5x4xi2>) -> tensor<5xi64>",
    "%y = qvit.linear %x, %w : (tensor<3x4xi32>, tensor<2x4xi16>) -> tensor<3x2xi64>",
    "%y = qvit.conv2d %x, %w, %b input_zero_point <-9> {strides = array<i64: 1, 3>, padding = array<i64: 3, 2, 0, 1>,"
    " dilations = array<i64: 2, 1>, groups = 3 : i64}"
    " : (tensor<2x6x5x7xi8>, tensor<3x2x2x3xi8>, tensor<3xi64>) -> tensor<2x3x6x3xi64>",
    "%y = qvit.conv2d %x, %w weight_zero_point <5> {strides = array<i64: 2, 2>}"
    " : (tensor<1x3x4x4xui8>, tensor<4x3x2x2xui8>) -> tensor<1x4x2x2xi32>",
    "%y = qvit.add %a, %b : (tensor<2x1x3xi8>, tensor<4x1xi32>) -> tensor<2x4x3xi64>",
    "%y = qvit.mul %a, %b : (tensor<2x3xi16>, tensor<i16>) -> tensor<2x3xi32>",
    "%y = qvit.sub %a, %b : (tensor<ui32>, tensor<3xui16>) -> tensor<3xi64>",
    "%y = qvit.clip %x {low = -9223372036854775808 : i64, high = 5 : i64} : tensor<7xi64>",
    "%y = qvit.clip %x {high = 4294967295 : i64} : tensor<7xui32>",
    '%y = qvit.compare %a, %b {predicate = "le"} : (tensor<3x1xui32>, tensor<4xui32>) -> tensor<3x4xui1>',
    '%y = qvit.compare %a, %b {predicate = "gt"} : (tensor<5xi64>, tensor<i64>) -> tensor<5xui1>',
    "%y = qvit.select %c, %a, %b : (tensor<3x1xui1>, tensor<i64>, tensor<4xi64>) -> tensor<3x4xi64>",
    "%y = qvit.reduce_sum %x {axes = array<i64: 0, 1, 2>, keepdims = false} : tensor<2x3x4xi32> -> tensor<i64>",
    "%y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = true} : tensor<2x0x4xi32> -> tensor<2x1x4xi64>",
    "%y = qvit.argmax %x {axis = 0 : i64, keepdims = false} : tensor<3x40xi2> -> tensor<40xi64>",
    "%y = qvit.argmax %x {axis = 0 : i64, keepdims = false} : tensor<5xi64> -> tensor<i64>",
    "%q = qvit.threshold %x, %t lowest 0 axis 1 : (tensor<2x3x2xui16>, tensor<3x4xi64>) -> tensor<2x3x2xui3>",
    "%q = qvit.threshold %x, %t lowest 3 : (tensor<5xi8>, tensor<0xi8>) -> tensor<5xi8>",
    "%y = qvit.slice %x axis 0 start 4 size 5 step -1 : tensor<5x3xi16> -> tensor<5x3xi16>",
    "%y = qvit.slice %x axis 2 start 1 size 2 step 2 : tensor<2x3x4xi64> -> tensor<2x3x2xi64>",
    "%y = qvit.concat %a, %b axis 0 : (tensor<0x3xi8>, tensor<2x3xi8>) -> tensor<2x3xi8>",
    "%y = qvit.concat %a, %b axis 1 : (tensor<2x3x1xi8>, tensor<2x3x1xi8>) -> tensor<2x6x1xi8>",
    "%y = qvit.transpose %x [3, 0, 2, 1] : tensor<2x3x1x4xi32> -> tensor<4x2x1x3xi32>",
    "%y = qvit.transpose %x [] : tensor<i32> -> tensor<i32>",
    "%y = qvit.gather %x, %i axis 2 : (tensor<2x3x4xi8>, tensor<ui2>) -> tensor<2x3xi8>",
    "%y = qvit.broadcast %x : tensor<i16> -> tensor<2x3xi16>",
    "%y = qvit.broadcast %x : tensor<0x3xi16> -> tensor<2x0x3xi16>",
]


@pytest.mark.parametrize("text", SHAPES, ids=lambda t: t.split(" = ", 1)[1][:50])
def test_shapes_and_types(text: str, cache: Path) -> None:
    module = ir_text.parse(ir_text.function(text))
    check(module, inputs_for(only_op(module)), cache)


@pytest.mark.parametrize("element", ["i2", "i3", "i4", "i5", "i7", "ui1", "ui3", "ui6", "i8"])
def test_weights_of_few_bits(element: str, cache: Path) -> None:
    """Packed in the file where they are many; constants that are used twice, returned, and reshaped."""
    rng = np.random.default_rng(3)
    text = f"""func.func @main(%x: tensor<3x41xi8>) -> (tensor<3x31xi32>, tensor<41x31xi32>, tensor<31x41x{element}>) {{
      %k = qvit.constant dense<0> : tensor<1271x{element}>
      %w = qvit.reshape %k : tensor<1271x{element}> -> tensor<31x41x{element}>
      %y = qvit.linear %x, %w input_zero_point <5> : (tensor<3x41xi8>, tensor<31x41x{element}>) -> tensor<3x31xi32>
      %t = qvit.transpose %w [1, 0] : tensor<31x41x{element}> -> tensor<41x31x{element}>
      %z = qvit.add %t, %t : (tensor<41x31x{element}>, tensor<41x31x{element}>) -> tensor<41x31xi32>
      func.return %y, %z, %w : tensor<3x31xi32>, tensor<41x31xi32>, tensor<31x41x{element}>
    }}"""
    module = ir_text.parse(text)
    (old,) = (op for op in module.walk() if isinstance(op, ConstantOp))
    held = integer_of(old.result)
    assert held is not None
    codes = rng.integers(held.lo, held.hi, 1271, endpoint=True).astype(held.dtype)
    block = old.parent_block()
    assert block is not None
    new = ConstantOp(codes, old.result.type.element_type)
    block.insert_op_before(new, old)
    old.result.replace_all_uses_with(new.result)
    old.detach()
    old.erase()
    check(module, [rng.integers(-128, 127, (3, 41)).astype(np.int8)], cache)


def test_results_that_are_no_results_of_steps(cache: Path) -> None:
    """Arguments, constants, one result twice, and one that is a reshape of another."""
    text = """func.func @main(%x: tensor<2x3xi8>, %unused: tensor<4xi16>)
        -> (tensor<2x3xi8>, tensor<3xi8>, tensor<3x2xi8>, tensor<3x2xi8>, tensor<6xi8>, tensor<6xi8>) {
      %c = qvit.constant dense<[1, 2, 3]> : tensor<3xi8>
      %f = qvit.reshape %x : tensor<2x3xi8> -> tensor<6xi8>
      %t = qvit.transpose %x [1, 0] : tensor<2x3xi8> -> tensor<3x2xi8>
      %r = qvit.reshape %t : tensor<3x2xi8> -> tensor<6xi8>
      func.return %x, %c, %t, %t, %r, %f
        : tensor<2x3xi8>, tensor<3xi8>, tensor<3x2xi8>, tensor<3x2xi8>, tensor<6xi8>, tensor<6xi8>
    }"""
    check(ir_text.parse(text), [np.arange(6, dtype=np.int8).reshape(2, 3), np.zeros(4, np.int16)], cache)


def test_a_sum_whose_parts_overflow(cache: Path) -> None:
    """2 (2^31 - 1) + b fits, the product alone does not."""
    text = "%y = qvit.linear %x, %w, %b : (tensor<1x2xi32>, tensor<1x2xi8>, tensor<1xi32>) -> tensor<1x1xi32>"
    inputs = [np.full((1, 2), 2**31 - 1, np.int32), np.ones((1, 2), np.int8), np.array([-(2**31)], np.int32)]
    check(ir_text.parse(ir_text.function(text)), inputs, cache)


def test_indices_outside(cache: Path) -> None:
    """Of a constant: an error. Of an input: the nearest, never memory that is not the operand's."""
    text = "%y = qvit.gather %x, %i axis 0 : (tensor<3xi8>, tensor<4xi32>) -> tensor<4xi8>"
    module = ir_text.parse(ir_text.function(text))
    x = np.array([5, 6, 7], np.int8)
    found = load(module, flags=FLAGS, cache=cache)(x, np.array([-(2**31), -1, 3, 2**31 - 1], np.int32))
    assert found[0].tolist() == [5, 5, 7, 7]
    constant = ["%i = qvit.constant dense<[0, 3]> : tensor<2xi32>"]
    text = ir_text.function(
        [
            *constant,
            '%y = qvit.gather %x, %i axis 0 {qvit.src = ["g"]} : (tensor<3xi8>, tensor<2xi32>) -> tensor<2xi8>',
        ],
        {"%x": "tensor<3xi8>"},
    )
    with pytest.raises(CompileError, match=r"g \(qvit.gather\): indices reach 0..3, axis 0 has 3"):
        load(ir_text.parse(text))


# --- random programs ---


@pytest.mark.parametrize("seed", range(40))
def test_random_programs(seed: int, cache: Path) -> None:
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, 10, FORMS)
    program = load(module, flags=("-O1", *WARNINGS), cache=cache)
    ran = 0
    for inputs in graph_inputs(module, rng, 4):
        try:
            expected = run(module, inputs)
        except ExecutionError:  # a sum that does not fit, which passes rule out
            continue
        equal(program(*inputs), list(expected.values()))
        ran += 1
    assert ran


@pytest.mark.parametrize("seed", range(100, 120))
def test_random_programs_in_the_arena(seed: int, cache: Path) -> None:
    """Every tensor on the way is right when it is made, though others lie in its place before and after."""
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, 25, FORMS, every=False)
    program = load(module, flags=("-O1", *WARNINGS), cache=cache)
    for inputs in graph_inputs(module, rng, 2):
        seen: dict[Operation, Array] = {}
        try:
            expected = run(module, inputs, observe=lambda op, array, seen=seen: seen.update({op: array}))
        except ExecutionError:
            continue
        results, tensors = program.trace(*inputs)
        equal(results, list(expected.values()))
        first = [(value.op, array) for value, array in tensors if value.index == 0]
        equal([array for _, array in first], [seen[op] for op, _ in first])
        assert len(first) == len(program.sources.program.steps)
