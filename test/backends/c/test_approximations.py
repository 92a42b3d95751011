"""Every integer approximation in C against its semantics: equal on random and extreme rows, optimised and sanitised."""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from approximation_examples import EXAMPLES, FINE, NARROW, WIDE, Example, arrays, masks, rows
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Block

from qvit.backends.c.approximations import APPROXIMATION_EMITTERS
from qvit.backends.c.step import Context, Step, c_type, type_of
from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import (
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
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import BOOLEAN, integer_element
from qvit.dialects.weights import Weights

KERNELS = Path(__file__).parents[3] / "backends" / "c" / "kernels"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
BUILDS = {
    "optimised": ["gcc", "-std=c11", "-O3"],
    "sanitised": ["gcc", "-std=c11", "-O1", "-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all"],
    "c++": ["g++", "-std=c++17", "-O0"],
}
LENGTHS = (1, 2, 17, 197, 257)


@dataclass(frozen=True)
class Case:
    """One operation, what it takes, and what the semantics makes of that."""

    name: str
    step: Step
    inputs: Sequence[Array]
    expected: Sequence[Array]


def operation(
    built: Built, codes: IntType, shape: Sequence[int], mask: Sequence[int] | None = None, zero_point: int = 0
) -> ApproximatedOp:
    """The operation on an argument of a block, with constant tables."""
    elements = [integer_element(t) for t in built.results]
    types = [TensorType(integer_element(codes), shape)]
    types += [TensorType(BOOLEAN, mask)] if mask is not None else []
    block = Block(arg_types=types)
    x, *masked = block.args
    constants = [ConstantOp(v, integer_element(t)) for v, (_, t) in zip(arrays(built), built.tables, strict=True)]
    tables = [c.result for c in constants]
    match built.approximation:
        case SoftmaxApproximation():
            op = IntSoftmaxOp(x, built.approximation, tables, elements, *masked)
        case FunctionApproximation():
            op = IntFunctionOp(x, built.approximation, tables, elements[0], zero_point)
        case _:
            op = IntLayerNormOp(x, built.approximation, tables, elements[0])
    block.add_ops([*constants, op])
    op.verify()
    return op


def step_of(op: ApproximatedOp) -> Step:
    return APPROXIMATION_EMITTERS[type(op)](Context(Weights(ModuleOp([]))), op)


def case(name: str, built: Built, codes: IntType, x: Array, mask: Array | None = None, zero_point: int = 0) -> Case:
    """x: codes [..., N] as int64."""
    approximation, tables = built.approximation, arrays(built)
    match approximation:
        case SoftmaxApproximation():
            expected = approximation.apply(x, tables, mask, built.results)
        case FunctionApproximation():
            expected = (approximation.apply(x - zero_point, tables, built.results[0]),)
        case _:
            assert isinstance(approximation, LayerNormApproximation)
            expected = (approximation.apply(x, tables, built.results[0]),)
    op = operation(built, codes, x.shape, None if mask is None else mask.shape, zero_point)
    inputs = [x.astype(codes.dtype), *tables, *([] if mask is None else [mask])]
    return Case(name, step_of(op), inputs, expected)


def program(cases: Sequence[Case]) -> str:
    """A main that reads the operands of all cases, each into memory of exactly its size, and writes the results."""
    text = '#include <stdio.h>\n#include <stdlib.h>\n#include "qk_approx.h"\n'
    text += (
        "static void *get(size_t n) { void *p = malloc(n); if (!p || fread(p, 1, n, stdin) != n) exit(1); return p; }\n"
    )
    text += "static void put(void *p, size_t n) { if (fwrite(p, 1, n, stdout) != n) exit(1); free(p); }\n"
    main = ""
    for k, c in enumerate(cases):
        inputs = [(name, c_type(type_of(v))) for name, v in c.step.operands.items()]
        results = [(name, c_type(type_of(v))) for name, v in c.step.results.items()]
        parameters = [*(f"const {t} *{n}" for n, t in inputs), *(f"{t} *{n}" for n, t in results), "void *scratch"]
        text += f"static void case_{k}({', '.join(parameters)}) {{ /* {c.name} */\n{c.step.body}\n}}\n"
        sizes = [("malloc", a.nbytes, t) for a, (_, t) in zip(c.expected, results, strict=True)]
        sizes = [("get", a.nbytes, t) for a, (_, t) in zip(c.inputs, inputs, strict=True)] + sizes
        main += f"void *p{k}[] = {{{', '.join(f'{call}({size})' for call, size, _ in sizes)}}};\n"
        main += f"void *scratch{k} = malloc({c.step.scratch});\n"
        arguments = [f"({t} *)p{k}[{i}]" for i, (*_, t) in enumerate(sizes)]
        main += f"case_{k}({', '.join(arguments)}, scratch{k});\nfree(scratch{k});\n"
        main += "".join(
            f"{'put' if call == 'malloc' else 'free'}(p{k}[{i}]{f', {size}' if call == 'malloc' else ''});\n"
            for i, (call, size, _) in enumerate(sizes)
        )
    return f"{text}int main(void) {{\n{main}return 0;\n}}\n"


def run(cases: Sequence[Case], build: str, folder: Path) -> list[list[Array]]:
    """The results of all cases."""
    source, binary = folder / f"cases.{'cpp' if build == 'c++' else 'c'}", folder / "cases"
    source.write_text(program(cases))
    compiled = subprocess.run(
        [*BUILDS[build], *WARNINGS, "-I", str(KERNELS), str(source), "-o", str(binary)], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stderr
    data = b"".join(a.tobytes() for c in cases for a in c.inputs)
    done = subprocess.run([str(binary)], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found: list[list[Array]] = []
    at = 0
    for c in cases:
        found.append([])
        for a in c.expected:
            found[-1].append(np.frombuffer(done.stdout, a.dtype, a.size, at).reshape(a.shape))
            at += a.nbytes
    assert at == len(done.stdout)
    return found


def check(cases: Sequence[Case], build: str, folder: Path) -> None:
    for c, found in zip(cases, run(cases, build, folder), strict=True):
        for mine, theirs in zip(found, c.expected, strict=True):
            assert mine.tolist() == theirs.tolist(), c.name


def built_for(example: Example, codes: Codes, length: int) -> Built | None:
    """The approximation for such rows of codes; None where it cannot be made for them."""
    approximation = example.built.approximation
    rng = np.random.default_rng(length)
    try:
        match approximation:
            case SoftmaxApproximation():
                scale = approximation.preferred_scale(codes.scale)
                return type(approximation).build(SoftmaxSpec(replace(codes, scale=scale), length))
            case FunctionApproximation():
                output = Codes(Fraction(1, 20), 0, IntType(8))
                return type(approximation).build(FunctionSpec("gelu", codes, output))
            case _:
                assert isinstance(approximation, LayerNormApproximation)
                gamma, beta = rng.normal(1, 1, length), rng.normal(0, 0.5, length)
                factors = rng.integers(0, 4, length) if approximation.takes_factors else None
                output = Codes(Fraction(1, 30), 3, IntType(8))
                return type(approximation).build(LayerNormSpec(gamma, beta, 1e-5, codes, output, factors))
    except RangeError:
        return None


def inputs_of(codes: IntType, length: int) -> Array:
    """Rows of every kind."""
    reach = codes if codes.bits <= 16 else IntType(20, codes.signed)
    return rows(np.random.default_rng(length), (reach.lo, reach.hi), length, 3)


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
WIDER = (replace(WIDE, type=IntType(32)), replace(WIDE, type=IntType(32, False)), replace(WIDE, type=IntType(40)))
"""Of scores alone: others of so many bits are refused."""


def cases_of(examples: Sequence[Example]) -> Iterator[Case]:
    for example in examples:
        approximation, wanted = example.built.approximation, example.codes.type
        for length in LENGTHS:
            built = example.built if length == 17 and isinstance(approximation, FunctionApproximation) else None
            built = built or built_for(example, example.codes, length)
            assert built is not None, example.name
            yield from masked(f"{example.name} {wanted} {length}", built, example.codes, length)
        for codes in (*TYPES, *WIDER) if isinstance(approximation, SoftmaxApproximation) else TYPES:
            if (built := built_for(example, codes, 17)) is not None:
                yield from masked(f"{example.name} {codes.type} 17", built, codes, 17)


def masked(name: str, built: Built, codes: Codes, length: int) -> Iterator[Case]:
    """One case, and for softmax another with a mask."""
    x = inputs_of(codes.type, length)
    zero_point = codes.zero_point * bool(getattr(built.approximation, "centred", False))
    try:
        yield case(name, built, codes.type, x, None, zero_point)
    except OverflowError:  # of a published one, whose results may need more bits
        built = replace(built, results=(IntType(64),))
        yield case(name, built, codes.type, x, None, zero_point)
    if isinstance(built.approximation, SoftmaxApproximation):
        yield case(f"{name} masked", built, codes.type, x, masks(np.random.default_rng(length), x))


FAMILIES = {"softmax": SOFTMAX, "function": FUNCTION, "layer_norm": LAYER_NORM}


@cache
def cases_of_family(family: str) -> list[Case]:
    return list(cases_of([e for e in EXAMPLES if e.name in FAMILIES[family]]))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_approximation(family: str, build: str, tmp_path: Path) -> None:
    cases = cases_of_family(family)
    assert {c.name.split()[0] for c in cases} == set(FAMILIES[family])
    check(cases, build, tmp_path)
