"""Where qvit-opt reads and writes: files, standard streams, weights beside the output; nothing by halves."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from data.onnx_build import graph, model
from data.tool_call import Tool, contents

IDENTITY = """\
func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {
  func.return %x : tensor<2x3xf32>
}
"""


def large(value: int, name: str = "main") -> str:
    """A function that returns a constant too large to stay in the text."""
    return f"""\
func.func @{name}() -> tensor<65xi8> {{
  %c = qvit.constant dense<{value}> : tensor<65xi8> {{qvit.src = ["{name}.c"]}}
  func.return %c : tensor<65xi8>
}}
"""


def quantized() -> onnx.ModelProto:
    """x [batch, 3] @ w [3, 40], both quantized."""
    nodes = graph(
        "x_q = QuantizeLinear x s z\nx_dq = DequantizeLinear x_q s z\n"
        "w_dq = DequantizeLinear w t - axis=1\n/fc/MatMul = MatMul x_dq w_dq\ny = Relu /fc/MatMul"
    )
    constants = {
        "w": np.random.default_rng(0).integers(-128, 128, (3, 40), np.int8),
        "s": np.array(0.02, np.float32),
        "z": np.array(3, np.int8),
        "t": np.linspace(0.01, 0.02, 40, dtype=np.float32),
    }
    return model(nodes, {"x": np.zeros((2, 3), np.float32)}, "y", constants, dims={"x": ["batch", 3]})


X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def imported(opt: Tool, folder: Path) -> Path:
    """model.onnx and what it was imported to: model.mlir and model.safetensors."""
    onnx.save(quantized(), folder / "model.onnx")
    assert opt("model.onnx", "--dim", "batch=2", "-o", "model.mlir").succeeded() == ""
    np.save(folder / "x.npy", X)
    return folder


def result(run: Tool, module: str | Path) -> np.ndarray:
    run(module, "--input", "x.npy", "--output", "y.npy").succeeded()
    return np.load("y.npy")


# --- input ---


def test_file(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(IDENTITY)
    said = opt("in.mlir").succeeded()
    assert said.startswith("builtin.module {\n  func.func @main")
    (folder / "again.mlir").write_text(said)
    assert opt("again.mlir").succeeded() == said


@pytest.mark.parametrize("arguments", [(), ("-",)], ids=str)
def test_standard_input(opt: Tool, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "in.mlir").write_text(IDENTITY)
    assert opt(*arguments, stdin=IDENTITY).succeeded() == opt("in.mlir").succeeded()


def test_standard_input_of_a_process() -> None:
    command = [sys.executable, "-m", "qvit.tools.qvit_opt", "-", "--canonicalize"]
    done = subprocess.run(command, input=IDENTITY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("builtin.module {")
    assert done.stderr == ""


def test_reader_goes_away() -> None:
    """As `qvit-opt ... | head` does: the tool ends without a word."""
    command = [sys.executable, "-m", "qvit.tools.qvit_opt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(IDENTITY.encode())
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


WRONG_INPUT = {
    "nowhere.mlir": (1, "nowhere.mlir"),
    "nowhere.onnx": (1, "nowhere.onnx: no such file"),
    "text.txt": (2, "text.txt: cannot tell its format from '.txt'; known are .mlir, .onnx"),
    "text": (2, "text: cannot tell its format from ''"),
    ".": (2, ".: cannot tell its format"),
    "folder.mlir": (1, "folder.mlir"),
    "folder.onnx": (1, "folder.onnx"),
    "text.onnx": (1, "text.onnx is not an ONNX model"),
    "bytes.mlir": (1, "codec can't decode"),
}


@pytest.mark.parametrize("name", WRONG_INPUT)
def test_wrong_input(opt: Tool, folder: Path, name: str) -> None:
    for text in ("text.txt", "text", "text.onnx"):
        (folder / text).write_text("no model\n")
    (folder / "bytes.mlir").write_bytes(b"\xff\xfe\x00")
    (folder / "folder.mlir").mkdir()
    (folder / "folder.onnx").mkdir()
    before = contents(folder)
    status, says = WRONG_INPUT[name]
    assert says in opt(name, "-o", "out.mlir").failed(status)
    assert contents(folder) == before


def test_frontend_by_name(opt: Tool, folder: Path) -> None:
    (folder / "in.txt").write_text(IDENTITY)
    assert "func.func @main" in opt("in.txt", "-f", "mlir").succeeded()


def test_onnx_from_standard_input(opt: Tool) -> None:
    assert "model is read from a file" in opt("-", "-f", "onnx").failed(2)


# --- errors in the IR: where, in one line ---

PARSE_ERRORS = {
    "unknown operation": (3, 21, IDENTITY.replace("  func.return", '  \n  %y = qvit.matmull %x\n  func.return')),
    "unknown dialect": (2, 17, IDENTITY.replace("  func.return", '  %y = "foo.bar"(%x) : (i32) -> i32\n  func.return')),
    "undefined value": (None, None, IDENTITY.replace("return %x", "return %y")),
    "unknown type": (1, None, IDENTITY.replace("xf32>)", "xfloat>)")),
    "cut off": (None, None, IDENTITY[:70]),
    "dense of another shape": (2, None, "\n%c = qvit.constant dense<[1, 2, 3]> : tensor<2xi8>"),
    "no IR at all": (1, None, "hello, world\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", PARSE_ERRORS)
def test_parse_error(opt: Tool, folder: Path, name: str) -> None:
    line, column, text = PARSE_ERRORS[name]
    (folder / "in.mlir").write_text(text)
    message = opt("in.mlir", "-o", "out.mlir").failed()
    tool, kind, place, found_line, found_column, *_ = message.split(":")
    assert (tool, kind.strip(), place.strip()) == ("qvit-opt", "error", "in.mlir")
    assert line in (None, int(found_line))
    assert column in (None, int(found_column))
    assert not (folder / "out.mlir").exists()


ATTRIBUTE_ERRORS = {
    "shift": ("#qvit.dyadic<1, 99>", "shift must be in 0..62, found 99"),
    "multiplier": ("#qvit.dyadic<2147483648, 9>", "multiplier must be in"),
    "lengths": ("#qvit.dyadic<[1, 2], [3, 4, 5]>", "different lengths"),
}


def requantize(form: str) -> str:
    return (
        "func.func @main(%x: tensor<2xi8>) -> tensor<2xi8> {\n"
        f"  %y = qvit.requantize %x by {form} : tensor<2xi8> -> tensor<2xi8>\n"
        "  func.return %y : tensor<2xi8>\n}\n"
    )


@pytest.mark.parametrize("name", ATTRIBUTE_ERRORS)
def test_attribute_error(opt: Tool, folder: Path, name: str) -> None:
    form, says = ATTRIBUTE_ERRORS[name]
    (folder / "in.mlir").write_text(requantize(form))
    assert says in opt("in.mlir").failed()


@pytest.mark.parametrize("form", ["#qvit.dyadic<1, 99>", "#qvit.dyadic<2147483648, 9>"])
def test_attribute_error_names_the_place(opt: Tool, folder: Path, form: str) -> None:
    (folder / "in.mlir").write_text(requantize(form))
    assert " in.mlir:2:" in opt("in.mlir").failed()


VERIFY_ERRORS = {
    "result": (
        '%y = qvit.reshape %x {qvit.src = ["/fc/Reshape"]} : tensor<2x3xf32> -> tensor<7xf32>',
        "/fc/Reshape (qvit.reshape): result: 7 elements in (7,), 6 in (2, 3)",
    ),
    "no name": (
        "%y = qvit.transpose %x [0, 0] : tensor<2x3xf32> -> tensor<2x2xf32>",
        "qvit.transpose (qvit.transpose): permutation: expected an order of 0..1, found [0, 0]",
    ),
    "no operand": ('"qvit.relu"() : () -> ()', "qvit.relu (qvit.relu): Expected 1 operand, but got 0"),
    "dynamic dimension": (
        '%d = "test.op"() : () -> tensor<?xf32>\n%y = qvit.relu %d : tensor<?xf32>',
        "qvit.relu (qvit.relu): expected static dimensions, found tensor<?xf32>",
    ),
    "element type": (
        '%w = qvit.weight "w" : tensor<2xf16>',
        "w (qvit.weight): element type f16 is none of",
    ),
    "function": ("func.return %x : tensor<2x3xf32>", "func.return"),
}


@pytest.mark.parametrize("name", VERIFY_ERRORS)
def test_verify_error(opt: Tool, folder: Path, name: str) -> None:
    line, says = VERIFY_ERRORS[name]
    (folder / "in.mlir").write_text(IDENTITY.replace("  func.return", f"  {line}\n  func.return"))
    message = opt("in.mlir", "-o", "out.mlir").failed()
    assert message.startswith(f"qvit-opt: error: {says}")
    assert not (folder / "out.mlir").exists()


def test_verify_error_of_xdsl_is_one_line(opt: Tool, folder: Path) -> None:
    text = IDENTITY.replace(
        "  func.return", '  %i = "test.op"() : () -> i32\n  "qvit.relu"(%i) : (i32) -> i32\n  func.return'
    )
    (folder / "in.mlir").write_text(text)
    assert "qvit.relu" in opt("in.mlir").failed()


def test_a_pass_that_refuses(opt: Tool, folder: Path) -> None:
    """The only error of several lines: a list, one operation a line."""
    (folder / "in.mlir").write_text(IDENTITY)
    done = opt("in.mlir", "--verify-integer-only", "-o", "out.mlir")
    assert done.status == 1
    first, *others = done.err.splitlines()
    assert first == "qvit-opt: error: verify-integer-only: 2 operations keep a float:"
    assert [line.split()[0] for line in others] == ["@main:", "func.return:"]
    assert not (folder / "out.mlir").exists()


def edited(text: str, seed: int) -> str:
    """The text with one to three characters changed, left out or put in. No quotes: xDSL takes minutes for an open one."""
    source = random.Random(seed)
    letters = list(text)
    for _ in range(source.randint(1, 3)):
        place, letter = source.randrange(len(letters)), source.choice("0123456789-.,<>[]{}()%#=:xif abz\n")
        if letters[place] != '"':
            letters[place] = source.choice(["", letter, letters[place] + letter])
    return "".join(letters)


PROGRAM = """\
func.func @main(%x: tensor<2x4xf32> {qvit.name = "x"}) -> (tensor<2x2xi8> {qvit.name = "y"}) {
  %q = qvit.quantize %x <0.02, zero_point = 3> {qvit.src = ["q"]} : tensor<2x4xf32> -> tensor<2x4xi8>
  %d = qvit.dequantize %q <0.02, zero_point = 3> : tensor<2x4xi8> -> tensor<2x4xf32>
  %t = qvit.transpose %d [1, 0] : tensor<2x4xf32> -> tensor<4x2xf32>
  %r = qvit.reshape %t : tensor<4x2xf32> -> tensor<2x4xf32>
  %w = qvit.constant dense<[[1, 2, 3, 4], [-1, -2, -3, -4]]> : tensor<2x4xi8>
  %v = qvit.dequantize %w <[0.5, 0.25], axis = 0> : tensor<2x4xi8> -> tensor<2x4xf32>
  %l = qvit.linear %r, %v : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x2xf32>
  %o = qvit.quantize %l <0.01> : tensor<2x2xf32> -> tensor<2x2xi8>
  %z = qvit.requantize %o by #qvit.dyadic<3, 2> : tensor<2x2xi8> -> tensor<2x2xi8>
  func.return %z : tensor<2x2xi8>
}
"""


def test_edited_text(opt: Tool, folder: Path) -> None:
    """Whatever is wrong, it ends in one line."""
    statuses: set[int] = set()
    for seed in range(100):
        (folder / "in.mlir").write_text(edited(PROGRAM, seed))
        done = opt("in.mlir", "--delay-dequant", "--canonicalize")
        assert len(done.err.splitlines()) == done.status, (seed, done.err)
        statuses.add(done.status)
    assert statuses == {0, 1}


# --- several modules in one file ---


def test_split_input_file(opt: Tool, folder: Path) -> None:
    parts = [IDENTITY.replace("@main", f"@part{i}") for i in range(3)]
    (folder / "in.mlir").write_text("// -----\n".join(parts))
    said = opt("in.mlir", "--split-input-file", "--cse").succeeded()
    assert [f"@part{i}" in chunk for i, chunk in enumerate(said.split("// -----"))] == [True] * 3
    assert opt("-", "--split-input-file", stdin=said).succeeded() == said


def test_error_in_a_later_part(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(f"{IDENTITY}// -----\n\n{IDENTITY}// -----\n\n  %y = qvit.nothing %x\n")
    assert "in.mlir:11:" in opt("in.mlir", "--split-input-file", "-o", "out.mlir").failed()
    assert not (folder / "out.mlir").exists()


def test_weights_of_several_parts(opt: Tool, run: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(f"{large(1, 'a')}// -----\n{large(2, 'b')}")
    opt("in.mlir", "--split-input-file", "-o", "out.mlir").succeeded()
    assert contents(folder).keys() == {"in.mlir", "out.mlir", "out.safetensors", "out.1.safetensors"}
    for i, part in enumerate((folder / "out.mlir").read_text().split("// -----")):
        (folder / "part.mlir").write_text(part.replace("@a", "@main").replace("@b", "@main"))
        run("part.mlir", "--output", "c.npy").succeeded()
        assert np.load(folder / "c.npy").tolist() == [i + 1] * 65


# --- output ---


def test_output_file(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(IDENTITY)
    said = opt("in.mlir").succeeded()
    assert opt("in.mlir", "-o", "out.mlir").succeeded() == ""
    assert (folder / "out.mlir").read_text() == said
    assert (folder / "out.mlir").stat().st_mode == (folder / "in.mlir").stat().st_mode
    assert contents(folder).keys() == {"in.mlir", "out.mlir"}


FAILURES = {
    "input": ("bad.mlir", "--cse"),
    "pass": ("good.mlir", "--verify-integer-only"),
    "later pass": ("good.mlir", "--cse", "--delay-dequant", "--verify-integer-only"),
    "option": ("good.mlir", "--delay-dequant=accumulator=33"),
    "report": ("good.mlir", "--delay-dequant", "--report", "nowhere/r.json"),
    "usage": ("good.mlir", "--no-such-flag"),
    "later part": ("parts.mlir", "--split-input-file"),
    "target": ("good.mlir", "-t", "riscv"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_existing_output_is_not_touched(opt: Tool, folder: Path, name: str) -> None:
    (folder / "good.mlir").write_text(IDENTITY)
    (folder / "bad.mlir").write_text("oops")
    (folder / "parts.mlir").write_text(f"{IDENTITY}// -----\noops")
    (folder / "out.mlir").write_text("what was there")
    before = contents(folder)
    assert opt(*FAILURES[name], "-o", "out.mlir").status in (1, 2)
    assert contents(folder) == before


@pytest.mark.parametrize("arguments", [("parts.mlir", "--split-input-file"), ("good.mlir", "-t", "riscv")], ids=str)
def test_existing_weights_are_not_touched(opt: Tool, run: Tool, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "good.mlir").write_text(large(1))
    opt("good.mlir", "-o", "out.mlir").succeeded()
    (folder / "good.mlir").write_text(large(2))
    (folder / "parts.mlir").write_text(f"{large(2)}// -----\noops")
    before = contents(folder)
    assert opt(*arguments, "-o", "out.mlir").status in (1, 2)
    assert contents(folder) == before


PLACES = {
    "no such folder": "nowhere/out.mlir",
    "a folder": "folder.mlir",
}


@pytest.mark.parametrize("target", PLACES.values(), ids=PLACES)
def test_output_cannot_be_written(opt: Tool, folder: Path, target: str) -> None:
    (folder / "in.mlir").write_text(large(1))
    (folder / "folder.mlir").mkdir()
    before = contents(folder)
    assert target in opt("in.mlir", "-o", target).failed()
    assert contents(folder) == before


def test_output_without_weights_cannot_be_written(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(IDENTITY)
    assert "nowhere/" in opt("in.mlir", "-o", "nowhere/out.mlir").failed()
    assert contents(folder).keys() == {"in.mlir"}


# --- weights ---


def test_weights_lie_beside_the_output(opt: Tool, run: Tool, imported: Path) -> None:
    assert contents(imported).keys() == {"model.onnx", "model.mlir", "model.safetensors", "x.npy"}
    text = (imported / "model.mlir").read_text()
    assert '#qvit.weight_file<"model.safetensors", "' in text
    assert len(text) < 3000
    assert result(run, "model.mlir").shape == (2, 40)


def test_small_constants_stay_in_the_text(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(large(1).replace("65", "64"))
    assert "qvit.constant dense<1> : tensor<64xi8>" in opt("in.mlir").succeeded()
    assert contents(folder).keys() == {"in.mlir"}


def test_new_weights_do_not_go_into_standard_output(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(large(1))
    message = opt("in.mlir").failed(2)
    assert "-o" in message
    assert "--weights-out" in message
    assert contents(folder).keys() == {"in.mlir"}


def test_constants_of_other_dialects_stay_in_the_text(opt: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(large(1))
    said = opt("in.mlir", "--lower-to-linalg").succeeded()
    assert "arith.constant dense<1> : tensor<65xi8>" in said
    assert contents(folder).keys() == {"in.mlir"}


def test_weights_out(opt: Tool, run: Tool, folder: Path) -> None:
    (folder / "in.mlir").write_text(large(5))
    (folder / "w").mkdir()
    said = opt("in.mlir", "--weights-out", "w/weights.safetensors").succeeded()
    assert '"w/weights.safetensors"' in said
    assert contents(folder).keys() == {"in.mlir", "w/weights.safetensors"}
    (folder / "out.mlir").write_text(said)
    run("out.mlir", "--output", "c.npy").succeeded()
    assert np.load(folder / "c.npy").tolist() == [5] * 65


def test_weights_out_and_an_output_elsewhere(opt: Tool, run: Tool, folder: Path) -> None:
    """The path in the text is relative to the text, not to where the tool ran."""
    (folder / "in.mlir").write_text(large(5))
    (folder / "w").mkdir()
    (folder / "ir").mkdir()
    opt("in.mlir", "--weights-out", "w/weights.safetensors", "-o", "ir/out.mlir").succeeded()
    assert '"../w/weights.safetensors"' in (folder / "ir" / "out.mlir").read_text()
    run("ir/out.mlir", "--output", "c.npy").succeeded()


def test_a_pass_adds_an_overlay(opt: Tool, run: Tool, imported: Path) -> None:
    before = contents(imported)
    expected = result(run, "model.mlir")
    opt("model.mlir", "--delay-dequant", "-o", "delayed.mlir").succeeded()
    assert before.items() <= contents(imported).items()
    np.testing.assert_allclose(result(run, "delayed.mlir"), expected, rtol=1e-12)


def overlaid(opt: Tool, folder: Path) -> None:
    """base.mlir and a module that takes its weights from there and has others of its own."""
    (folder / "in.mlir").write_text(large(1))
    opt("in.mlir", "-o", "base.mlir").succeeded()
    text = (folder / "base.mlir").read_text()
    second = '    %d = qvit.constant dense<7> : tensor<65xi8> {qvit.src = ["d"]}\n'
    total = "    %s = qvit.add %c, %d : (tensor<65xi8>, tensor<65xi8>) -> tensor<65xi32>\n    func.return %s : tensor<65xi32>\n"
    text = text.replace("-> tensor<65xi8> {", "-> tensor<65xi32> {")
    text = text.replace("    func.return %c : tensor<65xi8>\n", second + total)
    (folder / "sum.mlir").write_text(text)


def test_base_and_overlay(opt: Tool, run: Tool, folder: Path) -> None:
    overlaid(opt, folder)
    base = (folder / "base.safetensors").read_bytes()
    opt("sum.mlir", "-o", "out.mlir").succeeded()
    text = (folder / "out.mlir").read_text()
    assert text.index('"base.safetensors"') < text.index('"out.safetensors"')
    assert (folder / "base.safetensors").read_bytes() == base
    run("out.mlir", "--output", "c.npy").succeeded()
    assert np.load(folder / "c.npy").tolist() == [8] * 65


def test_in_place(opt: Tool, run: Tool, folder: Path) -> None:
    """The base stays readable: the new weights go into another file, however often."""
    overlaid(opt, folder)
    shutil.move(folder / "sum.mlir", folder / "base.mlir")
    before = contents(folder)
    opt("base.mlir", "-o", "base.mlir").succeeded()
    after = contents(folder)
    assert after.keys() - before.keys() == {"base.1.safetensors"}
    assert after["base.safetensors"] == before["base.safetensors"]
    run("base.mlir", "--output", "c.npy").succeeded()
    assert np.load(folder / "c.npy").tolist() == [8] * 65
    opt("base.mlir", "-o", "base.mlir").succeeded()
    assert contents(folder).keys() == after.keys() | {"c.npy"}
    run("base.mlir", "--output", "c.npy").succeeded()


def test_importing_again_replaces_the_weights(opt: Tool, run: Tool, imported: Path) -> None:
    before = contents(imported)
    opt("model.onnx", "--dim", "batch=2", "-o", "model.mlir").succeeded()
    assert contents(imported) == before


def test_the_folder_is_moved(opt: Tool, run: Tool, imported: Path) -> None:
    expected = result(run, "model.mlir")
    opt("model.mlir", "--delay-dequant", "-o", "delayed.mlir").succeeded()
    elsewhere = imported / "some" / "where else"
    elsewhere.mkdir(parents=True)
    for name in ("model.mlir", "model.safetensors", "delayed.mlir"):
        shutil.move(imported / name, elsewhere / name)
    for name in ("model.mlir", "delayed.mlir"):
        np.testing.assert_allclose(result(run, elsewhere / name), expected, rtol=1e-12)
        np.testing.assert_allclose(result(run, f"some/where else/{name}"), expected, rtol=1e-12)


def test_output_into_another_folder(opt: Tool, run: Tool, imported: Path) -> None:
    (imported / "deep" / "er").mkdir(parents=True)
    opt("model.mlir", "--canonicalize", "-o", "deep/er/out.mlir").succeeded()
    assert '"../../model.safetensors"' in (imported / "deep" / "er" / "out.mlir").read_text()
    np.testing.assert_array_equal(result(run, "deep/er/out.mlir"), result(run, "model.mlir"))


def test_from_another_folder(opt: Tool, run: Tool, imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of the text hold from the text's folder; on standard output, from the working directory."""
    expected = result(run, "model.mlir")
    (imported / "deep").mkdir()
    monkeypatch.chdir(imported / "deep")
    np.save("x.npy", X)
    said = opt("../model.mlir").succeeded()
    assert '"../model.safetensors"' in said
    Path("here.mlir").write_text(said)
    np.testing.assert_array_equal(result(run, "here.mlir"), expected)


def missing(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "weight file model.safetensors is missing"


def changed(folder: Path) -> str:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return "weight file model.safetensors is not the one that the module was made with: its SHA-256 differs"


def without_the_weight(folder: Path) -> str:
    text = (folder / "model.mlir").read_text()
    (folder / "model.mlir").write_text(text.replace('qvit.weight "w"', 'qvit.weight "v"'))
    return "weight 'v' is in none of the module's weight files (model.safetensors)"


def of_another_type(folder: Path) -> str:
    text = (folder / "model.mlir").read_text()
    (folder / "model.mlir").write_text(text.replace("40x3xi8", "40x3xui8"))
    return "weight 'w' is int8[40, 3] in its file, the module says tensor<40x3xui8>"


def no_safetensors(folder: Path) -> str:
    """The digest is right, the file is not."""
    import hashlib

    text = (folder / "model.mlir").read_text()
    digests = [hashlib.sha256(b).hexdigest() for b in ((folder / "model.safetensors").read_bytes(), b"no weights")]
    (folder / "model.mlir").write_text(text.replace(*digests))
    (folder / "model.safetensors").write_bytes(b"no weights")
    return "model.safetensors"


DAMAGE: list[Any] = [
    missing,
    changed,
    without_the_weight,
    of_another_type,
    no_safetensors,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights(opt: Tool, run: Tool, imported: Path, damage: Any) -> None:
    says = damage(imported)
    before = contents(imported)
    assert says in opt("model.mlir", "--delay-dequant", "-o", "out.mlir").failed()
    assert says in run("model.mlir", "--input", "x.npy").failed()
    assert contents(imported) == before


# --- ONNX models ---


def test_outputs_cut_a_graph(opt: Tool, imported: Path) -> None:
    said = opt("model.onnx", "--dim", "batch=2", "--outputs", "x_q").succeeded()
    assert '-> (tensor<2x3xi8> {qvit.name = "x_q"})' in said
    assert "qvit.linear" not in said


def test_no_such_output(opt: Tool, imported: Path) -> None:
    message = opt("model.onnx", "--dim", "batch=2", "--outputs", "/fc/Matmul").failed()
    assert message.startswith("qvit-opt: error: the graph has no tensor '/fc/Matmul'; did you mean ")
    assert "/fc/MatMul" in message


def test_dynamic_dimension(opt: Tool, imported: Path) -> None:
    message = opt("model.onnx", "-o", "out.mlir").failed()
    assert message == "qvit-opt: error: input 'x' has the dynamic dimension 'batch'; fix it with --dim batch=1"
    assert not (imported / "out.mlir").exists()


def test_no_such_dimension(opt: Tool, imported: Path) -> None:
    message = opt("model.onnx", "--dim", "batch=2", "--dim", "seq=7", "-o", "out.mlir").failed()
    assert message == "qvit-opt: error: no input has the dimension 'seq'; its dimensions are batch"


def test_what_was_not_recognised_is_said(opt: Tool, folder: Path) -> None:
    nodes = graph("a = Erf x\ny = Erf a")
    onnx.save(model(nodes, {"x": X}, "y"), folder / "model.onnx")
    done = opt("model.onnx")
    assert done.status == 0
    (note,) = done.err.splitlines()
    assert note == ("note: gelu at a and 1 more: the argument of erf: expected qvit.mul, found a function argument")


def test_passes_on_a_model(opt: Tool, run: Tool, imported: Path) -> None:
    opt("model.onnx", "--dim=batch=2", "--delay-dequant", "--canonicalize", "-o", "delayed.mlir").succeeded()
    assert "(tensor<2x3xi8>, tensor<40x3xi8>) -> tensor<2x40xi32>" in (imported / "delayed.mlir").read_text()
    np.testing.assert_allclose(result(run, "delayed.mlir"), result(run, "model.mlir"), rtol=1e-12)


def test_temporary_files_are_beside_the_target_and_gone(opt: Tool, imported: Path) -> None:
    assert not [name for name in os.listdir(imported) if name.startswith(".")]
