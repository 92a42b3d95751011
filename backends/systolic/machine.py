"""Machines as data: TOML files that say what an accelerator has, how large it is, and how long it takes."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast

from qvit.backends.systolic.isa import FUNCTIONS, WORD_BYTES

MACHINES = files("qvit.backends.systolic") / "machines"
"""The machines that come with qvit: small.toml is named `small`."""


class MachineError(ValueError):
    """A machine's file is not one; the message names the file and the key."""


@dataclass(frozen=True, kw_only=True)
class Array:
    """Processing elements, a multiply-accumulate each a cycle. rows: along the contracted axis where weights are stationary;
    columns: along the output's. operands: `aXwY`, X bits of A and Y of B that its elements multiply."""

    rows: int
    columns: int
    dataflows: tuple[str, ...] = ("weight_stationary", "output_stationary")
    shadow: bool = True
    """A second register for what stays in an element, so that the next tile comes in while this one is used."""
    operands: tuple[str, ...] = ("a8w8",)
    logarithmic: bool = False
    """Elements shift as well: A's codes may be exponents."""


@dataclass(frozen=True, kw_only=True)
class Memories:
    """Bytes of the memories on the chip; banks: of the activations, words of `word` bytes in turn, one access a cycle each."""

    activations: int
    weights: int
    accumulators: int
    constants: int
    banks: int = 8
    word: int = 16


@dataclass(frozen=True, kw_only=True)
class Dram:
    """One channel, which loads and stores share. latency: cycles before the first byte."""

    bytes: int = 1 << 30
    bytes_per_cycle: int = 16
    latency: int = 64
    burst: int = 64
    """Bytes of which every access takes whole ones."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Lanes, an element each a cycle and pass. depth: cycles of the pipeline; divide: of a division, which is not pipelined.

    requantize: `dyadic` (a multiplier and a shift), `pot` (a shift), `divided` (by a number known at run time only);
    comparators: the most thresholds of a `threshold`, 0 without; functions: names of approximations, `*` for all.
    """

    lanes: int
    depth: int = 8
    divide: int = 16
    requantize: tuple[str, ...] = ("dyadic", "pot", "divided")
    comparators: int = 0
    functions: tuple[str, ...] = ("*",)

    def has(self, function: str) -> bool:
        return "*" in self.functions or function in self.functions


@dataclass(frozen=True, kw_only=True)
class Control:
    """queue: instructions that wait in front of a unit; semaphore_bits: of each of the twelve counters; loops: how deep they
    nest. Every word takes the sequencer a cycle."""

    queue: int = 16
    semaphore_bits: int = 8
    loops: int = 4


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A whole accelerator. energy: the name of a profile."""

    name: str
    description: str
    array: Array
    memory: Memories
    vector: Vector
    dram: Dram = field(default_factory=Dram)
    control: Control = field(default_factory=Control)
    energy: str = "horowitz-45nm"

    def __post_init__(self) -> None:
        for part, names in {
            self.array: ("rows", "columns"),
            self.memory: ("activations", "weights", "accumulators", "constants", "banks", "word"),
            self.dram: ("bytes", "bytes_per_cycle", "burst"),
            self.vector: ("lanes", "depth", "divide"),
            self.control: ("queue", "semaphore_bits", "loops"),
        }.items():
            for name in names:
                if getattr(part, name) < 1:
                    raise MachineError(f"{self.name}: {name} must be positive, found {getattr(part, name)}")
        for name in ("activations", "weights", "accumulators", "constants"):
            if (size := getattr(self.memory, name)) > 1 << 22 or size % WORD_BYTES:
                raise MachineError(
                    f"{self.name}: memory.{name} must be a multiple of {WORD_BYTES} and at most {1 << 22}, found {size}"
                )
        if self.dram.bytes > 1 << 32:
            raise MachineError(f"{self.name}: dram.bytes must be at most {1 << 32}, found {self.dram.bytes}")
        known = {
            "array.dataflows": (self.array.dataflows, ("weight_stationary", "output_stationary")),
            "array.operands": (self.array.operands, OPERANDS),
            "vector.requantize": (self.vector.requantize, ("dyadic", "pot", "divided")),
            "vector.functions": (self.vector.functions, ("*", *FUNCTIONS)),
        }
        for key, (found, allowed) in known.items():
            if unknown := [name for name in found if name not in allowed]:
                raise MachineError(f"{self.name}: {key}: unknown {', '.join(unknown)}; known are {', '.join(allowed)}")
        if not self.array.dataflows:
            raise MachineError(f"{self.name}: array.dataflows: at least one is needed")


OPERANDS = ("a16w8", "a8w8", "a8w4", "a8w3", "a8w2", "a4w4", "a3w3", "a2w2")
"""The pairs of widths that an array may have; a16w8 takes two passes of a8w8."""

T = TypeVar("T")

_PARTS: dict[str, type[Any]] = {"array": Array, "memory": Memories, "dram": Dram, "vector": Vector, "control": Control}


def _read(kind: type[T], name: str, table: Mapping[str, Any]) -> T:
    """A dataclass from a table of TOML; MachineError for unknown or missing keys and other types."""
    known = {f.name: f for f in fields(cast(Any, kind))}
    for key in table:
        if key not in known:
            raise MachineError(f"{name}: unknown key {key}; known are {', '.join(known)}")
    values: dict[str, Any] = {}
    for key, f in known.items():
        if key not in table:
            if f.default is MISSING and f.default_factory is MISSING:
                raise MachineError(f"{name}: {key} is missing")
            continue
        value = table[key]
        if key in _PARTS and kind is Machine:
            if not isinstance(value, dict):
                raise MachineError(f"{name}: {key} must be a table")
            value = _read(_PARTS[key], f"{name}: {key}", cast(Mapping[str, Any], value))
        elif wrong := _not_a(f.type, value):
            raise MachineError(f"{name}: {key}: expected {wrong}, found {json.dumps(value, default=str)}")
        values[key] = tuple(cast("list[str]", value)) if isinstance(value, list) else value
    return cast(T, kind(**values))


def _not_a(kind: Any, value: object) -> str | None:
    """What was expected, where a value of TOML is not of the type of a field; None where it is."""
    if kind is bool:
        return None if isinstance(value, bool) else "true or false"
    if kind is int:
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if kind is str:
        return None if isinstance(value, str) else "a string"
    strings = isinstance(value, list) and all(isinstance(v, str) for v in cast("list[object]", value))
    return None if strings else "a list of strings"


def parse_machine(text: str, name: str) -> Machine:
    """A machine from TOML; name: what messages call it."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MachineError(f"{name}: no TOML: {error}") from error
    return _read(Machine, name, table)


def format_machine(machine: Machine) -> str:
    """The machine as TOML with every key, which `parse_machine` reads as the same machine."""
    lines = [f"{f.name} = {_value(getattr(machine, f.name))}" for f in fields(machine) if f.name not in _PARTS]
    for name, kind in _PARTS.items():
        part = getattr(machine, name)
        lines += ["", f"[{name}]", *(f"{f.name} = {_value(getattr(part, f.name))}" for f in fields(kind))]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """As TOML; its strings are those of JSON, but for DEL, which JSON leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def machine_names() -> list[str]:
    """The machines that come with qvit."""
    return sorted(file.name.removesuffix(".toml") for file in MACHINES.iterdir() if file.name.endswith(".toml"))


def machine_text(name: str) -> str:
    """The TOML of a machine that comes with qvit, or of a file."""
    if name in machine_names():
        return (MACHINES / f"{name}.toml").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise MachineError(f"{name}: no such machine or file; machines are {', '.join(machine_names())}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MachineError(f"{name}: no TOML: it is not UTF-8") from error


def load_machine(name: str) -> Machine:
    """The machine of that name, or of the file at that path."""
    return parse_machine(machine_text(name), name)


def builtin_name(machine: Machine) -> str | None:
    """The name under which this very machine comes with qvit; None where it does not."""
    return machine.name if machine.name in machine_names() and load_machine(machine.name) == machine else None
