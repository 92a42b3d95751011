"""Every integer approximation in C against its semantics: equal on random and extreme rows, optimised and sanitised.

Sanitised, the steps run on memory of exactly the size of each tensor, which one arena for all would hide.
"""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from approximation_examples import EXAMPLES, FINE, NARROW, WIDE, Example, arrays, masks, rows
from xdsl.dialects.builtin import IntegerType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue

from qvit.backends.c.approximations import APPROXIMATION_EMITTERS
from qvit.backends.c.loader import load
from qvit.backends.c.step import CompileError, Context, Step, c_type, type_of
from qvit.dialects.approximations import (
    FUNCTION,
    LAYER_NORM,
    SOFTMAX,
    BitSoftmax,
    BitSoftmaxPublished,
    IbertLayerNorm,
    ILayerNorm,
    ISoftmax,
    ISoftmaxPublished,
    Ita,
    Lin,
    Lis,
    LisPublished,
    Ln,
    PtfLayerNorm,
    PtfLayerNormPublished,
    Quad,
    Shiftmax,
    ShiftmaxPublished,
    Sm8,
    Sm8Late,
    Sw,
    SwLate,
    Table,
    ThresholdLayerNorm,
)
from qvit.dialects.approximations.base import (
    Approximation,
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    LayerNormApproximation,
    LayerNormSpec,
    RangeError,
    SoftmaxApproximation,
    SoftmaxSpec,
)
from qvit.dialects.ops.approximated import ApproximatedOp, IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import Array, Int64, IntType
from qvit.dialects.types import BOOLEAN, integer_element
from qvit.dialects.weights import Weights

KERNELS = Path(__file__).parents[3] / "backends" / "c" / "kernels"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
BUILDS = {
    "sanitised": ["gcc", "-std=c11", "-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"],
    "c++": ["g++", "-std=c++17", "-O0"],
}
FAMILIES = {"softmax": SOFTMAX, "function": FUNCTION, "layer_norm": LAYER_NORM}
I16, I32, I64 = IntType(16), IntType(32), IntType(64)
LENGTHS = (1, 2, 17, 197, 257)
TYPES = (
    NARROW,
    replace(NARROW, type=IntType(8, False), zero_point=128),
    replace(FINE, type=IntType(4)),
    replace(FINE, type=IntType(6, False), zero_point=17),
    WIDE,
    replace(WIDE, type=IntType(12)),
    replace(WIDE, type=IntType(16, False), zero_point=1000),
    replace(WIDE, type=IntType(18)),
    replace(WIDE, type=IntType(18, False), zero_point=1000),
)
"""Every C type of at most 32 bits, also with some bits not used."""
SCORES = (*TYPES, *(replace(WIDE, type=type) for type in (IntType(32), IntType(32, False), IntType(40))))
"""Scores may be wider, for only their differences matter."""


@dataclass(frozen=True)
class Case:
    """An operation and what it takes: codes [..., N] as int64."""

    name: str
    built: Built
    codes: IntType
    x: Int64
    mask: Array | None = None
    zero_point: int = 0

    @cached_property
    def expected(self) -> tuple[Array, ...]:
        """What the semantics makes of it."""
        tables, results = arrays(self.built), self.built.results
        match self.built.approximation:
            case SoftmaxApproximation() as approximation:
                return approximation.apply(self.x, tables, self.mask, results)
            case FunctionApproximation() as approximation:
                return (approximation.apply(self.x - self.zero_point, tables, results[0]),)
            case LayerNormApproximation() as approximation:
                return (approximation.apply(self.x, tables, results[0]),)
            case approximation:
                raise AssertionError(approximation)

    def fitting(self) -> "Case":
        """With results of 64 bits where they do not fit their type, as some of published ones do not."""
        try:
            _ = self.expected
        except OverflowError:
            return replace(self, built=replace(self.built, results=(IntType(64),)))
        return self

    def inputs(self, constant: bool) -> list[Array]:
        """The arguments that `operation` adds."""
        tables = [] if constant else arrays(self.built)
        return [self.x.astype(self.codes.dtype), *tables, *([] if self.mask is None else [self.mask])]

    def operation(self, block: Block, constant: bool) -> ApproximatedOp:
        """At the end of a block, on new arguments of it: codes, tables unless they are constants, a mask."""

        def argument(element: IntegerType, shape: Sequence[int]) -> SSAValue:
            return block.insert_arg(TensorType(element, shape), len(block.args))

        def table(values: Array, element: IntegerType) -> SSAValue:
            if not constant:
                return argument(element, values.shape)
            op = ConstantOp(values, element)
            block.add_op(op)
            return op.result

        built = self.built
        x = argument(integer_element(self.codes), self.x.shape)
        tables = [table(v, integer_element(t)) for v, (_, t) in zip(arrays(built), built.tables, strict=True)]
        mask = argument(BOOLEAN, self.mask.shape) if self.mask is not None else None
        elements = [integer_element(t) for t in built.results]
        match built.approximation:
            case SoftmaxApproximation():
                op = IntSoftmaxOp(x, built.approximation, tables, elements, mask)
            case FunctionApproximation():
                op = IntFunctionOp(x, built.approximation, tables, elements[0], self.zero_point)
            case _:
                op = IntLayerNormOp(x, built.approximation, tables, elements[0])
        block.add_op(op)
        op.verify()
        return op


def output_of(codes: IntType) -> Codes | None:
    """Probabilities of as many bits as their scores; of 8 unless asked for others."""
    return (
        None if codes.bits <= 8 else Codes(Fraction(1, 32767 if codes.signed else 65535), 0, IntType(16, codes.signed))
    )


def built_for(example: Example, codes: Codes, length: int) -> Built | None:
    """The approximation for such rows of codes; None where it cannot be made for them."""
    rng = np.random.default_rng(length)
    try:
        match example.built.approximation:
            case SoftmaxApproximation() as approximation:
                scores = replace(codes, scale=approximation.preferred_scale(codes.scale))
                return type(approximation).build(SoftmaxSpec(scores, length, output_of(codes.type)))
            case FunctionApproximation() as approximation:
                output = Codes(Fraction(1, 15), 0, IntType(8))
                return type(approximation).build(FunctionSpec("gelu", codes, output))
            case LayerNormApproximation() as approximation:
                gamma, beta = rng.normal(1, 1, length), rng.normal(0, 0.5, length)
                factors = rng.integers(0, 4, length) if approximation.takes_factors else None
                output = Codes(Fraction(1, 30), 3, IntType(8))
                return type(approximation).build(LayerNormSpec(gamma, beta, 1e-5, codes, output, factors))
            case approximation:
                raise AssertionError(approximation)
    except RangeError:
        return None


def inputs_of(codes: IntType, length: int) -> Int64:
    """Rows of every kind, some that hardly vary."""
    rng, reach = np.random.default_rng(length), IntType(min(codes.bits, 20), codes.signed)
    level = rng.integers(reach.lo, reach.hi - 3, (4, 1))
    near = level + rng.integers(0, [[2], [2], [3], [4]], (4, length))
    return np.concatenate([rows(rng, (reach.lo, reach.hi), length, 3), near])


def cases_of(example: Example) -> Iterator[Case]:
    """All lengths of rows of its own codes, and codes of all types that it can be built for."""
    softmax = example.name in SOFTMAX
    for codes, length in [
        *((example.codes, n) for n in LENGTHS),
        *((codes, 17) for codes in (SCORES if softmax else TYPES)),
    ]:
        built = built_for(example, codes, length)
        if built is None:
            assert codes is not example.codes
            continue
        x, name = inputs_of(codes.type, length), f"{example.name} {codes.type} {length}"
        zero_point = codes.zero_point if getattr(built.approximation, "centred", False) else 0
        yield Case(name, built, codes.type, x, None, zero_point).fitting()
        if softmax:
            yield Case(f"{name} masked", built, codes.type, x, masks(np.random.default_rng(length), x))


@cache
def cases_of_family(family: str) -> list[Case]:
    return [case for e in EXAMPLES if e.name in FAMILIES[family] for case in cases_of(e)]


def check(cases: Sequence[Case], found: Sequence[Array]) -> None:
    """All results are those of the semantics."""
    expected = [(case.name, array) for case in cases for array in case.expected]
    for (name, wanted), mine in zip(expected, found, strict=True):
        assert (mine.dtype, mine.tolist()) == (wanted.dtype, wanted.tolist()), name


# --- steps, each on memory of its own ---


def step_of(case: Case, constant: bool = True) -> Step:
    op = case.operation(Block(), constant)
    return APPROXIMATION_EMITTERS[type(op)](Context(Weights(ModuleOp([]))), op)


def main_of(cases: Sequence[Case]) -> str:
    """A program that reads the operands of each case, runs it, and writes its results."""
    functions, calls = "", ""
    for case in cases:
        step = step_of(case)
        inputs = [(f"const {c_type(type_of(value))} *", name) for name, value in step.operands.items()]
        results = [(f"{c_type(type_of(value))} *", name) for name, value in step.results.items()]
        parameters = [*(t + name for t, name in (*inputs, *results)), "void *scratch", "size_t begin", "size_t end"]
        name = f"case_{functions.count('static void case_')}"
        functions += f"static void {name}({', '.join(parameters)}) {{\n{step.body}\n}}\n"
        made = [f"get({array.nbytes})" for array in case.inputs(False)]
        made += [f"malloc({size})" for size in (*(array.nbytes for array in case.expected), step.scratch)]
        calls += f"{{\nvoid *p[] = {{{', '.join(made)}}};\n"
        types = [*(t for t, _ in (*inputs, *results)), "void *"]
        assert step.share is not None
        bounds = (0, step.share.extent // 2 // step.share.grain * step.share.grain, step.share.extent)
        for begin, end in pairwise(bounds):  # as two threads
            pointers = ", ".join(f"({t})p[{i}]" for i, t in enumerate(types))
            calls += f"{name}({pointers}, {begin}, {end});\n"
        for i, array in enumerate(case.expected, len(inputs)):
            calls += f"put(p[{i}], {array.nbytes});\n"
        calls += f"for (size_t i = 0; i < {len(types)}; ++i) {{\nfree(p[i]);\n}}\n}}\n"
    return f"""\
#include <stdio.h>
#include <stdlib.h>
#include "qk_approx.h"
static void *get(size_t size) {{
    void *data = malloc(size);
    if (!data || fread(data, 1, size, stdin) != size) exit(1);
    return data;
}}
static void put(const void *data, size_t size) {{
    if (fwrite(data, 1, size, stdout) != size) exit(1);
}}
{functions}
int main(void) {{
{calls}return 0;
}}
"""


def run_steps(cases: Sequence[Case], build: str, folder: Path) -> list[Array]:
    """The results of all cases."""
    source, binary = folder / f"cases.{'cpp' if build == 'c++' else 'c'}", folder / "cases"
    source.write_text(main_of(cases))
    command = [*BUILDS[build], *WARNINGS, "-I", str(KERNELS), str(source), "-o", str(binary)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr
    data = b"".join(array.tobytes() for case in cases for array in case.inputs(False))
    done = subprocess.run([str(binary)], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    wanted = [array for case in cases for array in case.expected]
    ends = np.cumsum([array.nbytes for array in wanted]).tolist()
    assert ends[-1] == len(done.stdout)
    parts = (done.stdout[end - array.nbytes : end] for array, end in zip(wanted, ends, strict=True))
    return [np.frombuffer(part, a.dtype).reshape(a.shape) for part, a in zip(parts, wanted, strict=True)]


@pytest.mark.parametrize("build", ["c++", pytest.param("sanitised", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_steps(family: str, build: str, tmp_path: Path) -> None:
    cases = cases_of_family(family)
    assert {case.name.split()[0] for case in cases} == set(FAMILIES[family])
    check(cases, run_steps(cases, build, tmp_path))


# --- whole programs ---


def run_program(cases: Sequence[Case], folder: Path, constant: bool = True) -> list[Array]:
    """The results of all cases, operations of one program."""
    block = Block()
    results = [result for case in cases for result in case.operation(block, constant).results]
    block.add_op(ReturnOp(*results))
    types = [value.type for value in block.args], [value.type for value in results]
    module = ModuleOp([FuncOp("main", types, Region(block))])
    module.verify()
    inputs = [array for case in cases for array in case.inputs(constant)]
    return load(module, flags=["-O3"], cache=folder)(*inputs)


VALUES_MATTER = (Sw, SwLate, PtfLayerNorm, PtfLayerNormPublished, ThresholdLayerNorm)


@pytest.mark.parametrize("constant", [True, False], ids=["constants", "arguments"])
@pytest.mark.parametrize("family", FAMILIES)
def test_programs(family: str, constant: bool, tmp_path: Path) -> None:
    """With tables as constants and, where nothing has to be proven of their values, as arguments."""
    cases = [c for c in cases_of_family(family) if constant or not isinstance(c.built.approximation, VALUES_MATTER)]
    check(cases, run_program(cases, tmp_path, constant))


def short_rows() -> Iterator[Case]:
    """Of three scores, none far below the others: what the last bit of a reciprocal does shows in one result of 2^16."""
    rng = np.random.default_rng(0)
    for example in EXAMPLES:
        if example.name in SOFTMAX:
            for codes in (NARROW, WIDE):
                if (built := built_for(example, codes, 3)) is not None:
                    reach = min(int(1 / codes.scale), codes.type.hi)
                    x = rng.integers(-reach, reach, (100_000, 3), np.int64, endpoint=True)
                    yield Case(f"{example.name} {codes.type} short", built, codes.type, x)


def every_exponential() -> Case:
    """All that a table of sm8-late may hold."""
    table = np.arange(1 << 16)[::-1]
    built = Built(Sm8Late(), ((table, IntType(16, False)),), (IntType(8, False), I32), np.array(1.0))
    return Case("every exponential", built, I32, -np.arange(1 << 16).reshape(1, -1))


def every_code() -> Iterator[Case]:
    """Functions of all codes of a type, with results of 8 and 16 bits: all forms of quad."""
    outputs = Codes(Fraction(1, 15), 0, IntType(8)), Codes(Fraction(1, 4096), 5, I16)
    for name, kind in FUNCTION.items():
        for codes, function, output in product((TYPES[0], TYPES[1], TYPES[4], TYPES[6]), ("gelu", "tanh"), outputs):
            try:
                built = kind.build(FunctionSpec(function, codes, output))
            except RangeError:
                continue
            x = np.arange(codes.type.lo, codes.type.hi + 1).reshape(16, -1)
            zero_point = codes.zero_point * kind.centred
            yield Case(f"{name} {function} {codes.type}", built, codes.type, x, None, zero_point).fitting()
    steep = tuple((np.arange(8) * step - 1000, I16) for step in (300, -700, 900))
    for form in range(3):  # the last code of the last piece, and codes beyond it
        built = Built(Quad(form, -16 * (form == 0), 2, 1, 3), steep, (I32,), np.array(1.0))
        reach = IntType(5 + (form > 0))
        yield Case(f"quad {form}", built, reach, np.arange(reach.lo, reach.hi + 1))


def every_bit() -> Iterator[Case]:
    """Layer normalisation whose gain leaves nearly all bits of the normalised value in the result."""
    x = np.random.default_rng(0).integers(-300, 300, (100_000, 3))
    tables = ((np.array([(1 << 31) - 1, -(1 << 31), 1 << 30]), I32), (np.array([0, 1, -1]), I32))
    for kind in (Ln, ILayerNorm, IbertLayerNorm):
        yield Case(f"{kind.name} bits", Built(kind(1, 0), tables, (I32,), np.array(1.0)), I16, x)
    tables = ((np.zeros(3, int), IntType(8)), (np.array([1 << 20, -(1 << 21) + 1, 12345]), I32))
    tables += ((np.array([0, 1, -2]), IntType(8)), (np.array([0, 1, -1]), I32))
    yield Case("ptf_layernorm bits", Built(PtfLayerNorm(21, 1, 0, 3), tables, (I64,), np.array(1.0)), I16, x)


COARSE: Sequence[tuple[SoftmaxApproximation, IntType]] = (
    (Shiftmax(0, 16, 0, 65535, 65535), IntType(16, False)),
    (Shiftmax(-2, 3, 1, 65536, 65535), IntType(16, False)),
    (ShiftmaxPublished(-3, 2, 16), I16),
    (ISoftmax(0, 5, 6, 31, 65535, 65535), IntType(16, False)),
    (ISoftmaxPublished(-4, 8, 20, 4, 1 << 12, 0, 16), I64),
    (ISoftmaxPublished(-4, 8, 20, 4, 1 << 12, 6, 16), I64),
    (ISoftmaxPublished(-4, 8, 20, 4, 3, 6, 16), I64),
    (ISoftmaxPublished(-4, 8, 16, 2, 512, 0, 16), I64),
    (BitSoftmax(0, -9, 0, 65535, 65535), IntType(16, False)),
    (BitSoftmaxPublished(-5, 2, 20, 16), IntType(32)),
    (Lis(0, -8, 4, 3, 2), IntType(5, False)),
    (LisPublished(-8, 4, 3, 2), IntType(5, False)),
    (Ita(1, 3), IntType(8, False)),
)
"""Exponentials of few bits: an entry that should take no part, and what is clipped, show. No scale gives such constants."""


def coarse() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    x = rng.integers(-20, 20, (300, 7))
    mask = rng.integers(0, 2, x.shape).astype(np.uint8)
    for approximation, result in COARSE:
        for given in (None, mask):
            yield Case(f"{approximation}", Built(approximation, (), (result,), np.array(1.0)), IntType(8), x, given)


def test_masks_broadcast(tmp_path: Path) -> None:
    """Every dimension of the mask may be 1 or, leading ones, missing."""
    rng = np.random.default_rng(0)
    built = built_for(next(e for e in EXAMPLES if e.name == "sm8-late"), NARROW, 5)
    assert built is not None
    x = rng.integers(-128, 127, (2, 3, 4, 5), np.int64, endpoint=True)
    shapes = [(5,), (1,), (4, 5), (4, 1), (3, 1, 5), (3, 1, 1), (2, 1, 1, 5), (2, 1, 4, 1), (2, 3, 1, 5), (2, 3, 4, 5)]
    shapes += [(1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 4, 1), (1, 1, 1, 1)]
    cases = [Case(str(s), built, NARROW.type, x, rng.integers(0, 2, s).astype(np.uint8)) for s in shapes]
    check(cases, run_program(cases, tmp_path))


def test_functions_of_any_shape(tmp_path: Path) -> None:
    """Elements are taken in chunks: a scalar, and sizes about a chunk."""
    built = built_for(next(e for e in EXAMPLES if e.name == "table"), NARROW, 1)
    assert built is not None
    shapes = [(), (1,), (3, 0), (7, 73), (512,), (513, 1), (2, 512)]
    rng = np.random.default_rng(0)
    cases = [Case(str(s), built, NARROW.type, np.asarray(rng.integers(-128, 128, s), np.int64)) for s in shapes]
    check(cases, run_program(cases, tmp_path))


def test_results_saturate(tmp_path: Path) -> None:
    """A result that does not fit its type is an error in the semantics; in C it is the nearest that fits."""
    table = np.arange(-128, 128) * 3
    built = Built(Table(-128), ((table, IntType(16)),), (IntType(7),), np.array(1.0))
    case = Case("table", built, IntType(8), np.arange(-128, 128))
    with pytest.raises(OverflowError):
        _ = case.expected
    (y,) = run_program([case], tmp_path)
    assert y.tolist() == table.clip(-64, 63).tolist()


TIES = [(n, -1) for n in (1, 3, 5, 7, -1, -3, -5, -7)]
"""Offsets between two integers, where gain and denominator are 1 and the sum or the variance's root whole."""
EXTREMES = [(1, 0), (-1, -32), (3, -2), (-3, -33), (0, 0), (5, -90), (-7, -31), (1, -8)]
GAINS = [(1, 0), (-1, -1), (3, -4), (1, 12), (-5, 3), (1, -60), (1, 40), (0, 0)]
SMALL = [(1, -60), (1, -35), (1, -34), (1, -33), (1, -32), (3, -33), (-1, -31), (-1, -60)]
LONG = [((1 << 52) + 12345 * k + 1, k - 55) for k in range(8)]


def tie_cases() -> Iterator[Case]:
    """Mantissas that saturate, vanish, or are a power of two, too; all numbers are (n, power) for n 2^power."""
    rows_of_8 = np.array(
        [[0] * 8, [1] * 8, [1, -1] * 4, [1] * 4 + [0] * 4, [-1] * 4 + [0] * 4, [3, 1, -1, -3] * 2, [9, *[-1] * 7]]
        + [[100, -100, 7, 7, 0, 0, -7, -7]]
    )
    pairs = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5)), -1).reshape(-1, 2)
    for x, gains, offsets in (
        (rows_of_8, [(1, 12)] * 8, TIES),
        (rows_of_8, [(-1, 12)] * 8, TIES),
        (rows_of_8, GAINS, EXTREMES),
        (rows_of_8, SMALL, [(1, -1)] * 8),
        (rows_of_8, LONG, LONG),
        (rows_of_8, LONG, TIES),
        (pairs, [(1, 12), (-1, 0)], TIES[:2]),
    ):
        (gain, gain_power), (offset, offset_power) = np.array(gains).T, np.array(offsets).T
        tables = ((gain * 0, IntType(8)), (gain, IntType(64)), (gain_power, IntType(16)))
        tables += ((offset, IntType(64)), (offset_power, IntType(16)))
        for denominator in (1, 3, 1 << 20, (1 << 53) - 1):
            for zero_points in ((0, 0), (-5, 7)):
                approximation = PtfLayerNormPublished(denominator, *zero_points)
                yield Case(f"ties {approximation}", Built(approximation, tables, (I64,), np.array(1.0)), IntType(8), x)


@cache
def fine_cases() -> list[Case]:
    """Where the last bit of each constant shows."""
    return [*short_rows(), every_exponential(), *every_code(), *every_bit(), *coarse(), *tie_cases()]


def test_every_rounding(tmp_path: Path) -> None:
    cases = fine_cases()
    assert {c.built.approximation.form for c in cases if isinstance(c.built.approximation, Quad)} == {0, 1, 2}
    check(cases, run_program(cases, tmp_path))


@pytest.mark.slow
def test_every_rounding_sanitised(tmp_path: Path) -> None:
    check(fine_cases(), run_steps(fine_cases(), "sanitised", tmp_path))


# --- what is refused ---


def refused(
    approximation: Approximation, tables: Sequence[tuple[Sequence[int], IntType]], codes: IntType, **more: int
) -> str:
    """The message."""
    built = Built(approximation, tuple((np.array(v, np.int64), t) for v, t in tables), (IntType(8),), np.array(1.0))
    case = Case("", built, codes, np.zeros((2, more.pop("length", 4)), np.int64), zero_point=more.pop("zero_point", 0))
    with pytest.raises(CompileError) as error:
        step_of(case, constant=bool(more.pop("constant", True)))
    return str(error.value)


def test_refuses_indices_beyond_a_table() -> None:
    table = [(range(100), IntType(8))]
    assert "the table has results for codes -50..49, the codes are -128..127" in refused(Table(-50), table, IntType(8))
    assert "the table has results for codes -128..-29" in refused(Table(-128), table, IntType(8))
    nodes = [(range(257), I16)]
    assert "nodes reach over codes -512..511" in refused(Lin(-512, 2, 0, 0), nodes, IntType(11))
    assert "pieces reach over codes -2048..2047" in refused(
        Quad(0, -2048, 6, 0, 0), [(range(64), I16)] * 3, IntType(13)
    )
    assert "at most 16 bits" in refused(Quad(1, 0, 6, 0, 0), [(range(64), I16)] * 3, IntType(18))
    uneven = [(range(64), I16), (range(63), I16), (range(64), I16)]
    assert "different lengths" in refused(Quad(1, 0, 6, 0, 0), uneven, IntType(12))


def test_zero_points_count() -> None:
    """x - zero point is the index."""
    table = [(range(256), IntType(16))]
    assert "the codes are -129..126" in refused(Table(-128), table, IntType(8), zero_point=1)


def test_refuses_other_tables() -> None:
    assert "the table exponentials is of i32; C reads it as ui16" in refused(Sm8(255), [(range(256), I32)], IntType(8))
    assert "the table gain is of i16" in refused(Ln(1, 0), [([1] * 4, I16), ([1] * 4, I32)], IntType(8))


def test_refuses_overflow() -> None:
    vectors = [([1] * 4, I32), ([1] * 4, I32)]
    message = refused(Ln(1, 0), vectors, I32)
    assert "squares reaches 18446744073709551616 for codes in -2147483648..2147483647" in message
    assert "beyond 62 bits; requantize the operand to a narrower type" in message
    assert "code reaches 4611686018427387904" in refused(Shiftmax(0, 16, 0, 255, 255), [], IntType(63))


def test_refuses_what_depends_on_values() -> None:
    ones = [([1] * 4, t) for t in (IntType(8), I32, IntType(8), I32)]
    ptf = PtfLayerNorm(16, 1, 0, 0)
    assert "the table factor is known at run time only; make it a constant" in refused(
        ptf, ones, IntType(8), constant=0
    )
    eight = [([8] * 4, IntType(8)), *ones[1:]]
    assert "factors must be in 0..7" in refused(ptf, eight, IntType(8))
    wide = Sw(19, 4, 1, 1, 0, 255)
    nodes = [([2 << 19] * 16, I32), ([1] * 16, I16)]
    assert "nodes start with 5" in refused(wide, [([5] * 16, I32), nodes[1]], IntType(8))
    assert "expected 16, found 4" in refused(wide, [([2 << 19] * 4, I32), nodes[1]], IntType(8))


def test_refuses_constants_of_very_different_sizes() -> None:
    types = (IntType(8), I64, I16, I64, I16)

    def message(gain_power: int, offset_power: int) -> str:
        tables = [([v] * 4, t) for v, t in zip((0, 1, gain_power, 1, offset_power), types, strict=True)]
        return refused(PtfLayerNormPublished(1, 0, 0), tables, IntType(8))

    assert "comparing takes 2242 bits (2048 are)" in message(-900, 0)
    assert "B reaches 2305843011361210369 (2^60 is possible)" in message(0, 30)
