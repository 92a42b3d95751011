"""Whole programs: what comes out is what the interpreter computes, on every machine, however it is ordered."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from import_matrix import feeds, fixture_path, symbols
from import_matrix import load as load_onnx
from integer_graphs import inputs_for, integer_graph
from ir_text import function, parse
from xdsl.dialects.builtin import ModuleOp, i32

from qvit.backends.interpreter import run
from qvit.backends.systolic.isa import Dataflow, Loop, MatrixMultiply, Queue
from qvit.backends.systolic.lowering.build import LoweringError, Options
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import Machine, load_machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator import Result, simulate
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.semantics.integers import Array
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

SMALL = load_machine("small")


@cache
def compiled(name: str, scheme: str) -> tuple[ModuleOp, list[Array], list[Array]]:
    """(a module of integers, codes, what the interpreter makes of them)."""
    proto = load_onnx(fixture_path(name))
    rng = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in feeds(proto, symbols(proto)).items()}
    batches = [{name: rng.normal(0.3, 1, shape) for name, shape in shapes.items()} for _ in range(3)]
    module, _ = import_onnx(proto, (), symbols(proto))
    compile_model(module, batches[:2], SCHEMES[scheme])
    codes = list(run(module, batches[2], function=QUANTIZE_INPUTS).values())
    return module, codes, list(run(module, codes, integers_only=True).values())


def simulated(
    module: ModuleOp, codes: Sequence[Array], machine: Machine, options: Options | None = None, **rest: Any
) -> Result:
    program = lower(module, machine, options)
    return simulate(program, {port.name: array for port, array in zip(program.inputs, codes, strict=True)}, **rest)


def require_equal(result: Result, expected: Sequence[Array]) -> None:
    assert [array.tolist() for array in result.outputs.values()] == [array.tolist() for array in expected]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(scheme: str) -> None:
    module, codes, expected = compiled("vit_legacy17", scheme)
    require_equal(simulated(module, codes, SMALL), expected)


@pytest.mark.parametrize(
    "name",
    [
        "deit_legacy17",
        "timm_swin_legacy17",
        "swin_padded_legacy17",
        "dinov2_legacy17",
        "mobilevit_legacy17",
        "timm_vit_mean_legacy17",
        "torch_encoder_legacy17",
    ],
)
def test_architectures(name: str) -> None:
    """Windows with masks, convolutions in groups and with edges, pooling, two heads."""
    module, codes, expected = compiled(name, "best")
    require_equal(simulated(module, codes, SMALL), expected)


OPTIONS = {
    "outputs stay": Options(dataflow=Dataflow.OUTPUT_STATIONARY),
    "no row pipelining": Options(row_pipelining=False),
    "no streaming": Options(streaming=False),
    "no double buffering": Options(double_buffering=False),
    "none": Options(row_pipelining=False, streaming=False, double_buffering=False),
}


@pytest.mark.parametrize("name", ["vit_legacy17", "timm_swin_legacy17"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_switches_change_times_alone(name: str, options: Options) -> None:
    module, codes, expected = compiled(name, "best")
    require_equal(simulated(module, codes, SMALL, options), expected)


def test_what_is_switched_off_costs_cycles() -> None:
    module, codes, _ = compiled("vit_legacy17", "best")
    plain, none = (simulated(module, codes, SMALL, options).cycles for options in (Options(), OPTIONS["none"]))
    assert plain < none
    for name in ("no row pipelining", "no streaming", "no double buffering"):
        assert plain < simulated(module, codes, SMALL, OPTIONS[name]).cycles <= none


@pytest.mark.parametrize("seed", range(3))
def test_any_order_that_tokens_allow(seed: int) -> None:
    module, codes, expected = compiled("vit_legacy17", "i-vit")
    require_equal(simulated(module, codes, SMALL, seed=seed), expected)


@pytest.mark.parametrize("size", [1 << 16, 1 << 14, 1 << 13])
def test_tensors_that_do_not_fit_live_in_dram(size: int) -> None:
    machine = replace(SMALL, memory=replace(SMALL.memory, activations=size))
    module, codes, expected = compiled("vit_legacy17", "best")
    require_equal(simulated(module, codes, machine), expected)


@pytest.mark.parametrize(
    "body",
    [
        ["%y = qvit.transpose %x [1, 0, 2] : tensor<6x40x32xi8> -> tensor<40x6x32xi8>"],
        ["%y = qvit.transpose %x [0, 2, 1] : tensor<6x40x32xi8> -> tensor<6x32x40xi8>"],
        [
            "%a = qvit.slice %x axis 0 start 0 size 3 step 1 : tensor<6x40x32xi8> -> tensor<3x40x32xi8>",
            "%b = qvit.slice %x axis 0 start 3 size 3 step 1 : tensor<6x40x32xi8> -> tensor<3x40x32xi8>",
            "%y = qvit.concat %b, %a axis 0 : (tensor<3x40x32xi8>, tensor<3x40x32xi8>) -> tensor<6x40x32xi8>",
        ],
    ],
    ids=["rows", "elements", "runs"],
)
def test_copies_larger_than_the_memory(body: list[str]) -> None:
    """From DRAM to DRAM by way of the chip, in parts: of planes, of rows, of one long run."""
    machine = replace(SMALL, memory=replace(SMALL.memory, activations=1 << 12))
    module = parse(function(body, {"%x": "tensor<6x40x32xi8>"}))
    x = np.random.default_rng(0).integers(-128, 128, (6, 40, 32)).astype(np.int8)
    require_equal(simulated(module, [x], machine), list(run(module, [x]).values()))


@pytest.mark.parametrize(("memory", "size"), [("accumulators", 4096), ("weights", 1024), ("constants", 2048)])
def test_small_memories(memory: str, size: int) -> None:
    machine = replace(SMALL, memory=replace(SMALL.memory, **{memory: size}))
    module, codes, expected = compiled("vit_legacy17", "best")
    require_equal(simulated(module, codes, machine), expected)


def test_other_arrays() -> None:
    module, codes, expected = compiled("vit_legacy17", "best")
    for rows, columns in ((8, 8), (32, 32), (16, 64)):
        machine = replace(SMALL, array=replace(SMALL.array, rows=rows, columns=columns))
        require_equal(simulated(module, codes, machine), expected)


def test_the_machine_of_a_scheme() -> None:
    """Shifts alone: P2-ViT runs on its machine, what multiplies is refused with the reason."""
    module, codes, expected = compiled("vit_legacy17", "p2-vit")
    require_equal(simulated(module, codes, load_machine("p2-vit")), expected)
    with pytest.raises(LoweringError, match="machine p2-vit: it has no multipliers: expected 1, found"):
        lower(compiled("vit_legacy17", "best")[0], load_machine("p2-vit"))
    with pytest.raises(LoweringError, match="machine lin-shah: the array does not shift"):
        lower(module, load_machine("lin-shah"))


def test_a_program_that_does_not_fit() -> None:
    machine = replace(SMALL, memory=replace(SMALL.memory, activations=2048))
    with pytest.raises(
        LoweringError, match=r"machine small: SPM: \w+ needs \d+ bytes in one piece; of what it may use \d+"
    ):
        lower(compiled("vit_legacy17", "best")[0], machine)


def test_a_program_with_floats() -> None:
    proto = load_onnx(fixture_path("vit_legacy17"))
    module, _ = import_onnx(proto, (), symbols(proto))
    with pytest.raises(LoweringError, match="expected integers, found tensor.*--integerize first"):
        lower(module, SMALL)


def test_tokens_keep_the_order() -> None:
    """Without any of its waits a program races, or another count of tokens stops it: each is needed."""
    module, codes, _ = compiled("vit_legacy17", "best")
    program = lower(module, SMALL)
    inputs = {port.name: array for port, array in zip(program.inputs, codes, strict=True)}
    waiting = [at for at, instruction in enumerate(program.instructions) if instruction.wait]
    rng = np.random.default_rng(0)
    for at in rng.choice(waiting, 12, replace=False):
        instructions = list(program.instructions)
        instructions[at] = replace(instructions[at], wait=0)
        with pytest.raises(Exception, match=r"instruction \d+"):
            simulate(replace(program, instructions=instructions), inputs)


def test_repetition_becomes_loops() -> None:
    """On a machine with few columns a layer has many tiles; without loops the program runs alike."""
    machine = replace(SMALL, memory=replace(SMALL.memory, weights=2048), control=replace(SMALL.control, queue=8))
    module, codes, expected = compiled("timm_swin_legacy17", "best")
    result = simulated(module, codes, machine)
    require_equal(result, expected)
    program = lower(module, machine)
    assert any(isinstance(instruction, Loop) for instruction in program.instructions)
    assert len(program.instructions) < len(result.steps)


def test_the_array_is_what_takes_the_time() -> None:
    """All multiply-accumulates of the model are done in the array, and no others."""
    module, codes, _ = compiled("vit_legacy17", "best")
    program = lower(module, SMALL)
    macs = sum(i.rows * i.depth * i.columns for i in program.instructions if isinstance(i, MatrixMultiply))
    result = simulated(module, codes, SMALL)
    assert macs <= sum(result.events.macs.values())
    assert {step.queue for step in result.steps} == set(Queue)


def lowered_or_reason(module: ModuleOp) -> Program | str:
    try:
        return lower(module, SMALL)
    except LoweringError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs(seed: int) -> None:
    """Every integer operation, or a reason; where the interpreter finds a sum that does not fit the machine stops."""
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, int(rng.integers(1, 7)), ("dyadic", "pot"), False, i32)
    program = lowered_or_reason(module)
    if isinstance(program, str):
        assert any(reason in program for reason in REFUSED), program
        return
    for values in inputs_for(module, rng, 2):
        inputs = {port.name: array for port, array in zip(program.inputs, values, strict=True)}
        try:
            expected = list(run(module, values).values())
        except Exception:
            with pytest.raises(Exception, match="instruction"):
                simulate(program, inputs)
            continue
        require_equal(simulate(program, inputs), expected)


REFUSED = (
    "more than 32 bits",
    "computed at run time",
    "the array takes",
    "zero point",
    "not the last",
    "no stride reaches",
)


@pytest.mark.parametrize(
    "levels", [[5, 1 << 31], [1 << 31, 1 << 40], [-(1 << 40), 5], [[5, 1 << 31], [7, 1 << 31]]], ids=str
)
def test_thresholds_beyond_32_bits(levels: list[Any]) -> None:
    """The largest number does not reach what is beyond it."""
    x = np.array([[-(1 << 31), 5], [(1 << 31) - 2, 0], [(1 << 31) - 1, (1 << 31) - 1]], np.int32)
    module = comparators(levels)
    require_equal(simulated(module, [x], SMALL), list(run(module, [x]).values()))


def test_thresholds_beyond_32_bits_of_some_channels() -> None:
    with pytest.raises(LoweringError, match="a threshold of some channels, less its bias, is beyond 2147483647"):
        lower(comparators([[5, 1 << 31], [7, 9]]), SMALL)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thresholds_along_an_axis(axis: int) -> None:
    """Of heads, of rows and of columns."""
    shape, rng = (3, 70, 5), np.random.default_rng(axis)
    x = rng.integers(-100, 100, shape).astype(np.int32)
    levels = np.sort(rng.integers(-100, 100, (shape[axis], 7)), axis=1)
    body = [
        f"%t = qvit.constant dense<{levels.tolist()}> : tensor<{shape[axis]}x7xi32>",
        f"%y = qvit.threshold %x, %t lowest -4 axis {axis} : (tensor<3x70x5xi32>, tensor<{shape[axis]}x7xi32>)"
        " -> tensor<3x70x5xi3>",
    ]
    module = parse(function(body, {"%x": "tensor<3x70x5xi32>"}))
    require_equal(simulated(module, [x], SMALL), list(run(module, [x]).values()))


def comparators(levels: list[Any]) -> ModuleOp:
    """i32 [3, 2] -> codes of 4 bits, from 0 on; levels: of all, or for each of the two columns."""
    per_column = isinstance(levels[0], list)
    shape = f"{'2x' if per_column else ''}2"
    axis = " axis 1" if per_column else ""
    body = [
        f"%t = qvit.constant dense<{levels}> : tensor<{shape}xi64>",
        f"%y = qvit.threshold %x, %t lowest 0{axis} : (tensor<3x2xi32>, tensor<{shape}xi64>) -> tensor<3x2xi4>",
    ]
    return parse(function(body, {"%x": "tensor<3x2xi32>"}))
