"""Programs as text: what is written is what is read, and every mistake is named with its line and column."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_programs import INNER, LOOSE, NESTED, contents, programs

from qvit.backends.systolic import assembly
from qvit.backends.systolic.assembly import AssemblyError, format_program, parse_program
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    Add,
    Address,
    Function,
    Halt,
    Increment,
    Instruction,
    Load,
    Loop,
    MatrixMultiply,
    Requantize,
    Set,
)
from qvit.backends.systolic.machine import format_machine, load_machine
from qvit.backends.systolic.notation import instruction_text
from qvit.backends.systolic.program import Port, Program
from qvit.dialects.semantics.integers import IntType

# --- what is written is what is read ---


@given(programs(st.one_of(NESTED, LOOSE)))
def test_text_gives_the_program_again(program: Program) -> None:
    text = format_program(program)
    found = parse_program(text, "text")
    assert contents(found) == contents(program)
    assert format_program(found) == text


@given(INNER.map(lambda instruction: replace(instruction, node=0)))
def test_an_instruction_is_one_line(instruction: Instruction) -> None:
    text = instruction_text(instruction)
    assert text.isascii()
    assert text == " ".join(text.split())
    found = parse_program(f"{START}{text}\nhalt", "text")
    assert found.instructions[0] == instruction


START = '.machine "small"\n.dram 4096\n'


WRITTEN: dict[str, tuple[Instruction, str]] = {
    "defaults": (Load(), "load"),
    "addresses": (
        MatrixMultiply(a=Address(0x40, 3), b=Address(0, 3), acc=Address(0x40)),
        "matmul a=r3+0x40 b=r3 acc=0x40",
    ),
    "types": (
        Requantize(source_type=IntType(32), target_type=IntType(4, False)),
        "requantize source_type=i32 target_type=ui4",
    ),
    "names": (Function(function=FUNCTIONS["sm8_late"]), "function function=sm8_late"),
    "more names": (
        Requantize(source_memory=3, rounding=1, zero_point=-5),
        "requantize source_memory=acc rounding=half_up zero_point=-5",
    ),
    "queues": (Load(rows=2, wait=0b0110, signal=0b1000, node=7), "load rows=2 wait=matrix,vector signal=store node=7"),
    "increments": (Add(first=Increment(1, 64), second=Increment(2, -4)), "add r1+=64 r2-=4"),
    "an increment left out": (Add(third=Increment(1, 1)), "add r0+=0 r0+=0 r1+=1"),
    "no step": (Add(first=Increment(1)), "add r1+=0"),
    "registers": (
        Set(first=Increment(3, 0x1F0), third=Increment(4, -1), fourth=Increment(5)),
        "set r3=0x1f0 r0=0x0 r4=0xffffffff r5=0x0",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_how_it_is_written(name: str) -> None:
    instruction, text = WRITTEN[name]
    assert instruction_text(instruction) == text


SMALL = load_machine("small")
PROGRAM = Program(
    SMALL,
    [
        Load(memory=1, source=Address(64), planes=1, rows=1, run=8, signal=2),
        Loop(count=10, length=4, first=Increment(1, 64), node=1),
        MatrixMultiply(a=Address(0x40, 1), a_type=IntType(8, False), rows=1, node=1),
        Loop(count=2, length=2),
        Add(first=Increment(2, 4), node=2),
        Add(first=Increment(2, 4), node=1),
        Halt(),
    ],
    {64: np.arange(40, dtype=np.uint8)},
    8192,
    [Port("image", 0, (1, 64), IntType(8, False))],
    [Port('say "é"', 4096, (), IntType(32))],
    ["head/MatMul", "tail\n"],
)
TEXT = r"""
.machine "small"
.dram 8192
.input "image" 0x0 ui8 [1, 64]
.output "say \"\u00e9\"" 0x1000 i32 []
.node 1 "head/MatMul"
.node 2 "tail\n"
.data 0x40
.hex 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
.hex 2021222324252627

load memory=wbuf source=0x40 planes=1 rows=1 run=8 signal=matrix
; head/MatMul
loop count=10 r1+=64 node=1
  matmul a=r1+0x40 a_type=ui8 rows=1 node=1
  loop count=2
    ; tail\n
    add r2+=4 node=2
    ; head/MatMul
    add r2+=4 node=1
  end
end
halt
"""


def test_a_whole_text() -> None:
    assert format_program(PROGRAM) == TEXT.lstrip("\n")
    assert contents(parse_program(TEXT, "text")) == contents(PROGRAM)


FREE = {
    "spaces and comments": (
        ' .machine\t"small" ; which\n.dram 64;\n\n\tload   rows=1 ;; one\n  halt\n',
        [Load(rows=1)],
    ),
    "any order": (START + "load wait=store,load rows=0x10 run=1\nhalt", [Load(run=1, rows=16, wait=0b1001)]),
    "carriage returns": (START.replace("\n", "\r\n") + "load rows=1\r\nhalt\r\n", [Load(rows=1)]),
    "length in the place of end": (
        START + "loop length=1 count=2\nload\nhalt",
        [Loop(length=1, count=2), Load()],
    ),
    "r0": (START + "load source=r0+0x10\nhalt", [Load(source=Address(16))]),
}


@pytest.mark.parametrize("name", FREE)
def test_other_ways_to_write(name: str) -> None:
    text, instructions = FREE[name]
    assert parse_program(text, "text").instructions == [*instructions, Halt()]


def test_the_documented_text() -> None:
    document = inspect.getdoc(assembly) or ""
    example = document.partition("\n\n")[2].partition("An instruction is")[0]
    program = parse_program(example, "document")
    assert [i.mnemonic for i in program.instructions] == ["load", "loop", "matmul", "halt"]


def test_a_machine_written_out() -> None:
    machine = replace(SMALL, name="other", description='# no "comment" ; this')
    program = replace(PROGRAM, machine=machine)
    text = format_program(program)
    assert text.startswith('.toml name = "other"\n')
    assert contents(parse_program(text, "text")) == contents(program)
    lines = "".join(f".toml {line}\n" for line in format_machine(machine).splitlines())
    assert parse_program(f"{lines}.dram 64\nhalt", "text").machine == machine


def test_another_machine() -> None:
    large = load_machine("large")
    assert parse_program(TEXT, "text", machine=large).machine == large
    assert parse_program(".dram 64\nhalt", "text", machine=large).machine == large


def test_data_of_a_binary() -> None:
    text = format_program(PROGRAM, data_in="some.qisa")
    assert '.data 0x40 "some.qisa"\n\n' in text
    assert ".hex" not in text
    asked: list[str] = []

    def load(file: str) -> Program:
        asked.append(file)
        return PROGRAM

    assert contents(parse_program(text, "text", load=load)) == contents(PROGRAM)
    assert asked == ["some.qisa"]


# --- mistakes ---

WRONG = {
    "mnemonic": (START + "  matmull a=1", "t:3:3: expected one of halt, set, loop, add, load"),
    "nothing like it": (START + "halt\n+", "found +"),
    "field": (START + "load rwos=1", "t:3:6: expected a field of load, found rwos"),
    "field of another": (START + "load a=1", "t:3:6: expected a field of load, found a"),
    "no equals": (START + "load rows 1", "t:3:11: expected = behind rows, found 1"),
    "no number": (START + "load rows=x", "t:3:11: expected a number, found x"),
    "nothing": (START + "load rows=", "t:3:11: expected a number, found the end of the line"),
    "glued": (START + "load rows=1a", "t:3:11: expected a number, found 1a"),
    "twice": (START + "load rows=1 rows=2", "t:3:17: expected every field once, found rows again"),
    "too large": (START + "load run=8 rows=16384", "t:3:17: load: rows is 0..16383, found 16384"),
    "negative": (START + "load rows=-1", "t:3:11: expected a number, found -"),
    "address": (START + "load source=wbuf", "t:3:13: expected an address, such as 0x40 or r3+0x40, found wbuf"),
    "offset": (START + "load source=r1+", "expected a number, found the end of the line"),
    "no register": (START + "load source=r32", "expected an address, such as 0x40 or r3+0x40, found r32"),
    "register": (START + "set r32=3", "t:3:5: expected a field of set, found r32"),
    "what is set": (START + "set r1+=3", "t:3:7: expected = behind r1, found +"),
    "set too large": (START + "set r1=0x100000000", "t:3:7: set: first is a register 0..31 and a step -2147483648"),
    "name": (START + "load memory=dram", "t:3:13: expected one of spm, wbuf, cbuf, acc, found dram"),
    "queue": (START + "load wait=load,", "expected one of load, matrix, vector, store, found the end of the line"),
    "type": (START + "matmul a_type=i65", "t:3:15: expected a type, i1..i64 or ui1..ui32, found i65"),
    "unsigned type": (START + "matmul a_type=ui33", "expected a type, i1..i64 or ui1..ui32, found ui33"),
    "increment": (START + "add r1=4", "t:3:7: expected += or -= behind r1, found ="),
    "increments": (START + "add r1+=1 r1+=1 r1+=1 r1+=1 r1+=1", "expected at most 4 registers, found +"),
    "increment too large": (
        START + "add r1+=2147483648",
        "t:3:7: add: first is a register 0..31 and a step -2147483648",
    ),
    "no increments here": (START + "load r1+=4", "t:3:6: expected a field of load, found r1"),
    "no end": (
        START + "loop count=2\nload\nhalt",
        "t:3:1: expected end or length=, found a loop of 2 lines that goes on",
    ),
    "no loop": (START + "load\nend\nhalt", "t:4:1: expected no end: no loop is open"),
    "more behind end": (START + "loop\nload\nend end\nhalt", "t:5:5: expected no more on this line, found end"),
    "empty loop": (START + "loop count=2\nend\nhalt", "t:4:1: expected an instruction in the loop"),
    "no halt": (START + "load", "t: expected halt as instruction 0, the last, and no other; found none"),
    "halt between": (START + "halt\nload\nhalt", "expected halt as instruction 2, the last, and no other; found 0, 2"),
    "nothing at all": ("", 't:1:1: expected .machine "NAME", or lines of .toml'),
    "no dram": ('.machine "small"\nhalt', "t:2:1: expected .dram BYTES in front of the instructions"),
    "no machine": (".dram 64\nhalt", 't:2:1: expected .machine "NAME", or lines of .toml'),
    "unknown machine": (
        '.machine "medium"',
        "t:1:10: expected one of baseline-fp, large, lin-shah, p2-vit, small, found medium",
    ),
    "two machines": (START + '.machine "large"', "t:3:10: expected one machine, found another"),
    "a machine and TOML": (START + ".toml a = 1", "t:3:1: expected one machine, found .toml behind .machine"),
    "broken TOML": (".toml a =\n.dram 64\nhalt", "t: no TOML: "),
    "machine without quotes": (".machine small", "t:1:10: expected a machine in quotes, found small"),
    "string": (START + r'.node 1 "\x"', "t:3:9: expected a name as a string of JSON"),
    "half a pair": (START + r'.node 1 "\ud800"', "t:3:9: expected a name as a string of JSON"),
    "open string": (START + '.node 1 "a', 't:3:9: expected a name in quotes, found "a'),
    "two drams": (START + ".dram 64", "t:3:1: expected one .dram"),
    "too much dram": (
        '.machine "small"\n.dram 1073741825\nhalt',
        "needs 1073741825 bytes of DRAM, the machine small has 1073741824",
    ),
    "directive behind": (START + "halt\n.dram 64", "t:4:1: expected .dram in front of the first instruction"),
    "node number": (START + '.node 2 "a"', "t:3:7: expected 1, the next node's number, found 2"),
    "unknown node": (START + "load node=1\nhalt", "t: instruction 0, load: node 1 is none of the program's 0 nodes"),
    "port's type": (START + '.input "a" 0 f32 []', "t:3:14: expected a type, i1..i64 or ui1..ui32, found f32"),
    "port's shape": (START + '.input "a" 0 i8 [1 2]', "t:3:20: expected ,, found 2"),
    "port's dimension": (START + '.input "a" 0 i8 [-1]', "t:3:18: expected a dimension, found -"),
    "port without a shape": (START + '.input "a" 0 i8', "t:3:16: expected [, found the end of the line"),
    "port outside": (START + '.input "a" 4090 i8 [7]\nhalt', "t: input a ends at 0x1001, beyond the 0x1000 bytes"),
    "port twice": (
        START + '.output "a" 0 i8 []\n' * 2 + "halt",
        "t: output a: expected different names, found it twice",
    ),
    "data outside": (
        START + ".data 0xfff\n.hex 0102\nhalt",
        "t: data at 0xfff ends at 0x1001, beyond the 0x1000 bytes",
    ),
    "data over data": (
        START + ".data 0\n.hex 0102\n.data 1\n.hex 03\nhalt",
        "t: data at 0x1: expected ascending addresses",
    ),
    "data twice": (START + ".data 0x1\n.hex 01\n.data 1", "t:5:7: expected another address, found 0x1 again"),
    "hex": (START + ".data 0\n.hex 012", "t:4:1: expected pairs of hexadecimal digits, found 012"),
    "hex without data": (START + ".hex 01", "t:3:1: expected .data in front of .hex"),
    "hex behind": (START + ".data 0\nhalt\n.hex 01", "t:5:1: expected .hex in front of the first instruction"),
    "data of a file": (START + '.data 0 "a.qisa"', "t:3:9: expected lines of .hex: a text that is no file"),
    "more": (START + ".dram 1 2", "expected one .dram"),
    "more behind a directive": ('.machine "small" 1', "t:1:18: expected no more on this line, found 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(AssemblyError) as error:
        parse_program(text, "t")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loop_that_is_too_long() -> None:
    text = START + "loop count=2\n" + "set r1=0\n" * 65536 + "end\nhalt"
    with pytest.raises(AssemblyError, match="t:3:1: loop: length is 0..65535, found 65536"):
        parse_program(text, "t")


def test_data_that_a_binary_has_not() -> None:
    load: Callable[[str], Program] = lambda _: PROGRAM  # noqa: E731
    with pytest.raises(AssemblyError, match="t:3:12: expected a program with data at 0x80, found none in a.qisa"):
        parse_program(START + '.data 0x80 "a.qisa"', "t", load=load)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_read(text: str) -> None:
    for front in ("", START, START + "matmul "):
        try:
            program = parse_program(front + text, "t")
        except AssemblyError:
            continue
        assert contents(parse_program(format_program(program), "t")) == contents(program)
