"""Threads: the same integers with any number of them, and what starts, stops and shares them."""

import ctypes
import gc
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import ir_text
import numpy as np
import pytest
from c_programs import FORMS, WARNINGS, compile_c, equal
from import_matrix import feeds, fixture_path, symbols
from import_matrix import load as load_onnx
from integer_graphs import inputs_for, integer_graph
from kernel_library import VARIANTS
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.c import Loaded, Sources, emit, load
from qvit.backends.c.loader import build
from qvit.backends.interpreter import run
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.semantics.integers import Array
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

COUNTS = (1, 2, 3, 7)
SEVEN = ("-DQVIT_THREADS=7", "-pthread")


# --- the same integers ---


@cache
def transformer(scheme: str) -> tuple[ModuleOp, list[Array]]:
    """A compiled model, and codes for it."""
    proto = load_onnx(fixture_path("vit_legacy17"))
    rng = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in feeds(proto, symbols(proto)).items()}
    batches = [{name: rng.normal(0.3, 1, shape) for name, shape in shapes.items()} for _ in range(3)]
    module, _ = import_onnx(proto, (), symbols(proto))
    compile_model(module, batches[:2], SCHEMES[scheme])
    return module, list(run(module, batches[2], function=QUANTIZE_INPUTS).values())


@pytest.mark.parametrize("form", ["plain", "fused", "portable"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(scheme: str, form: str, tmp_path: Path) -> None:
    module, codes = transformer(scheme)
    flags = ("-O1", *SEVEN, *(('-DQVIT_VARIANT="portable"',) if form == "portable" else ()))
    expected = list(run(module, codes, integers_only=True).values())
    sources = emit(module, fused=form != "plain")
    for threads in COUNTS:
        program = Loaded(sources, flags, tmp_path, threads)
        for _ in range(3):
            equal(program(*codes), expected)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed: int, tmp_path: Path) -> None:
    """Every emitter, and with its tensors on the way."""
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, 30, FORMS, every=False)
    sources = emit(module)
    one, *several = (Loaded(sources, ("-O0", *SEVEN), tmp_path, threads) for threads in COUNTS)
    for inputs in inputs_for(module, rng, 3):
        results, tensors = one.trace(*inputs)
        for program in several:
            equal(program(*inputs), results)
            equal([array for _, array in program.trace(*inputs)[1]], [array for _, array in tensors])


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize(("columns", "bits"), [(9, 8), (64, 8), (113, 3), (199, 8), (208, 5)])
def test_panels_of_columns(rows: int, columns: int, bits: int, tmp_path: Path) -> None:
    """Parts begin inside panels, at their ends, and there are fewer of them than threads."""
    rng = np.random.default_rng(rows)
    weight, bias = rng.integers(-1 << bits - 1, 1 << bits - 1, (columns, 13)), rng.integers(-9999, 9999, columns)
    module = ir_text.parse(f"""func.func @main(%x: tensor<{rows}x13xui8>) -> tensor<{rows}x{columns}xi8> {{
  %w = qvit.constant dense<{weight.tolist()}> : tensor<{columns}x13xi{bits}>
  %b = qvit.constant dense<{bias.tolist()}> : tensor<{columns}xi32>
  %0 = qvit.linear %x, %w, %b : (tensor<{rows}x13xui8>, tensor<{columns}x13xi{bits}>, tensor<{columns}xi32>) -> tensor<{rows}x{columns}xi32>
  %y = qvit.requantize %0 by #qvit.dyadic<1518500250, 39> rounding half_up : tensor<{rows}x{columns}xi32> -> tensor<{rows}x{columns}xi8>
  func.return %y : tensor<{rows}x{columns}xi8>
}}""")
    x = rng.integers(0, 256, (rows, 13))
    expected = list(run(module, [x.astype(np.uint8)]).values())
    for variant in VARIANTS:
        flags = ("-O0", *SEVEN, f'-DQVIT_VARIANT="{variant}"')
        for threads in COUNTS:
            equal(Loaded(emit(module), flags, tmp_path, threads)(x), expected)


def test_packed_weights(tmp_path: Path) -> None:
    """Those of fewer than 8 bits are unpacked by all threads, from a multiple of 8 on each."""
    weight = np.random.default_rng(0).integers(-4, 4, (67, 61))
    module = ir_text.parse(f"""func.func @main(%x: tensor<3x61xi16>) -> tensor<3x67xi64> {{
  %w = qvit.constant dense<{weight.tolist()}> : tensor<67x61xi3>
  %y = qvit.linear %x, %w : (tensor<3x61xi16>, tensor<67x61xi3>) -> tensor<3x67xi64>
  func.return %y : tensor<3x67xi64>
}}""")
    x = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, (3, 61))
    sources = emit(module)
    assert "qk_unpack(" in sources.texts["model.c"]
    for threads in COUNTS:
        equal(Loaded(sources, SEVEN, tmp_path, threads)(x), [x @ weight.T])


# --- starting and stopping ---


def test_they_start_and_stop(tmp_path: Path) -> None:
    """Threads are there from loading on, wait without running, and end with the program."""
    module, codes = transformer("best")
    gc.collect()  # programs of other tests
    expected, before = load(module, cache=tmp_path)(*codes), tasks()
    program = load(module, cache=tmp_path, threads=3)
    new = tasks() - before
    assert len(new) == 2
    for _ in range(3):
        equal(program(*codes), expected)
    assert soon(lambda: all(state(task) == "S" for task in new))  # asleep
    equal(program(*codes), expected)
    del program
    gc.collect()
    assert soon(lambda: tasks() == before)


def test_a_number_of_threads_that_cannot_be(tmp_path: Path) -> None:
    module = transformer("best")[0]
    with pytest.raises(ValueError, match="expected 1 thread or more, found 0"):
        load(module, cache=tmp_path, threads=0)
    with pytest.raises(ValueError, match="1 to the QVIT_THREADS"):
        Loaded(emit(module), (), tmp_path, 2)


class Raw:
    """The functions of model.h."""

    def __init__(self, sources: Sources, flags: Sequence[str], folder: Path) -> None:
        self.library = ctypes.CDLL(str(build(sources, flags, folder)))
        self.library.qvit_message.restype = ctypes.c_char_p
        self.library.qvit_arena_size.restype = self.library.qvit_max_threads.restype = ctypes.c_size_t
        self.model, size = (ctypes.c_void_p * 2)(), ctypes.c_size_t
        self.arena, self.weights = aligned(self.library.qvit_arena_size()), aligned(len(sources.weights))
        self.weights[:] = np.frombuffer(sources.weights, np.uint8)
        given = (self.arena.ctypes.data, size(self.arena.size), self.weights.ctypes.data, size(self.weights.size))
        pointers = (ctypes.c_void_p(v) if isinstance(v, int) else v for v in given)
        assert self.library.qvit_init(self.model, *pointers) == 0

    def set(self, threads: int) -> str:
        return self.library.qvit_message(self.library.qvit_set_threads(self.model, ctypes.c_size_t(threads))).decode()

    def run(self, inputs: Sequence[Array], expected: Sequence[Array]) -> None:
        made = [np.empty_like(array) for array in expected]
        pointers = [(ctypes.c_void_p * len(a))(*(x.ctypes.data for x in a)) for a in (inputs, made)]
        assert self.library.qvit_run(self.model, *pointers) == 0
        equal(made, expected)


def aligned(size: int) -> Array:
    memory = np.zeros(size + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def tasks() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true: the system lists a thread for a moment after it has ended."""
    for _ in range(20_000):
        if condition():
            return True
        time.sleep(0.001)
    return False


def state(task: str) -> str:
    return Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0]


def test_other_numbers_of_threads(tmp_path: Path) -> None:
    module, codes = transformer("best")
    gc.collect()
    expected, before = list(run(module, codes, integers_only=True).values()), len(tasks())
    raw = Raw(emit(module), SEVEN, tmp_path)
    assert raw.library.qvit_max_threads() == 7
    for threads in (1, 1, 4, 4, 7, 2, 1, 3, 1):
        assert raw.set(threads) == "success"
        assert soon(lambda threads=threads: len(tasks()) == before + threads - 1)
        raw.run(codes, expected)
    assert raw.set(3) == "success"
    for wrong in (0, 8, 1 << 40):
        assert "is not 1 to the QVIT_THREADS" in raw.set(wrong)
        assert len(tasks()) == before + 2  # as they were
    raw.run(codes, expected)
    assert raw.set(1) == "success"
    assert raw.library.qvit_set_threads(None, ctypes.c_size_t(1)) == 1
    assert raw.library.qvit_set_threads((ctypes.c_void_p * 2)(), ctypes.c_size_t(1)) == 1


def test_by_default_there_is_one(tmp_path: Path) -> None:
    """Nothing of threads is even included; the memory is what is planned."""
    sources = emit(transformer("best")[0])
    raw = Raw(sources, (), tmp_path)
    assert raw.library.qvit_max_threads() == 1
    assert raw.library.qvit_arena_size() == sources.arena
    assert raw.set(1) == "success"
    assert "is not 1 to the QVIT_THREADS" in raw.set(2)
    sources.write(tmp_path)
    for flags, included in (((), False), (SEVEN, True)):
        command = ["gcc", *flags, "-M", "model.c"]
        read = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert ("pthread.h" in read) is included


REFUSED = """#include <errno.h>
#include <pthread.h>
int qvit_test_starts = 0;
static inline int start(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *x)
{ return qvit_test_starts-- > 0 ? pthread_create(t, a, f, x) : EAGAIN; }
#define pthread_create start
"""


def test_threads_that_cannot_be_started(tmp_path: Path) -> None:
    """What was started is ended; the model goes on with one, and can try again."""
    module, codes = transformer("best")
    gc.collect()
    expected, before = list(run(module, codes, integers_only=True).values()), tasks()
    (tmp_path / "refused.h").write_text(REFUSED)
    raw = Raw(emit(module), (*SEVEN, "-include", str(tmp_path / "refused.h")), tmp_path)
    allowed = ctypes.c_int.in_dll(raw.library, "qvit_test_starts")
    for starts, wanted in ((0, 2), (0, 5), (1, 3), (5, 7), (3, 6)):
        allowed.value = starts
        assert raw.set(wanted) == "a thread could not be started"
        assert soon(lambda: tasks() == before)
        raw.run(codes, expected)
    allowed.value = 9
    assert raw.set(3) == "success"
    allowed.value = 0
    assert raw.set(4) == "a thread could not be started"
    assert soon(lambda: tasks() == before)
    allowed.value = 9
    assert raw.set(4) == "success"
    raw.run(codes, expected)
    assert raw.set(1) == "success"


def test_two_models_at_once(tmp_path: Path) -> None:
    found = [transformer(scheme) for scheme in ("best", "i-vit")]
    programs = [load(module, cache=tmp_path, threads=n) for module, _ in found for n in (2, 3)]
    codes = [codes for _, codes in found for _ in range(2)]
    expected = [program(*given) for program, given in zip(programs, codes, strict=True)]

    def repeated(k: int) -> None:
        for _ in range(10):
            equal(programs[k](*codes[k]), expected[k])

    with ThreadPoolExecutor(len(programs)) as pool:
        list(pool.map(repeated, range(len(programs))))
    equal(expected[0], list(run(*found[0], integers_only=True).values()))


# --- sanitizers, and the program's own main ---

HARNESS = """
#include "model.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned char *weights;
static void *from[64];
static void *expected[64];

static void require(int status) {
    if (status) { fprintf(stderr, "%s\\n", qvit_message(status)); exit(1); }
}

static void *space(size_t n) { return aligned_alloc(64, (n + 63) / 64 * 64 + 64); }

static void runs(int first) {
    static const size_t counts[] = {2, 3, 1, 7, 2};
    qvit_model model;
    void *arena = space(qvit_arena_size()), *to[64];
    require(qvit_init(&model, arena, qvit_arena_size(), weights, qvit_weights_size()));
    for (size_t k = 0; k < qvit_output_count(); ++k) to[k] = space(qvit_output(k)->bytes);
    for (int i = 0; i < (first ? 1 : 15); ++i) {
        require(qvit_set_threads(&model, first ? 1 : counts[i / 3]));
        require(qvit_run(&model, (const void *const *)from, to));
        for (size_t k = 0; k < qvit_output_count(); ++k) {
            const size_t n = qvit_output(k)->bytes;
            if (first) { expected[k] = space(n); memcpy(expected[k], to[k], n); }
            else if (memcmp(expected[k], to[k], n)) { fputs("not the same\\n", stderr); exit(1); }
        }
    }
    require(qvit_set_threads(&model, 1));
    free(arena);
    for (size_t k = 0; k < qvit_output_count(); ++k) free(to[k]);
}

static void *at_once(void *unused) { runs(0); return unused; }

int main(void) {
    unsigned char *read = space(qvit_weights_size());
    FILE *file = fopen("model.weights", "rb");
    if (!file || fread(read, 1, qvit_weights_size(), file) != qvit_weights_size()) return 2;
    fclose(file);
    weights = read;
    for (size_t k = 0; k < qvit_input_count(); ++k) {
        from[k] = space(qvit_input(k)->bytes);
        memset(from[k], 3, qvit_input(k)->bytes);
    }
    runs(1);
    pthread_t other[2];
    for (int i = 0; i < 2; ++i) if (pthread_create(&other[i], NULL, at_once, NULL)) return 3;
    for (int i = 0; i < 2; ++i) pthread_join(other[i], NULL);
    for (size_t k = 0; k < qvit_input_count(); ++k) free(from[k]);
    for (size_t k = 0; k < qvit_output_count(); ++k) free(expected[k]);
    free(read);
    return 0;
}
"""


def sanitised(sources: Sources, sanitizer: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Two models of one program at once, with changing numbers of threads."""
    sources.write(folder)
    (folder / "harness.c").write_text(HARNESS)
    command = ["gcc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    # the sanitizer of threads does not see what intrinsics store
    simd = ("-DQK_NO_SIMD",) if sanitizer == "thread" else ()
    compile_c([*command, *SEVEN, *simd, "-o", "harness", "model.c", "harness.c"], folder)
    # without random addresses, which the sanitizer of threads cannot do with on newer kernels
    return subprocess.run(["setarch", "-R", "./harness"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
@pytest.mark.parametrize("fused", [True, False])
def test_sanitised(sanitizer: str, fused: bool, tmp_path: Path) -> None:
    done = sanitised(emit(transformer("best")[0], fused=fused), sanitizer, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_race_without_sleep(tmp_path: Path) -> None:
    """The lock of a thread that falls asleep orders more than a meeting does."""
    done = sanitised(awake(emit(transformer("best")[0])), "thread", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_race_would_be_found(tmp_path: Path) -> None:
    """Without the meeting before attention, of which each part reads all keys and values."""
    sources = emit(transformer("best")[0])
    steps = sources.program.steps
    meetings = sources.texts["model.c"].split("    MEET();\n")
    assert len(meetings) == len(steps) + 1
    k = next(k for k, step in enumerate(steps) if any(isinstance(op, IntSoftmaxOp) for op in step.ops)) - 1
    broken = "    MEET();\n".join([*meetings[:k], meetings[k] + meetings[k + 1], *meetings[k + 2 :]])
    done = sanitised(awake(changed(sources, "model.c", broken)), "thread", tmp_path)
    assert "data race" in done.stderr


def changed(sources: Sources, name: str, text: str) -> Sources:
    return replace(sources, texts={**sources.texts, name: text})


def awake(sources: Sources) -> Sources:
    """Threads that wait for each other without end."""
    text = sources.texts["qk_threads.h"]
    assert text.count("QK_SPINS = 500 ") == 1
    return changed(sources, "qk_threads.h", text.replace("QK_SPINS = 500 ", "QK_SPINS = 0x7fffffff "))


@pytest.mark.parametrize("tool", ["make", "cmake"])
def test_main_with_threads(tool: str, tmp_path: Path) -> None:
    module, (codes,) = transformer("best")
    (expected,) = run(module, [codes], integers_only=True).values()
    emit(module).write(tmp_path)
    (tmp_path / "in").write_bytes(codes.tobytes())
    if tool == "make":
        compile_c(["make", "THREADS=3", f"CFLAGS=-O1 {' '.join(WARNINGS)}"], tmp_path)
    else:
        compile_c(["cmake", "-DTHREADS=3", "."], tmp_path)
        compile_c(["cmake", "--build", "."], tmp_path)
    for threads in ("1", "2", "3"):
        compile_c(["./main", "-t", threads, "model.weights", "in", "out"], tmp_path)
        assert (tmp_path / "out").read_bytes() == expected.tobytes()
    for threads in ("0", "4", "two"):
        command = ["./main", "-t", threads, "model.weights", "in", "out"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("-t: the number of threads is not 1 to the QVIT_THREADS")
