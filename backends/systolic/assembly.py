"""Programs as text, an instruction a line, and back.

    .machine "small"
    .dram 8192
    .input "image" 0x0 ui8 [1, 64]
    .output "logits" 0x1000 i8 [1, 10]
    .node 1 "head/MatMul"
    .data 0x40
    .hex 0102030405060708

    load memory=wbuf source=0x40 planes=1 rows=1 run=8 signal=matrix
    loop count=10 r1+=64
      ; head/MatMul
      matmul a=r1+0x40 a_row=64 a_type=ui8 b_row=10 b_memory=wbuf rows=1 depth=64 columns=10 node=1
    end
    halt

An instruction is its mnemonic and its fields, `name=value` in any order (`notation.py` has how values are written); what is
not written has its default. The body of a loop ends with `end`, or is as long as its field `length` says, without an `end`.
`;` starts a comment.

Directives stand before the first instruction. `.machine "NAME"` is one that comes with qvit; lines of `.toml`, one written
out. `.data ADDRESS` starts bytes of DRAM, which lines of `.hex` hold; `.data ADDRESS "FILE"` takes what the binary
(`container.py`) in a file has at that address. Strings are those of JSON, and nodes are numbered from 1 on.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np

from qvit.backends.systolic.isa import MNEMONICS, Instruction, IsaError, Loop, parts_of
from qvit.backends.systolic.machine import (
    Machine,
    MachineError,
    builtin_name,
    format_machine,
    load_machine,
    machine_names,
    parse_machine,
)
from qvit.backends.systolic.notation import TYPES, format_fields, parse_fields
from qvit.backends.systolic.program import Port, Program, loop_ends, require_whole
from qvit.dialects.semantics.integers import Array

HEX_BYTES = 32
"""Of a line of `.hex` as it is written."""


class AssemblyError(IsaError):
    """A text that is no program; the message names the file, the line and the column."""


# --- to text ---


def format_program(program: Program, data_in: str | None = None) -> str:
    """The program as text. data_in: the file that the text refers to for its data; they are written out without.

    `parse_program` makes the same program of it.
    """
    return "\n".join(_lines(program, data_in)) + "\n"


def _lines(program: Program, data_in: str | None) -> Iterator[str]:
    if (name := builtin_name(program.machine)) is not None:
        yield f".machine {json.dumps(name)}"
    else:
        yield from (
            f".toml {line}".rstrip(" ") for line in format_machine(program.machine).removesuffix("\n").split("\n")
        )
    yield f".dram {program.dram}"
    for what, ports in (("input", program.inputs), ("output", program.outputs)):
        for port in ports:
            yield f".{what} {json.dumps(port.name)} 0x{port.address:x} {port.type} {list(port.shape)}"
    for number, node in enumerate(program.nodes, 1):
        yield f".node {number} {json.dumps(node)}"
    for address, content in program.data.items():
        yield f".data 0x{address:x}" + (f" {json.dumps(data_in)}" if data_in is not None else "")
        if data_in is None:
            digits = content.tobytes().hex()
            yield from (f".hex {digits[at : at + 2 * HEX_BYTES]}" for at in range(0, len(digits), 2 * HEX_BYTES))
    yield ""
    yield from _code(program)


def _code(program: Program) -> Iterator[str]:
    """The instructions; a comment names the node wherever it is another."""
    ends = loop_ends(program.instructions)
    open_loops: list[int] = []
    node = 0
    for index, instruction in enumerate(program.instructions):
        while open_loops and open_loops[-1] == index:
            open_loops.pop()
            yield "  " * len(open_loops) + "end"
        indent = "  " * len(open_loops)
        if instruction.node not in (0, node) and instruction.node <= len(program.nodes):
            yield f"{indent}; {json.dumps(program.nodes[instruction.node - 1])[1:-1]}"
        node = instruction.node
        leave_out: tuple[str, ...] = ()
        if isinstance(instruction, Loop):
            leave_out = ("length",)
            if index in ends:
                open_loops.append(ends[index])
            else:
                indent += f"{instruction.mnemonic} length={instruction.length} "
        prefix = indent if leave_out and index not in ends else f"{indent}{instruction.mnemonic} "
        yield (prefix + format_fields(instruction, leave_out)).rstrip(" ")
    while open_loops:
        open_loops.pop()
        yield "  " * len(open_loops) + "end"


# --- from text ---

_TOKEN = re.compile(
    r"""[ \t]*(?:(?P<word>\.?[A-Za-z_][A-Za-z0-9_]*)|(?P<number>0[xX][0-9A-Fa-f]+|[0-9]+)(?![A-Za-z0-9_])"""
    r"""|(?P<string>"(?:[^"\\]|\\.)*")|(?P<sign>[-+=,\[\]])|(?P<end>;.*|\r?)$|(?P<other>[^ \t]+))"""
)


class _Line:
    """A cursor (`notation.Cursor`) over a line."""

    def __init__(self, file: str, number: int, text: str) -> None:
        self.file, self.number_of_line, self.text = file, number, text
        self._behind = 0
        self._advance()

    def _advance(self) -> None:
        match = _TOKEN.match(self.text, self._behind)
        assert match is not None  # `other` takes what nothing else does
        self.kind = match.lastgroup or ""
        self.token = match[self.kind]
        self.place = match.start(self.kind)
        self._behind = match.end()

    def word(self, known: Collection[str]) -> str | None:
        return self._take() if self.kind == "word" and self.token in known else None

    def sign(self, sign: str) -> bool:
        return self.kind == "sign" and self.token == sign and bool(self._take())

    def number(self) -> int | None:
        if self.kind != "number":
            return None
        token = self._take()
        return int(token, 16 if token[:2] in ("0x", "0X") else 10)

    def _take(self) -> str:
        token = self.token
        self._advance()
        return token

    def fail(self, message: str, place: int | None = None) -> NoReturn:
        if place is None:
            place = self.place
            message += f", found {'the end of the line' if self.kind == 'end' else self.token}"
        raise AssemblyError(f"{self.file}:{self.number_of_line}:{place + 1}: {message}")

    # what directives need besides

    def ended(self) -> bool:
        return self.kind == "end"

    def expect_end(self, otherwise: str) -> None:
        if not self.ended():
            self.fail(f"expected {otherwise}")

    def expect_number(self, what: str) -> int:
        number = self.number()
        return self.fail(f"expected {what}") if number is None else number

    def expect_string(self, what: str) -> str:
        if self.kind != "string":
            self.fail(f"expected {what} in quotes")
        try:
            string = json.loads(self.token)
            string.encode()
        except ValueError:
            self.fail(f"expected {what} as a string of JSON")
        self._take()
        return string

    def expect_sign(self, sign: str) -> None:
        if not self.sign(sign):
            self.fail(f"expected {sign}")


@dataclass
class _Text:
    """What was read so far."""

    load: Callable[[str], Program] | None
    machine: Machine | None = None
    toml: list[str] = field(default_factory=list[str])
    dram: int | None = None
    inputs: list[Port] = field(default_factory=list[Port])
    outputs: list[Port] = field(default_factory=list[Port])
    nodes: list[str] = field(default_factory=list[str])
    data: dict[int, Array | list[bytes]] = field(default_factory=dict[int, "Array | list[bytes]"])
    hex_of: list[bytes] | None = None
    """Where lines of `.hex` go."""
    instructions: list[Instruction] = field(default_factory=list[Instruction])
    loops: list[tuple[int, _Line]] = field(default_factory=list[tuple[int, _Line]])
    """Those without an end so far, by their index and line."""


def parse_program(
    text: str, name: str, machine: Machine | None = None, load: Callable[[str], Program] | None = None
) -> Program:
    """The program of a text. name: what errors call it; machine: in the place of the one that the text names; load: gives the
    program in a file that `.data` names.

    AssemblyError names the line and column, what was expected and what was found.
    """
    found = _Text(load)
    line = _Line(name, 1, "")
    for number, content in enumerate(text.split("\n"), 1):
        if found.hex_of is not None and content.lstrip().startswith(".hex"):  # without tokens: there may be millions
            _hex(name, number, content, found.hex_of)
            continue
        if content.startswith(".toml"):
            if found.machine is not None:
                raise AssemblyError(f"{name}:{number}:1: expected one machine, found .toml behind .machine")
            found.toml.append(content.removeprefix(".toml").removeprefix(" "))
            continue
        line = _Line(name, number, content)
        if not line.ended():
            _read_line(line, found)
    if found.loops:
        index, start = found.loops[-1]
        start.fail(
            f"expected end or length=, found a loop of {len(found.instructions) - index - 1} lines that goes on", 0
        )
    program = _assembled(found, machine, line)
    try:
        require_whole(program)
    except IsaError as error:
        raise AssemblyError(f"{name}: {error}") from error
    return program


def _assembled(found: _Text, machine: Machine | None, last: _Line) -> Program:
    if machine is None:
        machine = found.machine
    if machine is None:
        if not found.toml:
            last.fail('expected .machine "NAME", or lines of .toml, in front of the instructions', 0)
        try:
            machine = parse_machine("\n".join(found.toml), last.file)
        except MachineError as error:
            raise AssemblyError(str(error)) from error
    if found.dram is None:
        last.fail("expected .dram BYTES in front of the instructions", 0)
    data = {
        address: np.frombuffer(b"".join(content), np.uint8) if isinstance(content, list) else content
        for address, content in found.data.items()
    }
    return Program(machine, found.instructions, data, found.dram, found.inputs, found.outputs, found.nodes)


def _hex(file: str, number: int, content: str, into: list[bytes]) -> None:
    digits = content.lstrip().removeprefix(".hex").partition(";")[0].strip()
    try:
        into.append(bytes.fromhex(digits))
    except ValueError:
        raise AssemblyError(
            f"{file}:{number}:{content.index('.hex') + 1}: expected pairs of hexadecimal digits, found {digits[:80]}"
        ) from None


def _read_line(line: _Line, found: _Text) -> None:
    place = line.place
    if (directive := line.word(_DIRECTIVES)) is not None:
        if found.instructions:
            line.fail(f"expected {directive} in front of the first instruction", place)
        found.hex_of = None
        _DIRECTIVES[directive](line, found)
        line.expect_end("no more on this line")
    elif line.word(("end",)) is not None:
        line.expect_end("no more on this line")
        if not found.loops:
            line.fail("expected no end: no loop is open", place)
        index, start = found.loops.pop()
        length = len(found.instructions) - index - 1
        if not length:
            line.fail("expected an instruction in the loop", place)
        try:
            parts_of(Loop, "length", length)
        except IsaError as error:
            start.fail(str(error), 0)
        found.instructions[index] = replace(found.instructions[index], length=length)
    elif (mnemonic := line.word(MNEMONICS)) is not None:
        kind = MNEMONICS[mnemonic]
        values = parse_fields(line, kind)
        line.expect_end(f"a field of {mnemonic}")
        if kind is Loop and "length" not in values:
            found.loops.append((len(found.instructions), line))
        found.instructions.append(kind(**values))
        found.hex_of = None
    else:
        line.fail(f"expected one of {', '.join(MNEMONICS)}, end, {', '.join(_DIRECTIVES)}")


def _machine(line: _Line, found: _Text) -> None:
    place = line.place
    name = line.expect_string("a machine")
    if found.machine is not None or found.toml:
        line.fail("expected one machine, found another", place)
    if name not in machine_names():  # a text that means another thing in another folder is none
        line.fail(
            f"expected one of {', '.join(machine_names())}, found {name}; others are written out with .toml", place
        )
    found.machine = load_machine(name)


def _dram(line: _Line, found: _Text) -> None:
    if found.dram is not None:
        line.fail("expected one .dram", 0)
    found.dram = line.expect_number("bytes")


def _port(line: _Line) -> Port:
    name = line.expect_string("a name")
    address = line.expect_number("an address")
    if (held := line.word(TYPES)) is None:
        line.fail("expected a type, i1..i64 or ui1..ui32")
    line.expect_sign("[")
    shape: list[int] = []
    while not line.sign("]"):
        if shape:
            line.expect_sign(",")
        shape.append(line.expect_number("a dimension"))
    return Port(name, address, tuple(shape), TYPES[held])


def _input(line: _Line, found: _Text) -> None:
    found.inputs.append(_port(line))


def _output(line: _Line, found: _Text) -> None:
    found.outputs.append(_port(line))


def _node(line: _Line, found: _Text) -> None:
    place = line.place
    if (number := line.expect_number("a number")) != len(found.nodes) + 1:
        line.fail(f"expected {len(found.nodes) + 1}, the next node's number, found {number}", place)
    found.nodes.append(line.expect_string("a name"))


def _data(line: _Line, found: _Text) -> None:
    place = line.place
    address = line.expect_number("an address")
    if address in found.data:
        line.fail(f"expected another address, found 0x{address:x} again", place)
    if line.ended():
        found.data[address] = found.hex_of = []
        return
    place = line.place
    file = line.expect_string("a file")
    if found.load is None:
        line.fail("expected lines of .hex: a text that is no file cannot refer to files", place)
    content = found.load(file).data.get(address)
    if content is None:
        line.fail(f"expected a program with data at 0x{address:x}, found none in {file}", place)
    found.data[address] = content


def _hex_first(line: _Line, found: _Text) -> None:
    line.fail("expected .data in front of .hex", 0)


_DIRECTIVES: Mapping[str, Callable[[_Line, _Text], None]] = {
    ".machine": _machine,
    ".dram": _dram,
    ".input": _input,
    ".output": _output,
    ".node": _node,
    ".data": _data,
    ".hex": _hex_first,
}
