"""Whole programs of fused steps as users build them: every compiler, without warnings and floats, by make and by CMake; with
the same results in every variant of the kernels."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from backends.c.test_emit import COMPILERS, RUNS, float_instructions, needed
from backends.c.test_fuse import everything
from c_programs import CHOOSING, WARNINGS, compile_c, equal, run_files
from kernel_library import VARIANTS
from whole_programs import transformer

from qvit.backends.c import emit, load
from qvit.backends.c.fuse import HEADERS
from qvit.dialects.ops.shape import BroadcastOp
from qvit.transforms.pipelines import SCHEMES


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    transformer("best").sources.write(tmp_path)
    compile_c([*COMPILERS[compiler], *WARNINGS, "-c", "-o", "model.o", "model.c"], tmp_path)


@pytest.mark.parametrize("build", RUNS)
def test_every_build(build: str, tmp_path: Path) -> None:
    """In every variant of the kernels; sanitizers find nothing."""
    whole = transformer("best")
    whole.sources.write(tmp_path)
    compile_c([*RUNS[build], *CHOOSING, "-o", "main", "model.c", "main.c"], tmp_path)
    for variant in VARIANTS:
        equal(run_files(whole.sources, ["./main"], tmp_path, whole.codes, variant=variant), whole.expected)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_float_in_the_object(scheme: str, tmp_path: Path) -> None:
    transformer(scheme).sources.write(tmp_path)
    compile_c([*COMPILERS["gcc"], "-c", "-o", "model.o", "model.c"], tmp_path)
    require_integers(tmp_path / "model.o")


def require_integers(file: Path) -> None:
    """No arithmetic of floating point, and of other libraries only what compilers take for granted, and strcmp."""
    assert float_instructions(file) == []
    assert needed(file) <= {"memcpy", "memmove", "memset", "memcmp", "strcmp", "_GLOBAL_OFFSET_TABLE_"}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [(), ("-O3", "-march=x86-64-v4")], ids=["plain", "vectorised"])
def test_no_float_in_any_variant(compiler: str, flags: Sequence[str], tmp_path: Path) -> None:
    emit(everything()).write(tmp_path)
    compile_c([*COMPILERS[compiler], *flags, "-c", "-o", "model.o", "model.c"], tmp_path)
    require_integers(tmp_path / "model.o")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integer_registers_alone(scheme: str, tmp_path: Path) -> None:
    """No register but those of integers, as in a kernel of an operating system; main, which prints, is no part of it."""
    whole = transformer(scheme)
    whole.sources.write(tmp_path)
    compile_c([*COMPILERS["integer registers alone"], "-c", "-o", "model.o", "model.c"], tmp_path)
    require_integers(tmp_path / "model.o")
    compile_c(["gcc", "-o", "main", "model.o", "main.c"], tmp_path)
    equal(run_files(whole.sources, ["./main"], tmp_path, whole.codes), whole.expected)


# --- by make and by CMake ---

EMBEDDED = """\
#include "model.h"

#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" const unsigned char qvit_weights[];
#define ALIGNED alignas(64)
#else
extern const unsigned char qvit_weights[];
#define ALIGNED _Alignas(64)
#endif
ALIGNED static unsigned char arena[1 << 16];
ALIGNED static unsigned char input[1 << 12];
ALIGNED static unsigned char output[1 << 12];

int main() {
    qvit_model model;
    const void *from[1] = {input};
    void *to[1] = {output};
    int status = qvit_init(&model, arena, sizeof arena, qvit_weights, qvit_weights_size());
    if (status == QVIT_OK && fread(input, 1, qvit_input(0)->bytes, stdin) == qvit_input(0)->bytes) {
        status = qvit_run(&model, from, to);
        fwrite(output, 1, qvit_output(0)->bytes, stdout);
    }
    return status;
}
"""


def folder(tmp_path: Path, array: bool) -> Path:
    transformer("best").sources.write(tmp_path, array)
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    (tmp_path / "embedded.cpp").write_text(EMBEDDED)
    if array:
        (tmp_path / "weights.S").write_text("not this one")
    return tmp_path


def require_embedded(program: str, place: Path) -> None:
    """A program with the weights in it makes of stdin what the interpreter does."""
    whole = transformer("best")
    done = subprocess.run([program], cwd=place, input=whole.codes[0].tobytes(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    (expected,) = whole.expected
    assert done.stdout == expected.tobytes()


@pytest.mark.parametrize("array", [False, True], ids=["incbin", "array"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_make(compiler: str, array: bool, tmp_path: Path) -> None:
    place, whole = folder(tmp_path, array), transformer("best")
    flags = f"CFLAGS=-O1 {' '.join(WARNINGS)}"
    compile_c(["make", f"CC={compiler}", flags], place)
    equal(run_files(whole.sources, ["./main"], place, whole.codes), whole.expected)
    compile_c(["make", "clean"], place)
    compile_c(["make", "EMBED=1", f"CC={compiler}", flags, "libmodel.a"], place)
    compile_c([compiler, "-std=c11", "-o", "embedded", "embedded.c", "libmodel.a"], place)
    require_embedded("./embedded", place)
    plus = {"gcc": "g++", "clang": "clang++"}[compiler]
    compile_c([plus, "-std=c++17", *WARNINGS, "-o", "embedded++", "embedded.cpp", "libmodel.a"], place)
    require_embedded("./embedded++", place)


@pytest.mark.parametrize(("compiler", "array"), [("gcc", False), ("clang", True)])
def test_cmake(compiler: str, array: bool, tmp_path: Path) -> None:
    """Alone, and with the weights in the library, as a part of another project."""
    place, whole = folder(tmp_path, array), transformer("best")
    start = [
        "cmake",
        f"-DCMAKE_C_COMPILER={compiler}",
        f"-DCMAKE_C_FLAGS={' '.join(WARNINGS)}",
        "-DCMAKE_C_FLAGS_RELEASE=-O1",
    ]
    compile_c([*start, "-S", ".", "-B", "build"], place)
    compile_c(["cmake", "--build", "build"], place)
    equal(run_files(whole.sources, ["build/main"], place, whole.codes), whole.expected)
    user = tmp_path / "user"
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        'cmake_minimum_required(VERSION 3.10)\nproject(user C CXX)\nset(CMAKE_CXX_STANDARD 17)\nset(EMBED ON CACHE BOOL "")\n'
        "add_subdirectory(.. model)\nadd_executable(embedded ../embedded.cpp)\ntarget_link_libraries(embedded PRIVATE model)\n"
    )
    compile_c([*start, "-S", "user", "-B", "user/build"], place)
    compile_c(["cmake", "--build", "user/build", "--target", "embedded"], place)
    require_embedded("user/build/embedded", place)


# --- batches ---


@pytest.mark.parametrize(("name", "apart"), [("plain_batch_legacy17", 3), ("dinov2_free_legacy17", 8)])
def test_batches(name: str, apart: int, tmp_path: Path) -> None:
    """The same steps, and the interpreter's integers, of one picture and of several."""
    found: list[list[tuple[int, bool]]] = []
    for batch in (1, 2, 5):
        whole = transformer("best", name=name, batch=batch)
        assert whole.codes[0].shape[0] == batch
        steps = whole.sources.program.steps
        # positions are repeated for each picture, by a step of its own
        found.append([(len(s.ops), s.headers == HEADERS) for s in steps if not isinstance(s.ops[0], BroadcastOp)])
        assert len(found[-1]) == len(steps) - (batch > 1)
        equal(load(whole.module, cache=tmp_path, flags=("-O1",))(*whole.codes), whole.expected)
        if batch > 1:
            assert not np.array_equal(whole.expected[0][0], whole.expected[0][1])
    assert found[0] == found[1] == found[2]
    assert sum(not fast for _, fast in found[0]) == apart
