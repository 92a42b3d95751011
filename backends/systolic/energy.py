"""What a run costs in energy: events times the prices of a profile, by component and by source node.

Prices are in pJ. A profile is one publication or one measurement, a TOML file; two are never mixed. What it has no price for
is left out and named, and nothing is made up for it. Rules between the anchors of a profile, w in bits:

    addition                add w / 32
    multiplication          anchor wa wb / w^2, w the width of the narrowest anchor that holds both, else of the widest
    multiply-accumulate     multiplication + an addition of 32 bits, or what the profile measured for these widths
    shift-accumulate        two additions of 32 bits
    byte of a memory        sram_fixed + sram_root sqrt(KB of the bank)

SPM has the banks of the machine, WBUF and ACC one for each column of the array, which takes or gives an element a cycle, CBUF
one.

Vector operations, for an element and pass: requantization a multiplication of 32 bits, where the machine has one, else a
shift, and two additions; add_requantize twice that and an addition; a comparator an addition; a function a multiplication,
two additions, and an addition for each step that is not pipelined; arithmetic and reductions an addition; a division 32
additions. A shift counts as an addition. A word takes its bytes from a memory as large as that of the constants.

Not priced: clocks and registers (but in `activity`, for an element), wires, leakage, steps of a whole row.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.resources import files
from math import sqrt
from pathlib import Path
from typing import Any, cast

from qvit.backends.systolic.costs import FUNCTION_COSTS
from qvit.backends.systolic.isa import WORD_BYTES
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.events import Events
from qvit.backends.systolic.simulator.result import Result

PROFILES = files("qvit.backends.systolic") / "profiles"
"""The profiles that come with qvit: activity.toml is named `activity`."""
COMPONENTS = ("array", "requantize", "vector", "SPM", "WBUF", "ACC", "CBUF", "DRAM", "control")


class ProfileError(ValueError):
    """A profile's file is not one; the message names the file and the key."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Prices, pJ; None and absent ones are unknown.

    add: of 32 bits; multiply: of w x w bits, by w; float_add, float_multiply: of 32 bits; sram_fixed, sram_root, dram: of a
    byte; mac: measured multiply-accumulates, in `unit` pJ, by operand widths (`a8w4`; `f32a8`: of floats that were codes of
    8 bits). evidence: who read or measured the numbers, and what they are worth.
    """

    name: str
    node: str
    source: str
    evidence: str
    add: float | None = None
    multiply: Mapping[int, float] = field(default_factory=dict[int, float])
    float_add: float | None = None
    float_multiply: float | None = None
    sram_fixed: float | None = None
    sram_root: float | None = None
    dram: float | None = None
    unit: float = 1.0
    mac: Mapping[str, float] = field(default_factory=dict[str, float])

    def addition(self, bits: int) -> float | None:
        return None if self.add is None else self.add * bits / 32

    def multiplication(self, a_bits: int, b_bits: int) -> float | None:
        if not self.multiply:
            return None
        width = min((w for w in self.multiply if max(a_bits, b_bits) <= w), default=max(self.multiply))
        return self.multiply[width] * a_bits * b_bits / width**2

    def multiply_accumulate(self, pair: str) -> float | None:
        """Of operand widths as in `Events.macs`, or of floats, `f32aX`."""
        if self.mac:
            return None if pair not in self.mac else self.mac[pair] * self.unit
        if pair.startswith("f32"):
            return _sum(self.float_multiply, self.float_add)
        a, b = map(int, pair[1:].split("w"))
        return _sum(self.multiplication(a, b), self.addition(32))

    def sram(self, size: float) -> float | None:
        """Of a byte of a bank of `size` bytes."""
        if self.sram_fixed is None or self.sram_root is None:
            return None
        return self.sram_fixed + self.sram_root * sqrt(size / 1024)


def _sum(*prices: float | None) -> float | None:
    known = [price for price in prices if price is not None]
    return sum(known) if len(known) == len(prices) else None


def _times(count: float, price: float | None) -> float | None:
    """Nothing costs nothing, whatever its price."""
    return 0.0 if not count else None if price is None else count * price


# --- files ---


def parse_profile(text: str, name: str) -> Profile:
    """A profile from TOML; name: what messages call it. ProfileError for unknown or missing keys, types and negative prices."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{name}: no TOML: {error}") from error
    known = [f.name for f in fields(Profile)]
    if unknown := [key for key in table if key not in known]:
        raise ProfileError(f"{name}: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
    values: dict[str, Any] = {}
    for key in known:
        if key in ("name", "node", "source", "evidence"):
            if not isinstance(table.get(key), str):
                raise ProfileError(f"{name}: {key}: expected a string, found {table.get(key, 'none')}")
            values[key] = table[key]
        elif key in ("multiply", "mac") and key in table:
            prices = table[key]
            if not isinstance(prices, dict):
                raise ProfileError(f"{name}: {key}: expected a table, found {prices}")
            found = {k: _price(name, f"{key}.{k}", v) for k, v in cast(Mapping[str, Any], prices).items()}
            if key == "multiply" and (wrong := [k for k in found if not k.isdecimal() or not int(k)]):
                raise ProfileError(f"{name}: multiply: expected widths, found {', '.join(wrong)}")
            values[key] = {int(k): v for k, v in found.items()} if key == "multiply" else found
        elif key in table:
            values[key] = _price(name, key, table[key])
    return Profile(**values)


def _price(name: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ProfileError(f"{name}: {key}: expected a number that is not negative, found {value}")
    return float(value)


def profile_names() -> list[str]:
    """The profiles that come with qvit."""
    return sorted(file.name.removesuffix(".toml") for file in PROFILES.iterdir() if file.name.endswith(".toml"))


def load_profile(name: str) -> Profile:
    """The profile of that name, or of the file at that path."""
    if name in profile_names():
        return parse_profile((PROFILES / f"{name}.toml").read_text(encoding="utf-8"), name)
    path = Path(name)
    if not path.is_file():
        raise ProfileError(f"{name}: no such profile or file; profiles are {', '.join(profile_names())}")
    return parse_profile(path.read_text(encoding="utf-8"), name)


# --- energy ---


@dataclass(frozen=True)
class Energy:
    """components: pJ, of those that have a price in the profile; missing: the others, where something happened in them."""

    profile: str
    components: Mapping[str, float]
    missing: tuple[str, ...] = ()

    @cached_property
    def total(self) -> float | None:
        """pJ of all components; None where one is missing."""
        return None if self.missing else sum(self.components.values())


def energy(events: Events, machine: Machine, profile: Profile | None = None) -> Energy:
    """Of all that happened, by component; profile: None for the machine's own.

    array: multiply-accumulates; requantize: that and comparators; vector: all else that lanes do, and divisions; SPM, WBUF,
    ACC, CBUF, DRAM: bytes read and written; control: words.
    """
    profile = profile or load_profile(machine.energy)
    memory, columns = machine.memory, machine.array.columns
    banks = {
        "SPM": memory.activations // memory.banks,
        "WBUF": memory.weights // columns,
        "ACC": memory.accumulators // columns,
        "CBUF": memory.constants,
    }
    found: dict[str, float | None] = {
        "array": _array(events, profile),
        "requantize": _requantize(events, machine, profile),
        "vector": _vector(events, profile),
        **{name: _times(events.read[name] + events.written[name], profile.sram(size)) for name, size in banks.items()},
        "DRAM": _times(events.read["DRAM"] + events.written["DRAM"], profile.dram),
        "control": _times(events.words * WORD_BYTES, profile.sram(memory.constants)),
    }
    missing = tuple(name for name, value in found.items() if value is None)
    return Energy(profile.name, {name: value for name, value in found.items() if value is not None}, missing)


def _array(events: Events, profile: Profile) -> float | None:
    macs = [_times(count, profile.multiply_accumulate(pair)) for pair, count in events.macs.items()]
    return _sum(*macs, _times(2 * events.shifts.total(), profile.addition(32)))


REQUANTIZE = {"requantize": 1, "add_requantize": 2}
"""Scalings of an element."""
FLOAT = ("dequantize", "quantize", "float")
"""Operations of the vector unit of a machine of floats: a multiplication of floats each; `float` an addition too."""


def _requantize(events: Events, machine: Machine, profile: Profile) -> float | None:
    add = profile.addition(32)
    scale = profile.multiplication(32, 32) if "dyadic" in machine.vector.requantize else add
    scalings = sum(count * events.operations[name] for name, count in REQUANTIZE.items())
    additions = 2 * scalings + events.operations["add_requantize"] + events.comparisons
    return _sum(_times(scalings, scale), _times(additions, add))


def _vector(events: Events, profile: Profile) -> float | None:
    multiplications = additions = floats = float_additions = 0
    for name, count in events.operations.items():
        if name in FUNCTION_COSTS:
            multiplications += count
            cost = FUNCTION_COSTS[name]
            additions += 2 * count + count // cost.passes * cost.element_steps
        elif name in FLOAT:
            floats += count
            float_additions += count if name == "float" else 0
        elif name in ("arithmetic", "reduce"):
            additions += count
    additions += 32 * events.divisions
    return _sum(
        _times(multiplications, profile.multiplication(32, 32)),
        _times(additions, profile.addition(32)),
        _times(floats, profile.float_multiply),
        _times(float_additions, profile.float_add),
    )


def node_energy(result: Result, profile: Profile | None = None) -> dict[str, Energy]:
    """By source node; ``: what has none, and words that went to no unit. Components add up to those of `result.events`."""
    machine = result.program.machine
    return {name: energy(events, machine, profile) for name, events in result.node_events.items()}


def sensitivity(events: Events, machine: Machine) -> dict[str, Energy]:
    """By profile, all that come with qvit: how much of a claim is the choice of prices."""
    return {name: energy(events, machine, load_profile(name)) for name in profile_names()}


def ratios(a: Mapping[str, Energy], b: Mapping[str, Energy], component: str | None = None) -> dict[str, float]:
    """How many times b's energy a's is, by profile: of a component, None: of all; only where both are known."""
    found: dict[str, float] = {}
    for name in a:
        pair = [e.total if component is None else e.components.get(component) for e in (a[name], b[name])]
        if pair[0] is not None and pair[1]:
            found[name] = pair[0] / pair[1]
    return found
