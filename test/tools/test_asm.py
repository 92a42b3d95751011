"""qvit-asm: texts, binaries and modules, from each to each, and what it refuses."""

from pathlib import Path

import pytest
from data.tool_call import Tool, contents

from qvit.backends.systolic.assembly import format_program, parse_program
from qvit.backends.systolic.container import load_program, save_program

TEXT = """\
.machine "small"
.dram 4096
.input "image" 0x0 ui8 [1, 64]
.output "logits" 0x100 i8 [10]
.node 1 "head/MatMul"
.data 0x200
.hex 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f
.hex 202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f
.hex 40
.data 0x300
.hex 01

load memory=wbuf source=0x200 planes=1 rows=1 run=65 signal=matrix
loop count=10 r1+=1
  ; head/MatMul
  matmul a=r1+0x40 rows=1 depth=64 columns=1 wait=load node=1
end
halt
"""


@pytest.fixture
def program(folder: Path) -> Path:
    (folder / "program.s").write_text(TEXT)
    save_program(parse_program(TEXT, "text"), folder / "program.qisa")
    return folder


def test_text_to_binary(asm: Tool, program: Path) -> None:
    assert asm("program.s", "-o", "new.qisa").succeeded() == ""
    assert Path("new.qisa").read_bytes() == Path("program.qisa").read_bytes()


def test_binary_to_text(asm: Tool, program: Path) -> None:
    text = asm("-d", "program.qisa", "--data").succeeded()
    assert text == TEXT
    text = asm("-d", "program.qisa").succeeded()
    assert '.data 0x200 "program.qisa"\n.data 0x300 "program.qisa"\n\nload ' in text
    assert text.partition("\n\n")[2] == TEXT.partition("\n\n")[2]


def test_text_refers_to_a_binary_in_another_folder(asm: Tool, program: Path) -> None:
    (program / "a" / "b").mkdir(parents=True)
    asm("-d", "program.qisa", "-o", "a/b/p.s").succeeded()
    assert '.data 0x200 "../../program.qisa"' in Path("a/b/p.s").read_text()
    asm("a/b/p.s", "-o", "new.qisa").succeeded()
    assert Path("new.qisa").read_bytes() == Path("program.qisa").read_bytes()


def test_text_to_its_usual_form(asm: Tool, program: Path) -> None:
    Path("mine.s").write_text(TEXT.replace("  ", "").replace("rows=1 run=65", "run=0x41   rows=1") + "; the end")
    assert asm("-d", "mine.s").succeeded() == TEXT


def test_modules(asm: Tool, opt: Tool, program: Path) -> None:
    asm("program.qisa", "-o", "program.mlir").succeeded()
    assert "program.safetensors" in contents(program)
    opt("program.mlir", "-o", "again.mlir").succeeded()
    assert Path("again.mlir").read_text().rstrip() == Path("program.mlir").read_text().rstrip()
    asm("again.mlir", "-o", "again.qisa").succeeded()
    assert Path("again.qisa").read_bytes() == Path("program.qisa").read_bytes()
    assert asm("-d", "again.mlir").succeeded() == TEXT


def test_another_machine(asm: Tool, program: Path) -> None:
    for source in ("program.s", "program.qisa"):
        asm(source, "--machine", "large", "-o", "large.qisa").succeeded()
        found = load_program(Path("large.qisa"))
        assert found.machine.name == "large"
        assert format_program(found) == TEXT.replace("small", "large")


def test_the_binary_is_replaced_by_what_its_text_says(asm: Tool, program: Path) -> None:
    asm("-d", "program.qisa", "-o", "p.s").succeeded()
    Path("p.s").write_text(Path("p.s").read_text().replace("run=65", "run=64"))
    asm("p.s", "-o", "program.qisa").succeeded()
    assert asm("-d", "program.qisa", "--data").succeeded() == TEXT.replace("run=65", "run=64")


WRONG: dict[str, tuple[list[str], int, str]] = {
    "no place": (["program.s"], 2, "no place for the result: give it with -o FILE.qisa, or -d for text"),
    "data without text": (["program.s", "--data", "-o", "x"], 2, "--data is about text: give -d too"),
    "flag": (["program.s", "--disasemble"], 2, "unknown flag --disasemble; did you mean --disassemble?"),
    "no file": (["nowhere.s", "-d"], 1, "nowhere.s: no such file"),
    "no folder": (["program.s", "-o", "no/x.qisa"], 1, "no/x.qisa cannot be written: there is no folder no"),
    "machine": (["program.s", "--machine", "tiny", "-d"], 1, "tiny: no such machine or file"),
    "mistake": (["wrong.s", "-d"], 1, "wrong.s:1:1: expected one of halt, set"),
    "damage": (["damaged.qisa", "-d"], 1, "damaged.qisa: damaged: its bytes are not those that were written"),
    "pixels": (["pixels.png", "-d"], 1, "pixels.png: expected a program as text or binary, or a .mlir file"),
    "no program": (["empty.mlir", "-d"], 1, "expected one qisa.program, found 0"),
    "no binary to refer to": (["lost.s", "-o", "x.qisa"], 1, "gone.qisa"),
    "small machine": (
        ["program.s", "--machine", "m.toml", "-o", "x.qisa"],
        1,
        "needs 4096 bytes of DRAM, the machine small",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(asm: Tool, program: Path, name: str) -> None:
    arguments, status, message = WRONG[name]
    from qvit.backends.systolic.machine import machine_text

    Path("wrong.s").write_text("hlt")
    Path("damaged.qisa").write_bytes(Path("program.qisa").read_bytes() + b"\0")
    Path("pixels.png").write_bytes(b"\x89PNG\xff")
    Path("empty.mlir").write_text("builtin.module {}")
    Path("lost.s").write_text('.machine "small"\n.dram 64\n.data 0 "gone.qisa"\nhalt')
    Path("m.toml").write_text(machine_text("small") + "\n[dram]\nbytes = 2048\n")
    before = contents(program)
    assert message in asm(*arguments).failed(status)
    assert contents(program) == before
