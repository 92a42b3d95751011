"""The benchmark of the systolic machine: what it builds, the closed forms of floats, and how figures are made of runs."""

import json
from dataclasses import replace
from pathlib import Path

import hardware
import models
import numpy as np
import pytest
import self_attention as attention
from hardware import Latency, Swept
from self_attention import Shape, dequantized_first, matmul_operands, thresholds
from vit import Vit
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import find_function, run
from qvit.backends.systolic.energy import Energy
from qvit.backends.systolic.isa import MatrixMultiply, Queue, Threshold
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.simulator import Result, simulate, timeline
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.semantics.quantization import requantize_dyadic, threshold
from qvit.dialects.types import shape_of

TINY = Vit(32, 2, depth=2, image=32, classes=5)
SHAPE = Shape(21, 24, 3)
WIDTHS = (8, 4, 3, 2)


def codes(shape: Shape, bits: int) -> np.ndarray:
    held = IntType(bits)
    return (
        np.random.default_rng(3).integers(held.lo, held.hi, (1, shape.tokens, shape.dim), endpoint=True).astype(np.int8)
    )


# --- self-attention --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_thresholds_are_the_requantization(bits: int) -> None:
    """Around each threshold, and at the ends of 32 bits."""
    held, zero = IntType(bits), np.array(0)
    for multiplier, shift in [(1, 0), (3, 4), (12345, 20), (1, 24), (1 << 28, 24)]:
        found = thresholds(multiplier, shift, held)
        near = (found[:, None] + np.arange(-2, 3)).reshape(-1)
        x = np.concatenate([near, [-(1 << 31), -1, 0, 1, (1 << 31) - 1]]).clip(-(1 << 31), (1 << 31) - 1)
        expected = requantize_dyadic(x, np.array(multiplier), np.array(shift), (zero, zero), Rounding.HALF_UP, held)
        reached = (
            expected.max() - held.lo
        )  # a code that no number of 32 bits has keeps the highest of them as its threshold
        assert np.array_equal(threshold(x, found[:reached], None, held.lo, held), expected)


@pytest.fixture(scope="module", params=WIDTHS)
def attended(request: pytest.FixtureRequest) -> tuple[int, ModuleOp, Result]:
    module = attention.self_attention(SHAPE, request.param)
    return request.param, module, hardware.simulated(module, lower(module, load_machine("lin-shah")))


def test_comparators_stand_for_requantization(attended: tuple[int, ModuleOp, Result]) -> None:
    bits, module, result = attended
    x = codes(SHAPE, bits)
    (expected,) = run(attention.self_attention(SHAPE, bits, comparators=False), [x], integers_only=True).values()
    (found,) = run(module, [x], integers_only=True).values()
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) >= min(1 << bits, 3)  # numbers that mean something
    levels = {s.instruction.levels for s in result.steps if isinstance(s.instruction, Threshold)}
    assert levels == ({(1 << bits) - 1} if bits <= 4 else set())


def test_the_array_takes_codes_of_that_width(attended: tuple[int, ModuleOp, Result]) -> None:
    bits, _, result = attended
    tokens, dim, heads = SHAPE.tokens, SHAPE.dim, SHAPE.heads
    assert result.events.macs == {f"a{bits}w{bits}": 4 * tokens * dim**2 + 2 * tokens**2 * dim}
    assert result.events.comparisons == (5 * tokens * dim * ((1 << bits) - 1) if bits <= 4 else 0)
    assert result.events.operations["sm8"] == 3 * heads * tokens**2


def test_operands(attended: tuple[int, ModuleOp, Result]) -> None:
    """Those of the module's products, each tensor once; a head's view of a tensor has as many elements as the tensor."""
    _, module, _ = attended
    products = [op for op in find_function(module).walk() if isinstance(op, LinearOp | MatmulOp)]
    seen = {operand: shape_of(operand) for op in products for operand in op.operands[:2]}
    assert sum(int(np.prod(shape)) for shape in seen.values()) == matmul_operands(SHAPE)


def test_floats(attended: tuple[int, ModuleOp, Result]) -> None:
    """The same multiply-accumulates and the same DRAM; four bytes for every element on the chip; lanes that dequantize."""
    bits, _, result = attended
    before = dequantized_first(result, SHAPE, bits)
    events, integers = before.events, result.events
    assert events.macs == {f"f32a{bits}": result.macs}
    assert events.read["SPM"] == 4 * integers.read["SPM"]
    products = [s.instruction for s in result.steps if isinstance(s.instruction, MatrixMultiply)]
    weights = sum(i.depth * i.columns for i in products if i.b_memory == 1)
    assert events.read["WBUF"] == 4 * weights
    for memory in ("DRAM", "ACC"):
        assert (events.read[memory], events.written[memory]) == (integers.read[memory], integers.written[memory])
    assert events.operations["dequantize"] == matmul_operands(SHAPE)
    assert events.comparisons == 0
    lanes = result.busy[Queue.VECTOR] + -(-matmul_operands(SHAPE) // 16)
    assert before.cycles == max(lanes, result.busy[Queue.MATRIX], result.busy[Queue.LOAD], result.busy[Queue.STORE])
    # what was handed in is as it was
    assert integers.macs == {f"a{bits}w{bits}": result.macs}


def test_gains() -> None:
    """More for fewer bits, by every profile; the activity of floats was measured for codes of 8 and 3 bits."""
    found = {bits: hardware.gains(*hardware.pair(SHAPE, bits)) for bits in WIDTHS}
    assert set(found[8]["all"]) == {"horowitz-45nm", "tpuv4i-7nm"}
    for bits in WIDTHS:
        assert ("activity" in found[bits]["element"]) == (bits in (8, 3))
        assert min(*found[bits]["all"].values(), *found[bits]["element"].values()) > 1
    assert found[8]["element"]["activity"] == pytest.approx(6255 / 938)
    assert found[3]["element"]["activity"] == pytest.approx(3900 / 372)
    for profile in ("horowitz-45nm", "tpuv4i-7nm", "accelergy-aladdin"):
        ratios = [found[bits]["element"][profile] for bits in WIDTHS]
        assert ratios == sorted(ratios)


def test_wrong_values_are_no_figures() -> None:
    module = attention.self_attention(SHAPE, 4)
    other = attention.self_attention(SHAPE, 4, seed=1)
    with pytest.raises(models.Unavailable, match="is not what the interpreter computes"):
        hardware.simulated(other, lower(module, load_machine("lin-shah")))


# --- latencies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "part"),
    [
        ("blocks.0.norm1/LayerNormalization", "attention"),
        ("blocks.11.attn/MatMul_1", "attention"),
        ("blocks.3.attn.proj/Add", "attention"),
        ("blocks.0/Add", "attention"),
        ("blocks.0.norm2/LayerNormalization", "MLP"),
        ("blocks.0.mlp.act/Mul_1", "MLP"),
        ("blocks.0.mlp.fc2/Add", "MLP"),
        ("blocks.10/Add_1", "MLP"),
        ("patch_embed/Conv", "other"),
        ("norm/LayerNormalization", "other"),
        ("", "other"),
    ],
)
def test_parts(node: str, part: str) -> None:
    assert hardware.part_of(node) == part


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hardware.MODELS, "tiny", TINY)
    monkeypatch.setitem(hardware.LEAST, "tiny", 0.999)


@pytest.mark.usefixtures("tiny")
def test_latencies(cache: Path) -> None:
    """Parts add up; the timeline is that of the simulation; pipelining changes times, but no work and no result."""
    module, machine = hardware.compiled("best", "tiny", cache), load_machine("small")
    found = hardware.ablation(module, machine)
    assert set(found) == set(hardware.PUBLISHED)
    program = lower(module, machine)
    result = simulate(program, hardware.inputs(program))
    steps, timed = timeline(program)
    assert (list(steps), timed.start, timed.end) == (list(result.steps), result.schedule.start, result.schedule.end)
    both = found[True, True]
    assert both.cycles == result.cycles
    assert (both.matrix, both.vector) == (result.busy[Queue.MATRIX], result.busy[Queue.VECTOR])
    assert all(row.parts[part] > 0 for row in found.values() for part in hardware.PARTS)
    assert len({row.matrix for row in found.values()}) == 1
    assert found[False, False].cycles > both.cycles
    rows = hardware.normalised(found)
    assert rows[True, True] == (1, 1, 1)
    assert rows[False, False][2] == found[False, False].cycles / both.cycles


def test_normalised() -> None:
    both = Latency({"attention": 10, "MLP": 20, "other": 10}, 0, 0)
    none = Latency({"attention": 15, "MLP": 24, "other": 11}, 0, 0)
    found = hardware.normalised({(True, True): both, (False, False): none})
    assert found == {(True, True): (1, 1, 1), (False, False): (1.5, 1.2, 1.25)}


def test_verdict() -> None:
    rows = [
        Swept(8, 16, 100, 1.6, 1.7, 0.9, 0.7),
        Swept(16, 16, 50, 1.1, 1.57, 0.5, 0.9),
        Swept(32, 8, 40, 1.0, 1.2, 0.2, 1),
    ]
    assert hardware.verdict(rows, 1.57) == (
        "Pipelining gains 1.57 or more on 1 of 3 machines; most, 1.60 at 8 x 8 with 16 lanes (array busy 90%, lanes 70%);"
        " least, 1.00 at 32 x 32 with 8 lanes (array busy 20%, lanes 100%). If the busier unit never waited it would on 2."
    )
    assert hardware.verdict([], 1.57) == "No machine was tried."


def test_requantized() -> None:
    before = Energy("p", {"requantize": 30.0, "array": 70.0})
    after = Energy("p", {"requantize": 10.0, "array": 70.0})
    assert hardware.requantized((1500, before), (500, after)) == (
        "Shifts in the place of multipliers: 3.0 times less energy of requantization, 1.250 times less of all (p), 16.6 times"
        " fewer look-up tables of its unit, 1,000 fewer cycles."
    )
    unpriced = Energy("p", {"array": 70.0}, ("requantize",))
    assert hardware.requantized((1, unpriced), (1, unpriced)) == "Requantization has no price."


def test_resized() -> None:
    machine = load_machine("p2-vit")
    assert hardware.resized(machine, 16, 16) == machine
    larger = hardware.resized(machine, 32, 64)
    assert (larger.array.rows, larger.array.columns, larger.vector.lanes) == (32, 32, 64)
    assert larger.memory == replace(machine.memory, accumulators=2 * machine.memory.accumulators)
    assert hardware.resized(machine, 8, 16).memory == machine.memory


# --- the command -----------------------------------------------------------------------------------------------------


def test_lin_shah(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(hardware, "DEIT_S", SHAPE)
    hardware.main(["lin-shah", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert printed.count("dequantized first  ") == printed.count("delayed  ") == len(WIDTHS)
    assert "takes more energy than delayed by every profile and at every width: " in printed
    found = json.loads((tmp_path / "found.json").read_text())["lin-shah"]
    luts = [design["luts"] for row in found["widths"] for design in row["designs"]]
    assert luts == [2143, 249, 2143, 90, 2143, 73, 2143, 69]
    assert all(d["energies"]["horowitz-45nm"]["missing"] == [] for row in found["widths"] for d in row["designs"])


@pytest.mark.usefixtures("tiny")
def test_p2_vit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path
) -> None:
    monkeypatch.setattr(hardware, "ARRAYS", (8, 16))
    monkeypatch.setattr(hardware, "LANES", (16,))
    path = tmp_path / "found.json"
    hardware.main(["p2-vit", "--models", "tiny", "--json", str(path), "--cache", str(cache)])
    printed = capsys.readouterr().out
    assert "1.79    1.15    1.57" in printed
    found = json.loads(path.read_text())["p2-vit"]["tiny"]
    assert [(run["scheme"], run["machine"]) for run in found["runs"]] == list(hardware.RUNS)
    on_small, on_own = found["runs"][2:]
    assert on_small["cases"] == on_own["cases"]
    requantize = [run["energy"]["horowitz-45nm"]["components"]["requantize"] for run in (on_small, on_own)]
    assert requantize[0] > requantize[1]
    assert [(row["rows"], row["lanes"]) for row in found["sweep"]] == [(8, 16), (16, 16)]
    assert found["verdict"] in printed
    assert found["requantization"] in printed
    for row in found["sweep"]:
        assert 1 <= row["gain"] <= row["limit"]


@pytest.mark.usefixtures("tiny")
def test_utilisation(capsys: pytest.CaptureFixture[str], tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "found.json"
    hardware.main(["utilisation", "--models", "tiny", "--json", str(path), "--cache", str(cache)])
    printed = capsys.readouterr()
    assert "note: tiny on small uses 0." in printed.err
    rows = json.loads(path.read_text())["utilisation"]["rows"]
    assert [row["machine"] for row in rows] == ["small", "large"]
    program = lower(hardware.compiled("best", "tiny", cache), load_machine("small"))
    result = simulate(program, hardware.inputs(program))
    assert (rows[0]["cycles"], rows[0]["utilisation"]) == (result.cycles, result.utilisation)
    assert rows[0]["words"] == 32 * len(program.instructions)
    assert rows[0]["exposed"] == sum(result.exposed)
    assert set(rows[0]["energy"]) == {"horowitz-45nm", "tpuv4i-7nm"}


def test_no_such_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hardware.main(["utilisation", "--models", "nothing"])
    assert "no such model: nothing" in capsys.readouterr().err
