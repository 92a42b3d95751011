"""Programs in this process: compiled once, called with arrays, and clear errors where that is impossible."""

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import ir_text
import numpy as np
import pytest

from qvit.backends.c import CompileError, Loaded, NoCompiler, emit, load
from qvit.backends.c.loader import build, cache_folder, find_compiler

PROGRAM = """func.func @main(%a: tensor<2x3xi4> {qvit.name = "left"}, %b: tensor<3xi32>) -> (tensor<2x3xi64>, tensor<6xi4>) {
  %c = qvit.constant dense<[1, 2, 3]> : tensor<3xi32>
  %s = qvit.add %b, %c : (tensor<3xi32>, tensor<3xi32>) -> tensor<3xi64>
  %y = qvit.mul %a, %s : (tensor<2x3xi4>, tensor<3xi64>) -> tensor<2x3xi64>
  %r = qvit.reshape %a : tensor<2x3xi4> -> tensor<6xi4>
  func.return %y, %r : tensor<2x3xi64>, tensor<6xi4>
}"""
A, B = np.array([[1, -8, 7], [0, 2, 3]], np.int8), np.array([10, 20, 30], np.int32)


@pytest.fixture
def program(tmp_path: Path) -> Loaded:
    return load(ir_text.parse(PROGRAM), cache=tmp_path)


def test_a_call(program: Loaded) -> None:
    y, r = program(A, B)
    assert (y.dtype, y.tolist()) == (np.int64, [[11, -176, 231], [0, 44, 99]])
    assert (r.dtype, r.tolist()) == (np.int8, [1, -8, 7, 0, 2, 3])
    assert [port.name for port in program.inputs] == ["left", "input1"]
    assert [port.name for port in program.outputs] == ["output0", "output1"]


def test_arrays_of_other_types_and_layouts(program: Loaded) -> None:
    """What fits is converted; what comes back is new memory each time."""
    first = program(A, B)[0]
    again = program(np.asfortranarray(A.astype(np.int64)), B[::-1][::-1].astype(np.int16))[0]
    assert first.tolist() == again.tolist()
    assert not np.shares_memory(first, again)


def test_a_trace(program: Loaded) -> None:
    results, tensors = program.trace(A, B)
    assert [value.op.name for value, _ in tensors] == ["qvit.add", "qvit.mul"]
    assert tensors[0][1].tolist() == [11, 22, 33]
    assert tensors[1][1].tolist() == results[0].tolist()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((A,), r"expected 2 inputs \(left, input1\), found 1"),
        ((A.T, B), r"input 'left': expected shape \(2, 3\), found \(3, 2\)"),
        ((A.astype(np.float32), B), "input 'left': expected i4, found float32"),
        ((A + np.int8(1), B), "input 'left': values -7..8 do not fit i4"),
    ],
)
def test_inputs_that_do_not_fit(program: Loaded, inputs: tuple[np.ndarray, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        program(*inputs)


# --- the compiler and the cache ---


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoCompiler, match=r"no C compiler found \(gcc, clang, cc\); install one .*apt-get install gcc"):
        load(ir_text.parse(PROGRAM), cache=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "nocc -m32")
    with pytest.raises(NoCompiler, match=r"\$CC names nocc, which is not installed"):
        load(ir_text.parse(PROGRAM), cache=tmp_path)


def test_the_compiler_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -fno-common")
    assert find_compiler() == ["gcc", "-fno-common"]


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "gcc -include no_such_header.h")
    with pytest.raises(CompileError, match=r"failed: .*error: no_such_header.h: No such file"):
        load(ir_text.parse(PROGRAM), cache=tmp_path)
    assert not any(tmp_path.iterdir())  # nothing half-written


def test_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same text is compiled once; another text, other flags and other constants of a size are others."""
    sources = emit(ir_text.parse(PROGRAM))
    first = build(sources, folder=tmp_path)
    made = first.stat().st_mtime_ns
    assert build(sources, folder=tmp_path) == first
    assert build(emit(ir_text.parse(PROGRAM)), folder=tmp_path) == first
    assert first.stat().st_mtime_ns == made
    assert build(sources, ["-DX"], tmp_path) != first
    other = build(emit(ir_text.parse(PROGRAM.replace("qvit.mul", "qvit.add"))), folder=tmp_path)
    assert other != first
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setenv("CC", "gcc -O0")
    assert build(sources, folder=tmp_path) not in (first, other)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qvit" / "c"
    load(ir_text.parse(PROGRAM))
    assert [file.suffix for file in cache_folder().iterdir()] == [".so"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "qvit" / "c"


# --- qvit_init and qvit_run ---


class Raw:
    """The functions of model.h, with memory that may be wrong."""

    def __init__(self, folder: Path) -> None:
        self.sources = emit(ir_text.parse(PROGRAM))
        self.library = ctypes.CDLL(str(build(self.sources, folder=folder)))
        self.library.qvit_message.restype = ctypes.c_char_p
        self.model = (ctypes.c_void_p * 2)()
        self.memory = np.zeros(4096, np.uint8)
        self.start = -self.memory.ctypes.data % 64
        self.address = self.memory.ctypes.data + self.start
        self.weights = bytearray(self.sources.weights)

    def init(self, **changes: int | None) -> str:
        at = self.start + 2048
        self.memory[at : at + len(self.weights)] = np.frombuffer(bytes(self.weights), np.uint8)
        given = {
            "model": ctypes.addressof(self.model),
            "arena": self.address,
            "arena_size": self.sources.arena,
            "weights": self.address + 2048,
            "weights_size": len(self.weights),
            **changes,
        }
        kinds = [ctypes.c_size_t if name.endswith("size") else ctypes.c_void_p for name in given]
        status = self.library.qvit_init(*(kind(v) for kind, v in zip(kinds, given.values(), strict=True)))
        return self.library.qvit_message(status).decode()


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return Raw(tmp_path)


def test_init(raw: Raw) -> None:
    assert raw.init() == "success"
    assert raw.init(arena_size=raw.sources.arena + 1, weights_size=len(raw.weights) + 64) == "success"


@pytest.mark.parametrize("name", ["model", "arena", "weights"])
def test_null_pointers(raw: Raw, name: str) -> None:
    assert raw.init(**{name: None}) == "a pointer is null"


@pytest.mark.parametrize("name", ["arena", "weights"])
def test_memory_that_is_not_aligned(raw: Raw, name: str) -> None:
    wrong = raw.address + (2048 if name == "weights" else 0) + 32
    assert "multiple of 64 bytes" in raw.init(**{name: wrong})


def test_memory_that_is_too_small(raw: Raw) -> None:
    assert "smaller than qvit_arena_size()" in raw.init(arena_size=raw.sources.arena - 1)
    assert "truncated" in raw.init(weights_size=len(raw.weights) - 1)
    assert "truncated" in raw.init(weights_size=63)
    assert "truncated" in raw.init(weights_size=0)


@pytest.mark.parametrize(
    ("byte", "says"),
    [
        (0, "no weights of a qvit model"),
        (4, "another version"),
        (8, "another byte order"),
        (24, "another model"),
        (55, "another model"),
    ],
)
def test_weights_of_something_else(raw: Raw, byte: int, says: str) -> None:
    raw.weights[byte] ^= 1
    assert says in raw.init()


def test_weights_of_another_model(raw: Raw) -> None:
    raw.weights[:] = emit(ir_text.parse(PROGRAM.replace("[1, 2, 3]", "[1, 2, 4]"))).weights
    assert "another model" in raw.init()


def test_damaged_weights(raw: Raw) -> None:
    """Any bit behind the header."""
    assert len(raw.weights) == 128
    for bit in range(8 * 64, 8 * 128):
        raw.weights[bit // 8] ^= 1 << bit % 8
        assert raw.init() == "the weights are damaged"
        raw.weights[bit // 8] ^= 1 << bit % 8
    assert raw.init() == "success"


def test_weights_in_another_order(tmp_path: Path) -> None:
    """Lines, words and bytes that have changed places, and a bit more in two words that all sums of words would miss."""
    rows = ", ".join(map(str, np.random.default_rng(0).integers(-99, 99, 64)))
    lines = [
        f"%c = qvit.constant dense<[{rows}]> : tensor<64xi32>",
        "%y = qvit.add %x, %c : (tensor<64xi32>, tensor<64xi32>) -> tensor<64xi64>",
    ]
    sources = emit(ir_text.parse(ir_text.function(lines, {"%x": "tensor<64xi32>"})))
    program = Loaded(sources, folder=tmp_path)
    words = np.frombuffer(sources.weights, np.uint64).copy()
    for swap in ((8, 16), (8, 9), (31, 39)):
        damaged = words.copy()
        damaged[list(swap)] = damaged[list(reversed(swap))]
        with pytest.raises(ValueError, match="the weights are damaged"):
            Loaded(replace(sources, weights=damaged.tobytes()), folder=tmp_path)
    for first, second in ((8, 16), (8, 9), (10, 34)):
        damaged = words.copy()
        damaged[first] ^= np.uint64(1 << 63)
        damaged[second] ^= np.uint64(1 << 63)
        with pytest.raises(ValueError, match="the weights are damaged"):
            Loaded(replace(sources, weights=damaged.tobytes()), folder=tmp_path)
    assert len(program.inputs) == 1


def test_run_without_pointers(raw: Raw) -> None:
    run, array = raw.library.qvit_run, (ctypes.c_void_p * 2)()
    assert run(None, array, array) == 1
    assert run(raw.model, array, array) == 1  # not initialised
    assert raw.init() == "success"
    assert run(raw.model, None, array) == 1
    assert run(raw.model, array, None) == 1
    assert run(raw.model, array, array) == 1  # no inputs
    inputs = (ctypes.c_void_p * 2)(A.ctypes.data, B.ctypes.data)
    assert run(raw.model, inputs, array) == 1


def test_messages(raw: Raw) -> None:
    assert raw.library.qvit_message(-1) == raw.library.qvit_message(1000) == b"unknown status"


def test_tensors_without_a_place(raw: Raw) -> None:
    raw.library.qvit_input.restype = raw.library.qvit_output.restype = ctypes.c_void_p
    assert raw.library.qvit_input_count() == raw.library.qvit_output_count() == 2
    assert raw.library.qvit_input(ctypes.c_size_t(1))
    assert raw.library.qvit_output(ctypes.c_size_t(1))
    assert raw.library.qvit_input(ctypes.c_size_t(2)) is raw.library.qvit_output(ctypes.c_size_t(2)) is None
