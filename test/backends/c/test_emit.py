"""The files of a program: without warnings and floats in every compiler, readable, and the same weights everywhere."""

import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import ir_text
import numpy as np
import pytest
from c_programs import FORMS, WARNINGS, compile_c, equal, run_main
from integer_graphs import inputs_for, integer_graph
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.c import CompileError, Sources, emit
from qvit.backends.c.program import EMITTERS
from qvit.backends.interpreter import ExecutionError, run
from qvit.dialects.semantics.integers import IntType

COMPILERS = {
    "gcc": ["gcc", "-std=c11", "-O2"],
    "gcc without optimisation": ["gcc", "-std=c11", "-O0"],
    "clang": ["clang", "-std=c11", "-O2", "-Wno-unused-command-line-argument"],
    "g++": ["g++", "-std=c++17", "-O2", "-x", "c++"],
    "clang++": ["clang++", "-std=c++17", "-O2", "-x", "c++"],
    "integer registers alone": ["gcc", "-std=c11", "-O2", "-mgeneral-regs-only"],
}


@cache
def graphs() -> list[ModuleOp]:
    """Programs that hold every operation between them."""
    found: list[ModuleOp] = []
    missing = set(EMITTERS)
    for seed in range(200):
        module = integer_graph(np.random.default_rng(seed), 30, FORMS)
        if fresh := missing & {type(op) for op in module.walk()}:
            found.append(module)
            missing -= fresh
        if not missing:
            return found
    raise AssertionError(missing)


@cache
def programs() -> list[Sources]:
    return [emit(module) for module in graphs()]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    for sources in programs():
        sources.write(tmp_path)
        forms = ((), ("-DQVIT_TRACE",), ("-DQVIT_TRACE", "-DQVIT_THREADS=3")) if compiler in ("gcc", "g++") else ((),)
        for flags in forms:
            compile_c([*COMPILERS[compiler], *WARNINGS, *flags, "-c", "-o", "model.o", "model.c"], tmp_path)
    if "-mgeneral-regs-only" not in COMPILERS[compiler]:
        compile_c([*COMPILERS[compiler], *WARNINGS, "-c", "-o", "main.o", "main.c"], tmp_path)


# --- no floats ---

FLOAT = re.compile(
    r"\b(float|double|_Float\w*|__fp16|_Decimal\w*|_Complex|\w*math\.h|float\.h)\b|\d\.\d|\b\d+\.(?!\.)|\b\d+[eE][+-]?\d"
)


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def test_no_float_in_the_text() -> None:
    for sources in programs():
        for name, text in sources.texts.items():
            if name.endswith((".c", ".h")):
                code = re.sub(
                    r'"(?:[^"\\]|\\.)*"', '""', re.sub(r'#include ["<][^">]*[">]', "", without_comments(text))
                )
                assert FLOAT.search(code) is None, name
    for wrong in ("float x;", "x = 1.5;", "x = 1e3;", "x = 2.;", "double f(void);"):
        assert FLOAT.search(wrong)


ARITHMETIC = re.compile(
    r"v?f?n?m?(add|sub|addsub|mul|div|sqrt|max|min|rcp\d*|rsqrt\d*|cmp\w*|u?comi|round|rndscale|dp|hadd|hsub|scalef|"
    r"(f|fn)m(add|sub|addsub)\w*?)(ss|sd|ps|pd|sh|ph)|v?cvt\w+|f(add|sub|mul|div|sqrt|ld|ild|st|ist|com|ucom|abs|chs)\w*"
)


def float_instructions(file: Path) -> list[str]:
    """Mnemonics of floating-point arithmetic in an object file."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True
    ).stdout
    found = [
        line.split("\t")[1].split()[0] for line in text.splitlines() if line.count("\t") >= 1 and line.split("\t")[1]
    ]
    assert found
    return [mnemonic for mnemonic in found if ARITHMETIC.fullmatch(mnemonic)]


def needed(file: Path) -> set[str]:
    """The symbols that an object file takes from others."""
    text = subprocess.run(["nm", "-u", file], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in text.splitlines()}


@pytest.mark.parametrize("compiler", ["gcc", "clang", "integer registers alone"])
@pytest.mark.parametrize("flags", [(), ("-O3", "-march=x86-64-v3")], ids=["plain", "vectorised"])
def test_no_float_in_the_object(compiler: str, flags: Sequence[str], tmp_path: Path) -> None:
    for sources in programs():
        sources.write(tmp_path)
        compile_c([*COMPILERS[compiler], *flags, "-c", "-o", "model.o", "model.c"], tmp_path)
        assert float_instructions(tmp_path / "model.o") == []
        # what compilers take for granted even without a C library
        assert needed(tmp_path / "model.o") <= {"memcpy", "memmove", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}


def test_a_float_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "f.c").write_text("double f(double x, int y) { return x * y; }\nfloat g(float x) { return x + 1; }\n")
    compile_c(["gcc", "-O2", "-c", "f.c"], tmp_path)
    assert {"mulsd", "addss"} <= set(float_instructions(tmp_path / "f.o"))
    compile_c(["gcc", "-O2", "-mavx2", "-mfma", "-c", "f.c"], tmp_path)
    assert {"vmulsd", "vaddss"} <= set(float_instructions(tmp_path / "f.o"))


# --- the same results everywhere ---

RUNS = {
    "gcc -O0": ["gcc", "-std=c11", "-O0"],
    "gcc -O3": ["gcc", "-std=c11", "-O3", "-march=native"],
    "clang -O3": ["clang", "-std=c11", "-O3", "-march=native"],
    "c++": ["g++", "-std=c++17", "-O2", "-x", "c++"],
    "sanitizers": ["gcc", "-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    # which needs no runtime library: what it finds ends the program
    "sanitizer of clang": ["clang", "-std=c11", "-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined"],
}


@pytest.mark.parametrize("build", RUNS)
def test_every_build(build: str, tmp_path: Path) -> None:
    """main on files, whose results are the interpreter's; sanitizers find nothing."""
    ran = 0
    for module, sources in zip(graphs(), programs(), strict=True):
        for inputs in inputs_for(module, np.random.default_rng(5), 2):
            try:
                expected = run(module, inputs)
            except ExecutionError:
                continue
            equal(run_main(sources, RUNS[build], tmp_path, inputs), list(expected.values()))
            ran += 1
            break  # one build for each program
    assert ran


# --- what stands in the files ---

TEXT = """func.func @quantize_inputs(%x: tensor<1x3xf32>) -> tensor<1x3xi4> {
  %q = qvit.quantize %x <0.5, zero_point = 3> {qvit.src = ["a*/b"]} : tensor<1x3xf32> -> tensor<1x3xi4>
  func.return %q : tensor<1x3xi4>
}
func.func @main(%q: tensor<1x3xi4> {qvit.name = "q\\22\\\\ */"}) -> (tensor<1x3xi32> {qvit.name = "sum"}) {
  %y = qvit.add %q, %q {qvit.src = ["/block/Add"]} : (tensor<1x3xi4>, tensor<1x3xi4>) -> tensor<1x3xi32>
  %z = qvit.mul %y, %q {qvit.src = ["/block/Mul"]} : (tensor<1x3xi32>, tensor<1x3xi4>) -> tensor<1x3xi32>
  func.return %z : tensor<1x3xi32>
}
"""


def test_the_text() -> None:
    """A function for each operation below its IR line, without the names of source nodes; names that C cannot print."""
    sources = emit(ir_text.parse(TEXT))
    code, header = sources.texts["model.c"], sources.texts["model.h"]
    assert (
        "/* %y = qvit.add %q, %q : (tensor<1x3xi4>, tensor<1x3xi4>) -> tensor<1x3xi32> */\nstatic void step_0_add("
        in code
    )
    assert "/* %z = qvit.mul %y, %q : (tensor<1x3xi32>, tensor<1x3xi4>) -> tensor<1x3xi32> */\n" in code
    assert "qvit.src" not in code + header
    assert r'{"q\042\134 */", "i4", 3, 2, {1, 3}}' in code
    assert " *   %q = qvit.quantize %x <0.5, zero_point = 3> : tensor<1x3xf32> -> tensor<1x3xi4>\n" in header
    assert header.count("*/") == len(re.findall(r"/\*", header))


def test_codes_that_do_not_fit(tmp_path: Path) -> None:
    """i4 in a byte: the program refuses 8, and -9."""
    sources = emit(ir_text.parse(TEXT))
    command = ["gcc", "-std=c11", "-fsanitize=address,undefined"]
    (found,) = run_main(sources, command, tmp_path, [np.array([[7, -8, 0]], np.int8)])
    assert found.tolist() == [[98, 128, 0]]
    for wrong in (8, -9):
        (tmp_path / "in0").write_bytes(np.array([[0, 0, wrong]], np.int8).tobytes())
        done = subprocess.run(
            ["./main", "model.weights", "in0", "out0"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (1, "main: an input has a value that does not fit its type\n")


WRONG_FILES = {
    "no weights": ({"model.weights": None}, "model.weights: cannot be read"),
    "truncated weights": ({"model.weights": slice(0, 64)}, "model.weights: the weights are truncated"),
    "a cut header": ({"model.weights": slice(0, 63)}, "model.weights: the weights are truncated"),
    "no input": ({"in0": None}, "in0: cannot be read"),
    "a short input": ({"in0": slice(0, 2)}, "in0: expected 3 bytes, found 2"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files(name: str, tmp_path: Path) -> None:
    text = TEXT.replace("%z = ", "%c = qvit.constant dense<[1, 2, 3]> : tensor<3xi32>\n  %z = ").replace(
        "%y, %q {qvit.src", "%y, %c {qvit.src"
    )
    text = text.replace("(tensor<1x3xi32>, tensor<1x3xi4>)", "(tensor<1x3xi32>, tensor<3xi32>)")
    run_main(emit(ir_text.parse(text)), ["gcc", "-fsanitize=address,undefined"], tmp_path, [np.zeros((1, 3), np.int8)])
    damage, says = WRONG_FILES[name]
    for file, part in damage.items():
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).unlink()
        if part is not None:
            (tmp_path / file).write_bytes(content[part])
    done = subprocess.run(
        ["./main", "model.weights", "in0", "out0"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, says + "\n")


def test_usage(tmp_path: Path) -> None:
    run_main(emit(ir_text.parse(TEXT)), ["gcc"], tmp_path, [np.zeros((1, 3), np.int8)])
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, 'usage: main [-t THREADS] WEIGHTS INPUT:q"\\ */ OUTPUT:sum\n')


@pytest.mark.parametrize("array", [False, True], ids=["incbin", "array"])
def test_makefile(array: bool, tmp_path: Path) -> None:
    """make builds main; make EMBED=1 puts the weights into the library."""
    sources = programs()[0]
    sources.write(tmp_path, array)
    if array:
        (tmp_path / "weights.S").write_text("not this one")
        for compiler in ("gcc", "g++"):
            compile_c([*COMPILERS[compiler], *WARNINGS, "-c", "-o", "weights.o", "weights.c"], tmp_path)
    compile_c(["make", "CFLAGS=-O0"], tmp_path)
    assert (tmp_path / "main").exists()
    compile_c(["make", "clean"], tmp_path)
    compile_c(["make", "EMBED=1", "CFLAGS=-O0"], tmp_path)
    (tmp_path / "embedded.c").write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "extern const unsigned char qvit_weights[];\n"
        "static _Alignas(64) unsigned char arena[1 << 20];\n"
        "int main(void) {\n    qvit_model m;\n"
        "    puts(qvit_message(qvit_init(&m, arena, sizeof arena, qvit_weights, qvit_weights_size())));\n    return 0;\n}\n"
    )
    compile_c(["gcc", "-std=c11", "-o", "embedded", "embedded.c", "libmodel.a"], tmp_path)
    done = subprocess.run(["./embedded"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "success\n")


# --- weights ---


def constant(numbers: str, element: str) -> str:
    return f"""func.func @main(%x: tensor<2x{element}>) -> tensor<2xi32> {{
      %c = qvit.constant dense<{numbers}> : tensor<2x{element}>
      %y = qvit.add %x, %c : (tensor<2x{element}>, tensor<2x{element}>) -> tensor<2xi32>
      func.return %y : tensor<2xi32>
    }}"""


def test_weights_of_another_byte_order() -> None:
    """The same model, by its digest; numbers turned around."""
    module = ir_text.parse(constant("[1, 770]", "i16"))
    little, big = emit(module).weights, emit(module, "big").weights
    assert little[24:56] == big[24:56]
    assert little[64:68] == bytes([1, 0, 2, 3])
    assert big[64:68] == bytes([0, 1, 3, 2])
    assert little[8:12] == bytes([4, 3, 2, 1])
    assert big[8:12] == bytes([1, 2, 3, 4])
    assert len(little) == len(big) == 128


def test_equal_constants_are_kept_once() -> None:
    rows = ", ".join("5" * 100)
    lines = [
        *(f"%c{k} = qvit.constant dense<[{rows}]> : tensor<100xi8>" for k in range(2)),
        "%y = qvit.add %c0, %c1 : (tensor<100xi8>, tensor<100xi8>) -> tensor<100xi32>",
    ]
    assert len(emit(ir_text.parse(ir_text.function(lines, {}))).weights) == 64 + 128


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing(bits: int) -> None:
    """Least significant bit first, without gaps, against Python's own integers."""
    from qvit.backends.c.weights import pack

    held = IntType(bits, bits % 2 == 0)
    codes = np.random.default_rng(bits).integers(held.lo, held.hi, 29, endpoint=True).astype(held.dtype)
    whole = sum((int(code) % (1 << bits)) << (bits * k) for k, code in enumerate(codes))
    assert pack(codes, bits) == whole.to_bytes(-(-29 * bits // 8), "little")


def test_an_unknown_operation_is_refused() -> None:
    text = """func.func @main(%x: tensor<2xi8>) -> tensor<2xi8> {
      %y = "test.pureop"(%x) : (tensor<2xi8>) -> tensor<2xi8>
      func.return %y : tensor<2xi8>
    }"""
    with pytest.raises(CompileError, match=r"test.pureop.*there is no C for this operation; run --integerize"):
        emit(ir_text.parse(text))
