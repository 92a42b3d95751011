"""What two papers claim of accelerators for integer vision transformers, on the systolic machine; and how busy its array is.

    python bench/hardware.py lin-shah [--json FILE]
    python bench/hardware.py p2-vit [--models deit-t] [--json FILE]
    python bench/hardware.py utilisation [--models deit-t,deit-s,vit-b] [--json FILE]

lin-shah: self-attention of DeiT-S with dequantization behind its products, lowered for the machine lin-shah and simulated
(values equal the interpreter's, else it stops), beside the same tiles in floats of 32 bits, which is a cost model
(bench/self_attention.py). Energy by every profile that has the prices; area: look-up tables of an element
(bench/lut_counts.json).

p2-vit: whole models; requantization by multipliers (best, i-vit on small) and by shifts (p2-vit on p2-vit), pipelining
between operations (inter: Options.streaming) and of the rows of one (intra: Options.row_pipelining) on and off. A cycle
belongs to the part, attention or MLP, whose instruction ends next. Lanes and the array are swept.

utilisation: whole models on small and large. Models have random weights (bench/vit.py), which change no cycle; files are
kept in --cache, else $QVIT_CACHE, else ~/.cache/qvit/bench.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import cpu
import models
import numpy as np
from engines import made
from self_attention import DEIT_S, Shape, dequantized_first, self_attention
from vit import MODELS
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.backends.systolic.energy import Energy, energy, ratios, sensitivity
from qvit.backends.systolic.isa import WORD_BYTES, Queue
from qvit.backends.systolic.lowering.build import LoweringError, Options
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import Machine, load_machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator import Result, simulate, timeline
from qvit.backends.systolic.simulator.result import busy_cycles
from qvit.dialects.atomic import write_text
from qvit.tools.common import read_mlir
from qvit.tools.progress import progress

LUTS: dict[str, Any] = json.loads((Path(__file__).parent / "lut_counts.json").read_text())


def inputs(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
    """Random codes for the inputs of a program, by name."""
    rng = np.random.default_rng(seed)
    return {
        port.name: rng.integers(port.type.lo, port.type.hi, port.shape, endpoint=True).astype(port.type.dtype)
        for port in program.inputs
    }


def simulated(module: ModuleOp, program: Program) -> Result:
    """A run on random codes; Unavailable where a value is not the interpreter's, for figures of wrong programs are worthless."""
    given = inputs(program)
    result = simulate(program, given)
    expected = run(module, list(given.values()), integers_only=True)
    for (name, found), wanted in zip(result.outputs.items(), expected.values(), strict=True):
        if not np.array_equal(found, wanted):
            raise models.Unavailable(f"{name} is not what the interpreter computes")
    return result


def span(values: Mapping[str, float]) -> str:
    """The lowest and the highest, of however many profiles."""
    if not values:
        return "-"
    low, high = min(values.values()), max(values.values())
    return f"{low:.2f}" if len(values) == 1 else f"{low:.2f}..{high:.2f} ({len(values)})"


def cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# --- Lin and Shah ----------------------------------------------------------------------------------------------------

BITS = (8, 4, 3, 2)
INTEGER, FLOAT = "delayed", "dequantized first"


@dataclass(frozen=True)
class Design:
    """Self-attention at one width. cycles: of the float design the fewest possible; dram: bytes; energies: pJ by profile and
    component; per_element: pJ of an element of the array by profile; luts: of an element."""

    bits: int
    design: str
    machine: str
    cycles: int
    dram: int
    energies: Mapping[str, Energy]
    per_element: Mapping[str, float]
    luts: int


def design(bits: int, name: str, machine: Machine, cycles: int, events: Any) -> Design:
    elements = machine.array.rows * machine.array.columns
    found = sensitivity(events, machine)
    each = {p: e.components["array"] / elements for p, e in found.items() if "array" in e.components}
    luts = LUTS["elements"]["f32" if name == FLOAT else f"a{bits}w{bits}"]
    return Design(bits, name, machine.name, cycles, events.read["DRAM"] + events.written["DRAM"], found, each, luts)


def pair(shape: Shape, bits: int) -> tuple[Design, Design]:
    """(dequantization first, dequantization behind the products)"""
    module = self_attention(shape, bits)
    result = simulated(module, lower(module, load_machine("lin-shah")))
    before = dequantized_first(result, shape, bits)
    return (
        design(bits, FLOAT, load_machine("baseline-fp"), before.cycles, before.events),
        design(bits, INTEGER, result.program.machine, result.cycles, result.events),
    )


def gains(first: Design, delayed: Design) -> dict[str, dict[str, float]]:
    """How many times the energy of the delayed design the other takes, by profile: of all and of an element of the array."""
    return {
        "all": ratios(first.energies, delayed.energies),
        "element": ratios(first.energies, delayed.energies, "array"),
    }


def show_designs(first: Design, delayed: Design) -> None:
    own = load_machine(first.machine).energy
    gain = gains(first, delayed)
    for row in (first, delayed):
        total = row.energies[own].total
        figures = f"{row.cycles:>10,}{row.dram / 1024:>9.0f}{cell(None if total is None else total / 1e6):>9}"
        figures += f"{row.per_element[own] / 1e3:>10.1f}{row.luts:>7,}"
        print(f"  {row.bits:>4}  {row.design:<18}{figures}", end="")
        print(f"{span(gain['all']):>22}{span(gain['element']):>22}" if row is first else "", flush=True)


def lin_shah(args: argparse.Namespace) -> dict[str, Any]:
    own = load_machine("lin-shah").energy
    print(
        f"self-attention of DeiT-S, {DEIT_S.tokens} tokens; uJ and nJ by {own}; ratios: dequantized first over delayed,"
    )
    print("over all profiles that have a price (how many); cycles of the float design: the fewest possible")
    titles = f"{'cycles':>10}{'DRAM KB':>9}{'uJ':>9}{'nJ / PE':>10}{'LUT':>7}{'ratio, all':>22}{'ratio, PE':>22}"
    print(f"  {'bits':>4}  {'design':<18}{titles}")
    found: list[dict[str, Any]] = []
    with progress("self-attention", len(BITS)) as step:
        for bits in BITS:
            first, delayed = pair(DEIT_S, bits)
            show_designs(first, delayed)
            found.append({"designs": [asdict(first), asdict(delayed)], "ratios": gains(first, delayed)})
            step.done += 1
    lowest = min(min(ratio.values()) for row in found for ratio in row["ratios"].values() if ratio)
    verdict = "takes more energy than delayed by" if lowest > 1 else "does not take more energy than delayed by"
    print(f"dequantized first {verdict} every profile and at every width: {lowest:.2f} times at least.")
    print("The toggles of floats (profile activity) were measured for codes of 8 and of 3 bits alone.")
    print("The paper's power of an element is a table that could not be read: it is not compared with.")
    return {"luts": LUTS, "widths": found}


# --- P2-ViT ----------------------------------------------------------------------------------------------------------

PUBLISHED = {(False, False): (1.79, 1.15, 1.57), (True, False): (1.45, 1.00, 1.32), (False, True): (1.34, 1.15, 1.37),
             (True, True): (1.00, 1.00, 1.00)}  # fmt: skip
"""By (inter, intra): attention, MLP, overall, of arXiv 2405.19915; second hand, and the order of the switches is inferred."""
RUNS = (("best", "small"), ("i-vit", "small"), ("p2-vit", "small"), ("p2-vit", "p2-vit"))
PARTS = ("attention", "MLP", "other")
LANES, ARRAYS = (8, 16, 32, 64), (8, 16, 32, 64)


def part_of(node: str) -> str:
    """Of a block: attention with its normalisation and residual, or MLP with its own; what is in no block is neither."""
    block, _, name = node.partition("/")
    inside = block.partition(".")[2].partition(".")[2]  # of blocks.0.attn.proj: attn.proj
    if not block.startswith("blocks."):
        return "other"
    if inside:
        return "attention" if inside.startswith(("attn", "norm1")) else "MLP"
    return "MLP" if name == "Add_1" else "attention"


@dataclass(frozen=True)
class Latency:
    """Cycles of each part, which add up to all; matrix, vector: in which these units work."""

    parts: Mapping[str, int]
    matrix: int
    vector: int

    @property
    def cycles(self) -> int:
        return sum(self.parts.values())


def latency(program: Program) -> Latency:
    """Each cycle belongs to the part whose instruction ends next."""
    steps, timed = timeline(program)
    parts = dict.fromkeys(PARTS, 0)
    reached = 0
    for number in sorted(range(len(steps)), key=timed.end.__getitem__):
        node = steps[number].instruction.node
        parts[part_of(program.nodes[node - 1] if node else "")] += timed.end[number] - reached
        reached = timed.end[number]
    parts["other"] += timed.cycles - reached
    busy = busy_cycles(steps, timed)
    return Latency(parts, busy[Queue.MATRIX], busy[Queue.VECTOR])


def ablation(module: ModuleOp, machine: Machine) -> dict[tuple[bool, bool], Latency]:
    """By (inter, intra)."""
    return {
        (inter, intra): latency(lower(module, machine, Options(streaming=inter, row_pipelining=intra)))
        for inter, intra in PUBLISHED
    }


def normalised(found: Mapping[tuple[bool, bool], Latency]) -> dict[tuple[bool, bool], tuple[float, float, float]]:
    """attention, MLP, overall over those with both."""
    both = found[True, True]

    def of(row: Latency) -> tuple[float, float, float]:
        attention, mlp = (row.parts[p] / both.parts[p] for p in ("attention", "MLP"))
        return attention, mlp, row.cycles / both.cycles

    return {key: of(row) for key, row in found.items()}


@dataclass(frozen=True)
class Swept:
    """gain: cycles without pipelining over those with both; limit: over those of the busier unit; matrix, vector: shares of the
    cycles with both in which these units work."""

    rows: int
    lanes: int
    cycles: int
    gain: float
    limit: float
    matrix: float
    vector: float


def resized(machine: Machine, rows: int, lanes: int) -> Machine:
    """rows x rows elements and other lanes; the memories and DRAM as they are, but for accumulators, which grow with the rows."""
    memory = replace(machine.memory, accumulators=machine.memory.accumulators * max(rows // machine.array.rows, 1))
    array, vector = replace(machine.array, rows=rows, columns=rows), replace(machine.vector, lanes=lanes)
    return replace(machine, array=array, vector=vector, memory=memory)


def swept(module: ModuleOp, machine: Machine, rows: int, lanes: int) -> Swept | None:
    """None where the module does not fit."""
    here = resized(machine, rows, lanes)
    try:
        with_both = latency(lower(module, here))
        without = latency(lower(module, here, Options(streaming=False, row_pipelining=False)))
    except LoweringError as error:
        models.say(f"note: {rows} x {rows}, {lanes} lanes: {error}")
        return None
    cycles, matrix, vector = with_both.cycles, with_both.matrix, with_both.vector
    limit = without.cycles / max(matrix, vector)
    return Swept(rows, lanes, cycles, without.cycles / cycles, limit, matrix / cycles, vector / cycles)


def verdict(found: Sequence[Swept], claimed: float) -> str:
    """Where the claimed gain is reached, where pipelining gains least, and whether any pipelining could reach it."""
    if not found:
        return "No machine was tried."

    def at(row: Swept) -> str:
        shares = f"array busy {row.matrix:.0%}, lanes {row.vector:.0%}"
        return f"{row.gain:.2f} at {row.rows} x {row.rows} with {row.lanes} lanes ({shares})"

    least, most = min(found, key=lambda row: row.gain), max(found, key=lambda row: row.gain)
    held, could = (
        sum(gain >= claimed for gain in gains) for gains in zip(*((r.gain, r.limit) for r in found), strict=True)
    )
    text = f"Pipelining gains {claimed:.2f} or more on {held} of {len(found)} machines; most, {at(most)}; least, {at(least)}."
    return f"{text} If the busier unit never waited it would on {could}."


def requantized(multipliers: tuple[int, Energy], shifts: tuple[int, Energy]) -> str:
    """What shifts save in the place of multipliers: (cycles, energy) of the same program on machines of both."""
    (cycles, before), (fewer, after) = multipliers, shifts
    part = [e.components.get("requantize", 0) for e in (before, after)]
    if not before.total or not after.total or not part[1]:
        return "Requantization has no price."
    units = LUTS["requantizers"]["dyadic"] / LUTS["requantizers"]["pot"]
    return (
        f"Shifts in the place of multipliers: {part[0] / part[1]:.1f} times less energy of requantization,"
        f" {before.total / after.total:.3f} times less of all ({before.profile}), {units:.1f} times fewer look-up tables of its"
        f" unit, {cycles - fewer:,} fewer cycles."
    )


def show_ablation(scheme: str, machine: str, found: Mapping[tuple[bool, bool], Latency]) -> None:
    both = found[True, True]
    print(f"  {scheme} on {machine}: {both.cycles:,} cycles, array busy {both.matrix / both.cycles:.0%}", end="")
    print(f", lanes {both.vector / both.cycles:.0%}")
    for key, row in normalised(found).items():
        switches = f"inter {'on' if key[0] else 'off'}, intra {'on' if key[1] else 'off'}"
        ours, theirs = (f"{a:>8.2f}{m:>8.2f}{o:>8.2f}" for a, m, o in (row, PUBLISHED[key]))
        print(f"    {switches:<24}{ours}   {theirs}", flush=True)


def compiled(scheme: str, name: str, cache: Path) -> ModuleOp:
    label = "qvit" if scheme == "best" else f"qvit-{scheme}"
    return read_mlir(made(label, cpu.source(name, MODELS[name], cache), cache))


def p2_vit(args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in args.models or ["deit-t"]:
        print(f"{name}: cycles over those with both ways of pipelining, ours and arXiv 2405.19915 (second hand)")
        print(f"    {'':<24}{'attn':>8}{'MLP':>8}{'overall':>8}   {'attn':>8}{'MLP':>8}{'overall':>8}")
        modules = {scheme: compiled(scheme, name, args.cache) for scheme in dict.fromkeys(s for s, _ in RUNS)}
        rows: list[dict[str, Any]] = []
        prices: list[str] = []
        same: dict[str, tuple[int, Energy]] = {}
        with progress(name, len(RUNS)) as step:
            for scheme, machine_name in RUNS:
                machine = load_machine(machine_name)
                found = ablation(modules[scheme], machine)
                show_ablation(scheme, machine_name, found)
                result = simulated(modules[scheme], lower(modules[scheme], machine))
                spent = energy(result.events, machine)
                if scheme == "p2-vit":
                    same[machine_name] = result.cycles, spent
                shares = [spent.components["requantize"] / 1e6, (spent.total or 0) / 1e6]
                prices.append(f"  {scheme} on {machine_name}: {shares[0]:.2f} of {shares[1]:.1f} uJ ({spent.profile})")
                cases = [{"inter": k[0], "intra": k[1], **asdict(row)} for k, row in found.items()]
                by_profile = {p: asdict(e) for p, e in sensitivity(result.events, machine).items()}
                rows.append({"scheme": scheme, "machine": machine_name, "cases": cases, "energy": by_profile})
                step.done += 1
        saved = requantized(same["small"], same["p2-vit"])
        print("  energy of requantization:", *prices, sep="\n  ")
        print(f"  {saved}")
        print(
            "  array, lanes: cycles, gain of pipelining, and what it could be; p2-vit, memory as of the machine p2-vit"
        )
        sizes: list[Swept] = []
        with progress("sweep", len(ARRAYS) * len(LANES)) as step:
            for side, lanes in product(ARRAYS, LANES):
                row = swept(modules["p2-vit"], load_machine("p2-vit"), side, lanes)
                step.done += 1
                if row is not None:
                    sizes.append(row)
                    shares = f"array {row.matrix:.0%}, lanes {row.vector:.0%}"
                    print(
                        f"    {side:>2} x {side:<2}{lanes:>4}{row.cycles:>14,}{row.gain:>8.2f}{row.limit:>8.2f}   {shares}",
                        flush=True,
                    )
        sentence = verdict(sizes, PUBLISHED[False, False][2])
        print(f"  {sentence}")
        swept_rows = [asdict(row) for row in sizes]
        results[name] = {"runs": rows, "requantization": saved, "sweep": swept_rows, "verdict": sentence}
    return results


# --- utilisation -----------------------------------------------------------------------------------------------------

LEAST = {"deit-t": 0.90, "deit-s": 0.92, "vit-b": 0.92}
"""The utilisation of small that is expected."""


@dataclass(frozen=True)
class Use:
    """words, data: bytes of the program and of its constants in DRAM; lowering, simulation: CPU s; dram: bytes moved; exposed:
    cycles of vectors in which the array stands still; energy: uJ by profile, where all is priced."""

    model: str
    machine: str
    cycles: int
    utilisation: float
    words: int
    data: int
    lowering: float
    simulation: float
    dram: int
    exposed: int
    energy: Mapping[str, float]


def use(name: str, module: ModuleOp, machine: Machine) -> Use:
    start = time.process_time()
    program = lower(module, machine)
    lowered = time.process_time()
    given = inputs(program)
    begin = time.process_time()
    result = simulate(program, given)
    end = time.process_time()
    spent = {p: e.total / 1e6 for p, e in sensitivity(result.events, machine).items() if e.total is not None}
    return Use(
        name,
        machine.name,
        result.cycles,
        result.utilisation,
        len(program.instructions) * WORD_BYTES,
        sum(len(content) for content in program.data.values()),
        lowered - start,
        end - begin,
        result.events.read["DRAM"] + result.events.written["DRAM"],
        sum(result.exposed),
        spent,
    )


def utilisation(args: argparse.Namespace) -> dict[str, Any]:
    titles = (
        f"{'cycles':>12}{'use':>8}{'words KB':>10}{'data MB':>9}{'DRAM MB':>9}{'exposed':>10}{'lower s':>9}{'run s':>7}"
    )
    print(f"{'model':<8}{'machine':<8}{titles}  mJ")
    rows: list[Use] = []
    names = args.models or list(MODELS)
    with progress("models", 2 * len(names)) as step:
        for name in names:
            module = compiled("best", name, args.cache)
            for machine in ("small", "large"):
                row = use(name, module, load_machine(machine))
                rows.append(row)
                step.done += 1
                figures = f"{row.cycles:>12,}{row.utilisation:>8.3f}{row.words / 1024:>10.1f}{row.data / 2**20:>9.2f}"
                figures += f"{row.dram / 2**20:>9.2f}{row.exposed:>10,}{row.lowering:>9.2f}{row.simulation:>7.2f}"
                spent = span({p: e / 1e3 for p, e in row.energy.items()})
                print(f"{row.model:<8}{row.machine:<8}{figures}  {spent}", flush=True)
                if machine == "small" and row.utilisation < LEAST[name]:
                    models.say(f"note: {name} on small uses {row.utilisation:.3f} of the array, expected {LEAST[name]}")
    return {"rows": [asdict(row) for row in rows]}


# --- the command -----------------------------------------------------------------------------------------------------

CLAIMS = {"lin-shah": lin_shah, "p2-vit": p2_vit, "utilisation": utilisation}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("claim", choices=CLAIMS)
    add("--models", type=lambda text: cpu.names(text, list(MODELS), "model"), metavar="NAME,...")
    add("--json", type=Path, metavar="FILE")
    add("--cache", type=Path, default=models.default_cache(), metavar="DIR")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        found = CLAIMS[args.claim](args)
    except (models.Unavailable, LoweringError) as error:
        sys.exit(f"error: {error}")
    if args.json:
        write_text(args.json, json.dumps({args.claim: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
