"""Programs as IR: what is written is what is read, in both of xDSL's forms, and what verifiers refuse."""

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from random_programs import LOOSE, NESTED, contents, programs
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException

from qvit.backends.systolic.dialect import OPERATIONS, InstructionAttr, LoopOp, Qisa, module_of, program_of
from qvit.backends.systolic.isa import INSTRUCTIONS, Add, Address, Halt, Increment, IsaError, Load, Loop, Set
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.program import Port, Program, loop_ends
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.weights import WeightError
from qvit.tools.common import read_mlir, register_dialects, write_mlir


def parse(text: str) -> ModuleOp:
    context = Context()
    register_dialects(context)
    module = Parser(context, text).parse_module()
    module.verify()
    return module


def generic(module: ModuleOp) -> str:
    out = StringIO()
    Printer(out, print_generic_format=True).print_op(module)
    return out.getvalue()


# --- what is written is what is read ---


@given(programs(NESTED))
def test_a_module_gives_the_program_again(program: Program) -> None:
    module = module_of(program)
    module.verify()
    assert contents(program_of(module)) == contents(program)
    for text in (str(module), generic(module)):
        found = parse(text)
        assert str(found) == str(module)
        assert contents(program_of(found)) == contents(program)


@given(programs(LOOSE))
def test_loops_that_are_not_wholly_inside_are_refused(program: Program) -> None:
    loops = [index for index, instruction in enumerate(program.instructions) if isinstance(instruction, Loop)]
    if loop_ends(program.instructions).keys() == set(loops):
        assert contents(program_of(module_of(program))) == contents(program)
    else:
        with pytest.raises(IsaError, match=r"instruction \d+, loop: expected a body wholly inside what is around it"):
            module_of(program)


def test_loop_ends() -> None:
    def loop(length: int) -> Loop:
        return Loop(length=length)

    nested = [loop(4), loop(2), Load(), loop(1), Load(), loop(1), Load(), Halt()]
    assert loop_ends(nested) == {0: 5, 1: 4, 5: 7}  # the third goes on behind the second, in which it is
    assert loop_ends([loop(2), loop(1), Load(), Halt()]) == {0: 3, 1: 3}
    assert loop_ends([loop(0), Load(), Halt()]) == {}
    assert loop_ends([loop(2), Load(), Halt()]) == {}  # the last word is in it


PROGRAM = Program(
    load_machine("small"),
    [
        Load(memory=1, source=Address(64), planes=1, rows=1, run=8, signal=2),
        Loop(count=10, length=3, first=Increment(1, 64), node=1),
        Loop(count=2, length=1),
        Add(first=Increment(2, 4), node=2),
        Set(first=Increment(3, -1)),
        Halt(),
    ],
    {64: np.arange(4, dtype=np.uint8), 128: np.arange(200, dtype=np.uint8)},
    8192,
    [Port("image", 0, (1, 64), IntType(8, False))],
    [Port("logits", 4096, (), IntType(32))],
    ["head", "é"],
)
TEXT = r"""
  qisa.program @main machine "small" dram 8192 inputs [#qisa.port<"image" at 0 : tensor<1x64xui8>>] outputs [#qisa.port<"logits" at 4096 : tensor<i32>>] nodes ["head", "\C3\A9"] {
    %0 = qvit.constant dense<[0, 1, 2, 3]> : tensor<4xui8> {qvit.src = ["data.0x40"]}
    qisa.data %0 at 0x40 : tensor<4xui8>
"""  # noqa: E501
CODE = """
    qisa.load memory=wbuf source=0x40 planes=1 rows=1 run=8 signal=matrix
    qisa.loop count=10 r1+=64 node=1 {
      qisa.loop count=2 {
        qisa.add r2+=4 node=2
      }
      qisa.set r3=0xffffffff
    }
    qisa.halt
  }
"""


def test_how_it_is_written() -> None:
    text = str(module_of(PROGRAM))
    assert TEXT in text
    assert CODE in text


def test_attributes_stay() -> None:
    text = """builtin.module {
  qisa.program @main machine "small" dram 64 inputs [] outputs [] nodes [] attributes {a = 1 : i64} {
    %0 = qvit.constant dense<1> : tensor<1xui8>
    qisa.data %0 at 0x0 {b = 2 : i64} : tensor<1xui8>
    qisa.loop count=2 attributes {c = 3 : i64} {
      qisa.load rows=1 {d = 4 : i64}
    }
    qisa.halt
  }
}"""
    assert str(parse(text)).rstrip() == text


def test_operations_are_those_of_the_instruction_set() -> None:
    named = {op.name for op in Qisa.operations}
    assert named == {f"qisa.{kind.mnemonic}" for kind in INSTRUCTIONS.values()} | {"qisa.program", "qisa.data"}
    for kind, operation in OPERATIONS.items():
        assert operation.__doc__ == kind.__doc__


def test_data_of_other_types_are_their_bytes() -> None:
    module = parse(
        """
        qisa.program @main machine "small" dram 64 inputs [] outputs [] nodes [] {
          %0 = qvit.constant dense<[[1, -2], [3, 4]]> : tensor<2x2xi16>
          qisa.data %0 at 0x10 : tensor<2x2xi16>
          %1 = qvit.constant dense<5> : tensor<i4>
          qisa.data %1 at 0x8 : tensor<i4>
          qisa.halt
        }
        """
    )
    data = program_of(module).data
    assert [(address, bytes(content)) for address, content in data.items()] == [
        (8, b"\x05"),
        (16, b"\x01\0\xfe\xff\x03\0\x04\0"),
    ]


def test_large_data_go_into_a_file_beside(tmp_path: Path) -> None:
    path = tmp_path / "program.mlir"
    write_mlir(module_of(PROGRAM), path)
    text = path.read_text()
    assert '= qvit.weight "data.0x80" : tensor<200xui8>' in text
    assert "dense<[0, 1, 2, 3]> : tensor<4xui8>" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["program.mlir", "program.safetensors"]
    assert contents(program_of(read_mlir(path))) == contents(PROGRAM)
    (tmp_path / "program.safetensors").unlink()
    with pytest.raises(WeightError, match=r"program\.safetensors is missing"):
        program_of(read_mlir(path))


def test_a_large_program() -> None:
    """Thousands of operations, each with a dozen fields, in one block."""
    body = [
        Load(memory=i % 3, source=Address(i, 1), planes=1, rows=2, run=8, target_row=i, wait=1) for i in range(10_000)
    ]
    program = Program(load_machine("small"), [*body, Halt()], {}, 0, [], [])
    module = parse(str(module_of(program)))
    assert contents(program_of(module)) == contents(program)


def test_a_program_is_looked_for() -> None:
    with pytest.raises(IsaError, match=r"expected one qisa\.program, found 0"):
        program_of(ModuleOp([]))
    module = module_of(PROGRAM)
    (program,) = module.ops
    module.body.block.add_op(program.clone())
    with pytest.raises(IsaError, match=r"expected one qisa\.program, found 2"):
        program_of(module)
    assert contents(program_of(program)) == contents(PROGRAM)


# --- what is refused ---


def around(body: str, head: str = 'machine "small" dram 64 inputs [] outputs [] nodes []') -> str:
    return f"qisa.program @main {head} {{\n{body}\n}}"


UNREAD = {
    "field": ("qisa.load rwos=1", "rwos"),
    "value": ("qisa.load rows=16384", "load: rows is 0..16383, found 16384"),
    "name": ("qisa.load memory=dram", "expected one of spm, wbuf, cbuf, acc"),
    "no number": ("qisa.load rows=", "expected a number"),
    "twice": ("qisa.load rows=1 rows=1", "expected every field once, found rows again"),
    "no such instruction": ("qisa.matmull", "qisa.matmull"),
    "length of a loop": ("qisa.loop length=3 {\nqisa.load\n}", "length"),
    "port": (
        "",
        "Expected integer literal",
        'machine "small" dram 64 inputs [#qisa.port<"a" at -1 : tensor<i8>>] outputs [] nodes []',
    ),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_cannot_be_read(name: str) -> None:
    body, message, *head = UNREAD[name]
    with pytest.raises(ParseError) as error:
        parse(around(body, *head))
    assert message in str(error.value)


UNSOUND = {
    "no halt": ("qisa.load", "expected halt as instruction 0, the last, and no other; found none"),
    "two ends": ("qisa.halt\nqisa.halt", "the last, and no other; found 0, 1"),
    "halt in a loop": (
        "qisa.loop count=1 {\nqisa.halt\n}",
        "a program does not end in a loop: qisa.halt cannot stand here",
    ),
    "empty loop": ("qisa.loop count=1 {\n}\nqisa.halt", "expected an instruction in the body"),
    "a stranger": ("%a = arith.constant 1 : i8\nqisa.halt", "arith.constant is no instruction, and cannot stand here"),
    "a constant in a loop": (
        "qisa.loop count=1 {\n%0 = qvit.constant dense<1> : tensor<1xui8>\n}\nqisa.halt",
        "qvit.constant is no instruction, and cannot stand here",
    ),
    "arguments": ("^bb0(%a : i8):\nqisa.halt", "expected a block without arguments"),
    "node": ("qisa.load node=1\nqisa.halt", "instruction 0, load: node 1 is none of the program's 0 nodes"),
    "another instruction": (
        '"qisa.load"() <{instruction = #qisa.instruction<halt>}> : () -> ()\nqisa.halt',
        "expected an instruction load, found halt",
    ),
    "a loop that is none": (
        '"qisa.loop"() <{instruction = #qisa.instruction<halt>}> ({\nqisa.load\n}) : () -> ()\nqisa.halt',
        "expected an instruction loop, found halt",
    ),
    "data outside": (
        "%0 = qvit.constant dense<1> : tensor<1xi32>\nqisa.data %0 at 61 : tensor<1xi32>\nqisa.halt",
        "data at 0x3d ends at 0x41, beyond the 0x40 bytes",
    ),
    "data over data": (
        "%0 = qvit.constant dense<1> : tensor<1xi32>\nqisa.data %0 at 8 : tensor<1xi32>\n"
        "qisa.data %0 at 6 : tensor<1xi32>\nqisa.halt",
        "data at 0x8: expected ascending addresses",
    ),
    "data twice": (
        "%0 = qvit.constant dense<1> : tensor<1xi32>\nqisa.data %0 at 8 : tensor<1xi32>\n"
        "qisa.data %0 at 8 : tensor<1xi32>\nqisa.halt",
        "expected different addresses of data, found one twice",
    ),
    "data below zero": (
        "%0 = qvit.constant dense<1> : tensor<1xui8>\n"
        '"qisa.data"(%0) <{address = -1 : i64}> : (tensor<1xui8>) -> ()\nqisa.halt',
        "expected an address, found -1",
    ),
    "floats": (
        "%0 = qvit.constant dense<1.0> : tensor<1xf32>\nqisa.data %0 at 8 : tensor<1xf32>\nqisa.halt",
        "expected integers, found tensor<1xf32>",
    ),
    "machine": (
        "qisa.halt",
        "the machine of qisa.program: no TOML",
        'machine "x" dram 64 inputs [] outputs [] nodes []',
    ),
    "port's type": (
        "qisa.halt",
        "port a: expected i1..i64 or ui1..ui32, found tensor<f32>",
        'machine "small" dram 64 inputs [#qisa.port<"a" at 0 : tensor<f32>>] outputs [] nodes []',
    ),
    "port outside": (
        "qisa.halt",
        "input a ends at 0x41, beyond the 0x40 bytes",
        'machine "small" dram 64 inputs [#qisa.port<"a" at 64 : tensor<i8>>] outputs [] nodes []',
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_does_not_verify(name: str) -> None:
    body, message, *head = UNSOUND[name]
    with pytest.raises(VerifyException) as error:
        parse(around(body, *head))
    assert message in " ".join(str(error.value).split())


def test_data_that_are_no_constant() -> None:
    text = """
    func.func @f(%a: tensor<1xui8>) {
      qisa.data %a at 0 : tensor<1xui8>
      func.return
    }"""
    with pytest.raises(VerifyException, match=r"expected the result of qvit\.constant or qvit\.weight"):
        parse(text)


def test_fields_that_do_not_fit_are_found_by_the_verifier() -> None:
    op = OPERATIONS[Load](Load())
    op.properties["instruction"] = InstructionAttr(Load(rows=-1))
    with pytest.raises(VerifyException, match=r"load: rows is 0\.\.16383, found -1"):
        op.verify()


def test_a_loop_with_a_length_of_its_own() -> None:
    (program,) = module_of(PROGRAM).ops
    loop = next(op for op in program.walk() if isinstance(op, LoopOp))
    loop.properties["instruction"] = InstructionAttr(Loop(count=1, length=2))
    with pytest.raises(VerifyException, match="expected length 0, for the body has it; found 2"):
        loop.verify()
