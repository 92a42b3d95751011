"""Compile a program with the system's C compiler and call it on NumPy arrays."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import OpResult

from qvit.backends.c.emit import Sources, emit
from qvit.backends.c.plan import ALIGNMENT
from qvit.backends.c.program import Port
from qvit.backends.c.step import CompileError, type_of
from qvit.dialects.atomic import replacing
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import shape_of

FLAGS = ("-std=c11", "-O3", "-falign-loops=64", "-fPIC", "-shared")
COMPILERS = ("gcc", "clang", "cc")


class NoCompiler(CompileError):
    """There is no C compiler; the message says what to install."""


def find_compiler() -> list[str]:
    """The command of the C compiler: $CC, else gcc, clang or cc. NoCompiler if there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise NoCompiler(f"$CC names {named[0]}, which is not installed; install it, or name another C compiler")
        return named
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise NoCompiler(
        f"no C compiler found ({', '.join(COMPILERS)}); install one (Debian: apt-get install gcc; macOS: xcode-select"
        " --install), or name it in $CC"
    )


def cache_folder() -> Path:
    """Where compiled programs are kept: $XDG_CACHE_HOME/qvit/c, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "qvit" / "c"


@cache
def _version(command: tuple[str, ...]) -> bytes:
    return subprocess.run([*command, "--version"], capture_output=True, check=False).stdout


def build(sources: Sources, flags: Sequence[str] = (), folder: Path | None = None) -> Path:
    """The program as a shared library, from the cache where it has been compiled before. flags: after FLAGS.

    The key is the C text, the flags, the compiler and its version; weights are no part of it. CompileError with the
    compiler's first message where it fails.
    """
    command = [*find_compiler(), *FLAGS, *flags]
    total = hashlib.sha256(b"\0".join([*(part.encode() for part in command), _version(tuple(find_compiler()))]))
    for name, text in sorted(sources.texts.items()):
        if name.endswith((".c", ".h")):
            total.update(f"{name}\0{text}\0".encode())
    folder = cache_folder() if folder is None else folder
    library = folder / f"{total.hexdigest()[:32]}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="qvit-") as place, replacing(library) as target:
        for name, text in sources.texts.items():
            (Path(place) / name).write_text(text, encoding="utf-8")
        run = subprocess.run(
            [*command, "-o", str(target.resolve()), "model.c"], cwd=place, capture_output=True, text=True, check=False
        )
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if "error" in line] or run.stderr.splitlines() or ["?"]
            raise CompileError(f"{shlex.join(command)} failed: {lines[0]}")
    return library


class Loaded:
    """A program in this process. Call it with integer arrays, in the order of @main's arguments: [its results].

    One call at a time: all share one arena.
    """

    def __init__(
        self, sources: Sources, flags: Sequence[str] = (), folder: Path | None = None, threads: int = 1
    ) -> None:
        self.sources, self._flags, self._folder, self._threads = sources, tuple(flags), folder, threads
        self._weights = _aligned(len(sources.weights))
        self._weights[:] = np.frombuffer(sources.weights, np.uint8)
        self._plain = _Library(build(sources, self._flags, folder), self._weights, threads)
        self._tracing: _Library | None = None

    @property
    def inputs(self) -> Sequence[Port]:
        return self.sources.program.inputs

    @property
    def outputs(self) -> Sequence[Port]:
        return self.sources.program.outputs

    def __call__(self, *inputs: Array) -> list[Array]:
        """The results. inputs: integers of the arguments' shapes; ValueError where one does not fit."""
        return self._run(self._plain, inputs)

    def trace(self, *inputs: Array) -> tuple[list[Array], list[tuple[OpResult, Array]]]:
        """(the results, every tensor that a step made with the value of @main that it is, in their order)."""
        if self._tracing is None:
            library = build(self.sources, (*self._flags, "-DQVIT_TRACE"), self._folder)
            self._tracing = _Library(library, self._weights, self._threads)
        kept: list[tuple[OpResult, Array]] = []

        def keep(index: int, data: int, size: int) -> None:
            value = self.sources.traced[index]
            elements = np.frombuffer(ctypes.string_at(data, size), type_of(value).dtype)
            kept.append((value, elements.reshape(shape_of(value))))

        with self._tracing.tracing(keep):
            results = self._run(self._tracing, inputs)
        return results, kept

    def _run(self, library: "_Library", inputs: Sequence[Array]) -> list[Array]:
        if len(inputs) != len(self.inputs):
            names = ", ".join(port.name for port in self.inputs)
            raise ValueError(f"expected {len(self.inputs)} inputs ({names}), found {len(inputs)}")
        arrays = [_checked(port, np.asarray(array)) for port, array in zip(self.inputs, inputs, strict=True)]
        results = [np.empty(shape_of(port.value), type_of(port.value).dtype) for port in self.outputs]
        library.run(arrays, results)
        return results


def load(
    module: ModuleOp,
    *,
    flags: Sequence[str] = (),
    cache: Path | None = None,
    variant: str | None = None,
    fused: bool = True,
    threads: int = 1,
) -> Loaded:
    """@main of a compiled module, compiled with the system's C compiler: a callable on arrays of integers.

    flags: for the compiler, after FLAGS. cache: the folder of compiled programs, by default `cache_folder()`.
    variant: "portable", "avx2", "avx512" or "neon", by default the fastest kernels that the processor has; ValueError where
    it has not what they need. fused: see `program_of`. threads: that compute, of the same results; ValueError where they
    are none or cannot be started. CompileError where an operation has no C; NoCompiler without a compiler.
    """
    if threads < 1:
        raise ValueError(f"expected 1 thread or more, found {threads}")
    sources = emit(module, "little" if sys.byteorder == "little" else "big", fused)
    chosen = () if variant is None else (f'-DQVIT_VARIANT="{variant}"',)
    several = () if threads == 1 else (f"-DQVIT_THREADS={threads}", "-pthread")
    return Loaded(sources, (*flags, *chosen, *several), cache, threads)


class _Library:
    """A shared library with a model that is ready to run."""

    def __init__(self, path: Path, weights: Array, threads: int) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.qvit_message.restype = ctypes.c_char_p
        self._library.qvit_arena_size.restype = ctypes.c_size_t
        self._model = (ctypes.c_void_p * 2)()
        size, arena = ctypes.c_size_t, _aligned(self._library.qvit_arena_size())
        self._require(
            self._library.qvit_init(
                self._model, _pointer(arena), size(arena.size), _pointer(weights), size(weights.size)
            )
        )
        self._arena = arena
        self._require(self._library.qvit_set_threads(self._model, size(threads)))
        if threads > 1:  # they live in the arena: they end before it, and before the interpreter does
            weakref.finalize(self, _stop, self._library, self._model, arena)

    def _require(self, status: int) -> None:
        if status:
            raise ValueError(self._library.qvit_message(status).decode())

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        # one more than there are, for an array without elements has no address
        pointers = [(ctypes.c_void_p * (len(arrays) + 1))(*map(_pointer, arrays)) for arrays in (inputs, outputs)]
        self._require(self._library.qvit_run(self._model, *pointers))

    @contextmanager
    def tracing(self, keep: Callable[[int, int, int], None]) -> Generator[None]:
        """`keep` is called with the number, address and bytes of every tensor that is computed meanwhile."""
        hook = ctypes.c_void_p.in_dll(self._library, "qvit_trace")
        callback = _HOOK(keep)
        hook.value = ctypes.cast(callback, ctypes.c_void_p).value
        try:
            yield
        finally:
            hook.value = None


def _stop(library: ctypes.CDLL, model: "ctypes.Array[ctypes.c_void_p]", arena: Array) -> None:
    """Ends the threads of a model; its arena is kept until then."""
    library.qvit_set_threads(model, ctypes.c_size_t(1))


_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t)


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _aligned(size: int) -> Array:
    """Bytes that start at a multiple of ALIGNMENT."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _checked(port: Port, array: Array) -> Array:
    """The array in the type and memory that C reads; ValueError where it does not fit."""
    expected, held = shape_of(port.value), type_of(port.value)
    if array.dtype.kind not in "iub":
        raise ValueError(f"input {port.name!r}: expected {held}, found {array.dtype}")
    if array.shape != expected:
        raise ValueError(f"input {port.name!r}: expected shape {expected}, found {array.shape}")
    if array.size and (array.min() < held.lo or array.max() > held.hi):
        raise ValueError(f"input {port.name!r}: values {array.min()}..{array.max()} do not fit {held}")
    return np.ascontiguousarray(array, held.dtype)
