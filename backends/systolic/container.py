"""Programs as files: one binary that holds all that a machine and its caller need.

| bytes | what |
|---|---|
| 0..7 | `QVITISA` and a zero |
| 8..11 | the version of this layout, 1 |
| 12..15 | zero |
| 16..47 | SHA-256 of all that follows |
| 48..55 | how many bytes the description has |
| 56.. | the description, JSON |
| next multiple of 64 | the instructions, a word each |
| next multiples of 64 | the data of DRAM, each from a multiple of 64 on |

Numbers are little endian and unsigned; gaps are zero. The description has `isa`, the digest of the encoding
(`isa.isa_digest`); `machine`, the TOML of the machine that the program was made for; `dram`, the bytes of DRAM that it
needs; `inputs` and `outputs`, with `name`, `address`, `type` and `shape` of each; `nodes`, the names of source nodes, the
first being number 1; `words`, the number of instructions; `data`, a pair of address and bytes for each. Equal programs
are equal bytes.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from qvit.backends.systolic.isa import WORD_BYTES, Instruction, IsaError, decode, encode, isa_digest
from qvit.backends.systolic.machine import MachineError, format_machine, parse_machine
from qvit.backends.systolic.notation import TYPES
from qvit.backends.systolic.program import Port, Program, require_whole
from qvit.dialects.atomic import replacing
from qvit.dialects.semantics.integers import Array

MAGIC = b"QVITISA\0"
VERSION = 1
ALIGNMENT = 64
_START = struct.Struct("<8sII32s")
_LENGTH = struct.Struct("<Q")


class ContainerError(IsaError):
    """A file that holds no program, a damaged one, or one of another version; the message names the file."""


def _padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "address": port.address, "type": str(port.type), "shape": list(port.shape)}


def _content(program: Program) -> Iterator[bytes]:
    """What the checksum is of, in pieces."""
    description = {
        "isa": isa_digest(),
        "machine": format_machine(program.machine),
        "dram": program.dram,
        "inputs": [_port(port) for port in program.inputs],
        "outputs": [_port(port) for port in program.outputs],
        "nodes": list(program.nodes),
        "words": len(program.instructions),
        "data": [[address, len(content)] for address, content in program.data.items()],
    }
    text = json.dumps(description).encode()
    yield _LENGTH.pack(len(text)) + text + _padding(_START.size + _LENGTH.size + len(text))
    words = b"".join(map(encode, program.instructions))
    yield words + _padding(len(words))
    for content in program.data.values():
        yield content.tobytes() + _padding(len(content))


def save_program(program: Program, path: Path) -> None:
    """Write a program, whole or not at all. IsaError where it is none (`require_whole`), OSError where it cannot be written."""
    require_whole(program)
    pieces = list(_content(program))
    checksum = hashlib.sha256()
    for piece in pieces:
        checksum.update(piece)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_START.pack(MAGIC, VERSION, 0, checksum.digest()))
        file.writelines(pieces)


def load_program(path: Path) -> Program:
    """The program in a file, its data read-only. ContainerError where it is none, damaged or of another version, or where a
    word is no instruction; OSError where the file cannot be read."""
    content = path.read_bytes()
    try:
        return _read(content)
    except (IsaError, MachineError) as error:
        raise ContainerError(f"{path}: {error}") from error


def _read(content: bytes) -> Program:
    if content[: len(MAGIC)] != MAGIC:
        raise IsaError(f"expected a program, which starts with {MAGIC!r}; found {content[: len(MAGIC)]!r}")
    if len(content) < _START.size + _LENGTH.size:
        raise IsaError(f"damaged: expected at least {_START.size + _LENGTH.size} bytes, found {len(content)}")
    _, version, zero, digest = _START.unpack_from(content)
    if version != VERSION:
        raise IsaError(f"expected version {VERSION} of the layout, found {version}; make the program again")
    if zero or hashlib.sha256(memoryview(content)[_START.size :]).digest() != digest:
        raise IsaError("damaged: its bytes are not those that were written; make the program again")
    at = _START.size + _LENGTH.size
    (size,) = _LENGTH.unpack_from(content, _START.size)
    if size > len(content) - at:
        raise IsaError(f"expected a description of {size} bytes, found {len(content) - at}")
    try:
        description = json.loads(content[at : at + size])
    except (ValueError, RecursionError) as error:
        raise IsaError(f"the description is no JSON: {error}") from error
    if not isinstance(description, dict):
        raise IsaError("the description is no table")
    return _described(cast("dict[str, Any]", description), content, _aligned(at + size))


def _aligned(at: int) -> int:
    return at + -at % ALIGNMENT


def _described(description: dict[str, Any], content: bytes, at: int) -> Program:
    if (isa := _get(description, "isa", str)) != isa_digest():
        raise IsaError(
            f"expected instructions encoded as {isa_digest()[:12]}, found {isa[:12]}: another version of qvit made the "
            "program; make it again"
        )
    words = _natural(_get(description, "words", int), "words")
    segments = [_segment(pair) for pair in _list(description, "data")]
    first = _aligned(at + words * WORD_BYTES)
    ends = first + sum(_aligned(size) for _, size in segments)
    if ends != len(content):
        raise IsaError(f"expected {ends} bytes, as the description says; found {len(content)}")
    data: dict[int, Array] = {}
    for address, size in segments:
        data[address] = np.frombuffer(content, np.uint8, size, first) if size else np.zeros(0, np.uint8)
        first += _aligned(size)
    if len(data) < len(segments):
        raise IsaError("two data have one address")
    program = Program(
        parse_machine(_get(description, "machine", str), "machine"),
        _decoded(content, at, words),
        data,
        _natural(_get(description, "dram", int), "dram"),
        [_read_port(port) for port in _list(description, "inputs")],
        [_read_port(port) for port in _list(description, "outputs")],
        [_of_type(node, str, "a node") for node in _list(description, "nodes")],
    )
    require_whole(program)
    return program


def _decoded(content: bytes, at: int, words: int) -> list[Instruction]:
    found: list[Instruction] = []
    for number in range(words):
        try:
            found.append(decode(content[at + number * WORD_BYTES : at + (number + 1) * WORD_BYTES]))
        except IsaError as error:
            raise IsaError(f"instruction {number}: {error}") from error
    return found


T = TypeVar("T")


def _of_type(value: object, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise IsaError(f"the description: {what}: expected {kind.__name__}, found {json.dumps(value)[:80]}")
    return value


def _get(table: dict[str, Any], key: str, kind: type[T]) -> T:
    if key not in table:
        raise IsaError(f"the description has no {key}")
    return _of_type(table[key], kind, key)


def _list(table: dict[str, Any], key: str) -> list[Any]:
    return cast("list[Any]", _get(table, key, list))


def _natural(number: int, what: str) -> int:
    if number < 0:
        raise IsaError(f"the description: {what}: expected no negative number, found {number}")
    return number


def _segment(pair: Any) -> tuple[int, int]:
    found = cast("list[Any]", _of_type(pair, list, "data"))
    if len(found) != 2:
        raise IsaError(f"the description: data: expected address and bytes, found {len(found)} values")
    address, size = (_natural(_of_type(number, int, "data"), "data") for number in found)
    return address, size


def _read_port(value: Any) -> Port:
    table = cast("dict[str, Any]", _of_type(value, dict, "a port"))
    name, held = _get(table, "name", str), _get(table, "type", str)
    if held not in TYPES:
        raise IsaError(f"the description: {name}: there is no type {held}")
    shape = tuple(_natural(_of_type(size, int, "shape"), "shape") for size in _list(table, "shape"))
    return Port(name, _natural(_get(table, "address", int), "address"), shape, TYPES[held])
