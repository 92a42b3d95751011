"""Energy: events of one product against closed forms, and prices against their rules."""

from collections import Counter
from dataclasses import replace
from math import ceil, sqrt

import numpy as np
import pytest
from systolic_programs import I8, I32, LARGE, SMALL, Bench, packed

from qvit.backends.systolic.constants import Records
from qvit.backends.systolic.costs import FUNCTION_COSTS
from qvit.backends.systolic.energy import (
    COMPONENTS,
    Profile,
    ProfileError,
    energy,
    load_profile,
    node_energy,
    parse_profile,
    profile_names,
    ratios,
    sensitivity,
)
from qvit.backends.systolic.isa import Address, Dataflow, MatrixMultiply, Memory, Requantize, Threshold
from qvit.backends.systolic.machine import load_machine, machine_names
from qvit.backends.systolic.simulator import Events, Result
from qvit.dialects.semantics.integers import IntType

PROFILES = profile_names()
WS, OS = Dataflow
SHAPES = [(1, 40, 3), (17, 33, 18), (50, 70, 40)]
"""Rows, depth, columns."""


def product(shape: tuple[int, int, int], a_bits: int = 8, b_bits: int = 8, dataflow: Dataflow = WS) -> Result:
    """A x B from SPM and WBUF, and the sums brought to DRAM, with node numbers."""
    rows, depth, columns = shape
    found = Bench(SMALL)
    a, b = np.zeros((rows, depth), np.int8), np.zeros((columns, depth), np.int8)
    found.put(Memory.SPM, 0, a)
    weights = packed(b, b_bits)
    found.put(Memory.WBUF, 0, weights)
    multiply = MatrixMultiply(
        a=Address(0), a_row=depth, a_type=IntType(a_bits), b=Address(0), b_row=weights.shape[1], b_memory=Memory.WBUF,
        b_type=IntType(b_bits), transposed=1, acc=Address(0), acc_row=4 * columns, dataflow=dataflow,
        rows=rows, depth=depth, columns=columns,
    )  # fmt: skip
    found.add(multiply)
    found.sums(0, rows, columns, 4 * columns, 1 << 16)
    found.get("c", 1 << 16, (rows, columns), I32)
    return found.run()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("a_bits", "b_bits", "pair"), [(8, 8, "a8w8"), (8, 3, "a8w3"), (3, 3, "a3w3"), (2, 2, "a2w2")])
@pytest.mark.parametrize("dataflow", Dataflow)
def test_events_of_a_product(
    shape: tuple[int, int, int], a_bits: int, b_bits: int, pair: str, dataflow: Dataflow
) -> None:
    """Multiply-accumulates M K N; weights are read once, or for each row of tiles; sums are written for each tile of the
    contracted axis, or once, then read by the vector unit."""
    rows, depth, columns = shape
    r, c = SMALL.array.rows, SMALL.array.columns
    events = product(shape, a_bits, b_bits, dataflow).events
    assert events.macs == Counter({pair: rows * depth * columns})
    weights = columns * ceil(depth * b_bits / 8)
    tiles = ceil(depth / r)
    assert events.read["WBUF"] == weights * (1 if dataflow == WS else ceil(rows / r))
    assert events.written["WBUF"] == weights
    assert events.written["ACC"] == 4 * rows * columns * (tiles if dataflow == WS else 1)
    again = tiles - 1 if dataflow == WS else 0
    assert events.read["ACC"] == 4 * rows * columns * (again + 1)
    assert events.read["SPM"] == rows * depth * ceil(columns / c) + 4 * rows * columns


def test_comparators() -> None:
    found = Bench(SMALL)
    found.put(Memory.SPM, 0, np.zeros((5, 6), np.int8))
    found.put(Memory.CBUF, 0, np.arange(7, dtype="<i4"))
    found.add(
        Threshold(
            source=Address(0),
            source_memory=Memory.SPM,
            source_row=6,
            source_type=I8,
            target=Address(64),
            target_row=6,
            target_type=IntType(3),
            rows=5,
            columns=6,
            thresholds=Address(0),
            levels=7,
            lowest=-4,
        )
    )
    found.get("q", 64, (5, 6), IntType(3))
    events = found.run().events
    assert events.comparisons == 5 * 6 * 7
    assert energy(events, SMALL).components["requantize"] == pytest.approx(5 * 6 * 7 * load_profile(SMALL.energy).add)


def test_nodes_add_up() -> None:
    """Events of the nodes, also of words that go to no queue, are those of the whole."""
    found = Bench(SMALL)
    found.put(Memory.SPM, 0, np.zeros((4, 8), np.int32))
    one = np.ones(1, np.int64)
    found.put(Memory.CBUF, 0, Records(one, 0 * one, 0 * one, 0 * one).data())
    for node in (1, 2, 1):
        found.add(
            Requantize(
                source=Address(0),
                source_memory=Memory.SPM,
                source_row=32,
                source_type=I32,
                target=Address(1024),
                target_row=8,
                target_type=I8,
                rows=4,
                columns=8,
                records=Address(0),
                node=node,
            )
        )
    found.get("y", 1024, (4, 8), I8)
    result = found.run()
    program = replace(result.program, nodes=["first", "second"])
    result = replace(result, program=program)
    nodes = result.node_events
    assert set(nodes) == {"", "first", "second"}
    assert nodes["first"].operations == {"requantize": 64}
    assert nodes["first"].read["CBUF"] == 2 * nodes["second"].read["CBUF"] == 32
    for name in ("macs", "shifts", "read", "written", "operations"):
        assert sum((getattr(e, name) for e in nodes.values()), Counter()) == +getattr(result.events, name)
    for name in ("comparisons", "divisions", "words"):
        assert sum(getattr(e, name) for e in nodes.values()) == getattr(result.events, name)
    parts, whole = node_energy(result), energy(result.events, SMALL)
    for component in COMPONENTS:
        assert sum(e.components[component] for e in parts.values()) == pytest.approx(whole.components[component])


@pytest.mark.parametrize("name", PROFILES)
def test_the_array_alone(name: str) -> None:
    """Nothing but multiply-accumulates: M K N of their price, and nothing is missing."""
    profile = load_profile(name)
    price = profile.multiply_accumulate("a8w8")
    assert price is not None
    found = energy(Events(macs=Counter({"a8w8": 17 * 33 * 18})), SMALL, profile)
    assert found.missing == ()
    assert found.total == pytest.approx(17 * 33 * 18 * price)
    assert found.components["array"] == found.total


@pytest.mark.parametrize("name", PROFILES)
def test_wider_operands_cost_more(name: str) -> None:
    profile = load_profile(name)
    pairs = [pair for pair in SMALL.array.operands if profile.multiply_accumulate(pair) is not None]
    assert {"a8w8", "a4w4", "a3w3", "a2w2"} <= set(pairs)
    for a in pairs:
        for b in pairs:
            wide, narrow = (tuple(map(int, pair[1:].split("w"))) for pair in (a, b))
            if wide != narrow and wide[0] >= narrow[0] and wide[1] >= narrow[1]:
                assert profile.multiply_accumulate(a) > profile.multiply_accumulate(b)
    assert profile.multiply_accumulate("f32a8") > profile.multiply_accumulate("a8w8")
    for bits in range(1, 32):
        if profile.multiply:
            assert profile.multiplication(bits + 1, bits) > profile.multiplication(bits, bits)
            assert profile.multiplication(bits + 1, bits + 1) > profile.multiplication(bits, bits + 1)
        if profile.add is not None:
            assert profile.addition(bits + 1) > profile.addition(bits)
        if profile.sram_root is not None:
            assert profile.sram(2 << bits) > profile.sram(1 << bits)


def test_narrower_weights_cost_less_everywhere() -> None:
    """The whole program of one product, not its multiply-accumulates alone."""
    for name in ("horowitz-45nm", "tpuv4i-7nm"):
        totals = [
            energy(product((50, 70, 40), bits, bits).events, SMALL, load_profile(name)).total for bits in (8, 4, 3, 2)
        ]
        assert None not in totals
        assert totals == sorted(totals, reverse=True)
        assert len(set(totals)) == 4


def test_anchors_are_published_numbers() -> None:
    """64 bits of memories of 8 KB, 32 KB and 1 MB, within what the files say; products of 8 and 32 bits to the digit."""
    for name, products, accesses, off in [
        ("horowitz-45nm", (0.2, 3.1), (10, 20, 100), 0.14),
        ("tpuv4i-7nm", (0.07, 1.48), (7.5, 8.5, 14), 0.05),
    ]:
        profile = load_profile(name)
        assert (profile.multiplication(8, 8), profile.multiplication(32, 32)) == pytest.approx(products)
        found = [8 * profile.sram(size << 10) for size in (8, 32, 1024)]
        assert found == pytest.approx(accesses, rel=off)
    assert load_profile("accelergy-aladdin").multiplication(8, 8) == pytest.approx(12.68 / 16)
    # as calibrated: an element of 8 bits, and one of floats that were codes of 8 bits
    activity = load_profile("activity")
    assert activity.multiply_accumulate("a8w8") == pytest.approx(0.47, abs=0.005)
    assert activity.multiply_accumulate("f32a8") == pytest.approx(3.15, abs=0.005)


PROFILE = Profile(
    name="p", node="", source="", evidence="", add=32, multiply={8: 64, 32: 2048}, float_add=5, float_multiply=7,
    sram_fixed=1, sram_root=2, dram=100,
)  # fmt: skip


def test_prices_by_their_rules() -> None:
    """Each rule with round numbers."""

    def components(machine=SMALL, **events: object) -> dict[str, float]:
        found = energy(Events(**events), machine, PROFILE)
        assert found.missing == ()
        return {name: value for name, value in found.components.items() if value}

    assert PROFILE.multiplication(4, 8) == 32
    assert PROFILE.multiplication(16, 8) == 2048 * 128 / 1024
    assert components(macs=Counter(a4w4=10)) == {"array": 10 * (16 + 32)}
    assert components(macs=Counter(f32a8=10)) == {"array": 10 * 12}
    assert components(shifts=Counter(a8w8=10)) == {"array": 10 * 2 * 32}
    assert components(operations=Counter(requantize=10)) == {"requantize": 10 * (2048 + 2 * 32)}
    assert components(operations=Counter(add_requantize=10)) == {"requantize": 10 * (2 * 2048 + 5 * 32)}
    shifts = load_machine("p2-vit")
    assert components(shifts, operations=Counter(requantize=10)) == {"requantize": 10 * 3 * 32}
    assert components(comparisons=10) == {"requantize": 10 * 32}
    assert components(operations=Counter(threshold=10, copy=10)) == {}
    assert components(operations=Counter(arithmetic=10, reduce=1), divisions=2) == {"vector": 11 * 32 + 2 * 32 * 32}
    steps = FUNCTION_COSTS["shiftmax"].element_steps
    assert components(operations=Counter(shiftmax=30)) == {"vector": 30 * (2048 + 2 * 32) + 10 * steps * 32}
    assert components(operations=Counter(dequantize=10, quantize=1, float=2)) == {"vector": 13 * 7 + 2 * 5}
    bank = SMALL.memory.activations // SMALL.memory.banks // 1024
    assert components(read=Counter(SPM=3), written=Counter(SPM=4)) == {"SPM": pytest.approx(7 * (1 + 2 * sqrt(bank)))}
    assert components(read=Counter(WBUF=3)) == {"WBUF": pytest.approx(3 * (1 + 2 * sqrt(128 / 16)))}
    assert components(LARGE, read=Counter(ACC=3)) == {"ACC": pytest.approx(3 * (1 + 2 * sqrt(512 / 32)))}
    assert components(read=Counter(CBUF=3, DRAM=2)) == {"CBUF": pytest.approx(3 * (1 + 2 * sqrt(64))), "DRAM": 200}
    assert components(words=2) == {"control": pytest.approx(2 * 32 * (1 + 2 * sqrt(64)))}


def test_what_has_no_price_is_missing() -> None:
    events = product((17, 33, 18)).events
    found = sensitivity(events, SMALL)
    assert set(found) == set(PROFILES)
    assert found["activity"].missing == ("requantize", "SPM", "WBUF", "ACC", "CBUF", "DRAM", "control")
    assert found["accelergy-aladdin"].missing == ("SPM", "WBUF", "ACC", "CBUF", "DRAM", "control")
    assert found["activity"].total is None
    for e in found.values():
        assert not set(e.missing) & set(e.components)
        assert set(e.missing) | set(e.components) == set(COMPONENTS)
    fewer = sensitivity(product((17, 33, 18), 2, 2).events, SMALL)
    assert set(ratios(found, fewer)) == {"horowitz-45nm", "tpuv4i-7nm"}
    assert set(ratios(found, fewer, "array")) == set(PROFILES)
    assert ratios(found, fewer, "array")["activity"] == pytest.approx(938 / 284)
    # widths that nobody measured are not guessed
    assert "array" in energy(Events(macs=Counter(a8w3=1)), SMALL, load_profile("activity")).missing


def test_machines_have_profiles() -> None:
    for name in machine_names():
        assert load_profile(load_machine(name).energy).name == load_machine(name).energy


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_say_where_they_come_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert all((profile.node, profile.source, profile.evidence))


HEAD = 'name = "p"\nnode = "n"\nsource = "s"\nevidence = "e"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a =", "p: no TOML"),
        (HEAD + "watts = 1", "p: unknown key watts; known are name, "),
        (HEAD.replace('source = "s"\n', ""), "p: source: expected a string, found none"),
        (HEAD + "add = -1", "p: add: expected a number that is not negative, found -1"),
        (HEAD + "add = true", "p: add: expected a number"),
        (HEAD + "dram = nan", "p: dram: expected a number"),
        (HEAD + "mac = 3", "p: mac: expected a table, found 3"),
        (HEAD + "[mac]\na8w8 = 'x'", "p: mac.a8w8: expected a number"),
        (HEAD + "[multiply]\nwide = 1", "p: multiply: expected widths, found wide"),
        (HEAD + "[multiply]\n0 = 1", "p: multiply: expected widths, found 0"),
    ],
)
def test_damaged_profiles(text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_profile(text, "p")


def test_no_such_profile() -> None:
    with pytest.raises(ProfileError, match="nothing: no such profile or file; profiles are accelergy-aladdin, "):
        load_profile("nothing")
