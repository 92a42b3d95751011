"""The fast kernels as functions on NumPy arrays: compiled once for each set of flags, called through ctypes."""

import ctypes as c
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit.backends.c.packing import Packed
from qvit.dialects.semantics.integers import IntType

Array = NDArray[Any]
SOURCE = Path(__file__).parent / "backends" / "c" / "kernels.c"
KERNELS = Path(__file__).parents[1] / "backends" / "c" / "kernels"


def _variants() -> tuple[str, ...]:
    """Those that this processor has."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set[str]()
    wanted = {
        "portable": set[str](),
        "avx2": {"avx2", "bmi2"},
        "avx512": {"avx512bw", "avx512vl", "avx512_vnni"},
        "neon": {"asimddp"},
    }
    return tuple(name for name, needed in wanted.items() if needed <= flags)


VARIANTS = _variants()
TYPES = {IntType(8): 0, IntType(8, False): 1, IntType(16): 2, IntType(32): 3}
ACC = 4


def _structure(kind: str, **fields: Any) -> type[c.Structure]:
    return type(kind, (c.Structure,), {"_fields_": list(fields.items())})


I32, POINTER, SIZE = c.c_int32, c.c_void_p, c.c_size_t
FORM = {name: I32 for name in ("form", "lowest", "segment", "guard", "offset", "pieces", "lo", "hi")}
QUAD = _structure("Quad", **FORM, constant=POINTER, linear=POINTER, square=POINTER)
LAYER = _structure(
    "Layer",
    **{"n": I32, "k": I32, "packed": POINTER, "bias": POINTER, "mult": POINTER, "shift": POINTER},
    **{"zero": I32, "lo": I32, "hi": I32, "quad": POINTER, "table": POINTER, "bits": I32, "sign": I32},
)
ATTENTION = _structure(
    "Attention",
    **{name: SIZE for name in ("tokens", "keys", "depth", "width")},
    **{name: I32 for name in ("score_mult", "score_shift", "score_zero", "score_lo", "score_hi")},
    weights=POINTER,
    **{name: I32 for name in ("mult", "shift", "zero", "lo", "hi")},
)
LN = _structure("Ln", channels=I32, guard=I32, lo=I32, hi=I32, epsilon=c.c_int64, gain=POINTER, offset=POINTER)
ADD = _structure("Add", **{n: I32 for n in ("mult_a", "mult_b", "shift", "zero_a", "zero_b", "zero", "lo", "hi")})
FUNCTIONS = {
    "linear": (POINTER, SIZE, POINTER, SIZE, POINTER, SIZE, c.c_int, POINTER),
    "attention": (POINTER, POINTER, SIZE, POINTER, SIZE, POINTER, SIZE, POINTER, SIZE, POINTER),
    "softmax": (POINTER, SIZE, SIZE, POINTER, SIZE, POINTER, SIZE, POINTER),
    "divide": (I32, I32, I32, I32, I32, SIZE, SIZE, POINTER, SIZE, POINTER, POINTER, SIZE),
    "quad": (POINTER, SIZE, SIZE, POINTER, SIZE, POINTER, SIZE, c.c_int),
    "table": (POINTER, SIZE, POINTER, POINTER),
    "ln": (POINTER, SIZE, POINTER, SIZE, POINTER, SIZE, c.c_int),
    "add": (POINTER, SIZE, POINTER, POINTER, POINTER),
    "pack": (SIZE, SIZE, POINTER, SIZE, SIZE, POINTER),
}
TABLE = _structure("Kernels", name=c.c_char_p, **{n: c.CFUNCTYPE(None, *types) for n, types in FUNCTIONS.items()})


def compiler() -> str:
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    assert found, "no C compiler: install gcc"
    return found


@cache
def library(flags: tuple[str, ...] = ("-O3",)) -> c.CDLL:
    target = Path(mkdtemp(prefix="qvit-kernels-")) / "kernels.so"
    command = [compiler(), "-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    subprocess.run([*command, *flags, f"-I{KERNELS}", str(SOURCE), "-o", str(target)], check=True)
    loaded = c.CDLL(str(target))
    loaded.kernels.restype = c.POINTER(TABLE)
    loaded.kernels.argtypes = [c.c_char_p]
    for name, arguments in {
        "linear_scratch": [SIZE],
        "packed_scratch": [SIZE],
        "attention_scratch": [SIZE] * 3,
    }.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = SIZE, arguments
    loaded.weights.argtypes = [POINTER, POINTER]
    loaded.im2col.argtypes = [POINTER, POINTER, c.c_uint8, c.c_uint8, POINTER]
    loaded.transpose.argtypes = [SIZE, SIZE, POINTER, SIZE, POINTER, SIZE]
    return loaded


def aligned(size: int) -> Array:
    """Bytes at a multiple of 64, with the end of the allocation right behind them."""
    space = np.full(size + 64, 0xA5, np.uint8)
    start = -space.ctypes.data % 64
    return space[start : start + size]


def at(array: Array | None) -> int | None:
    return None if array is None else array.ctypes.data


class Kernels:
    """The kernels of one variant. Every result stands in a guarded array: what is written beside it is an error."""

    def __init__(self, variant: str, flags: tuple[str, ...] = ("-O3",)) -> None:
        self.library = library(flags)
        self.table = self.library.kernels(variant.encode())
        self.found = bool(self.table)
        self.variant = variant

    def _call(self, name: str, *arguments: Any) -> None:
        getattr(self.table.contents, name)(*arguments)

    def linear(
        self,
        packed: Packed,
        x: Array,
        n: int,
        zero: int,
        result: IntType | None,
        *,
        clip: tuple[int, int] | None = None,
        quad: tuple[Any, Sequence[Array]] | None = None,
        codes: IntType | None = None,
        table: Array | None = None,
    ) -> Array:
        """x [m, k] of uint8; result None: the accumulators. quad: (approximation, tables), behind codes of 16 bits."""
        m, k = x.shape
        kind = result or IntType(32)
        lo, hi = clip or ((codes or kind).lo, (codes or kind).hi)
        keep = [
            np.ascontiguousarray(x),
            *(np.ascontiguousarray(t) for t in (packed.panels, packed.bias, packed.mult, packed.shift)),
        ]
        f, tables = self._quad(quad, kind) if quad else (None, None)
        behind = (c.addressof(f) if f else None, at(table), packed.held.bits, packed.sign)
        layer = LAYER(n, k, *(at(t) for t in keep[1:]), zero, lo, hi, *behind)
        y = Guarded((m, n), kind.dtype)
        needed = self.library.linear_scratch if packed.held.bits == 8 else self.library.packed_scratch
        scratch = aligned(needed(k))
        code = ACC if result is None else TYPES[result]
        self._call("linear", c.addressof(layer), m, at(keep[0]), k, y.address, y.stride, code, at(scratch))
        del tables
        return y.value()

    @staticmethod
    def _quad(quad: tuple[Any, Sequence[Array]], result: IntType) -> tuple[c.Structure, list[Array]]:
        f, given = quad
        tables = [np.zeros(64, np.int16) for _ in given]
        for padded, values in zip(tables, given, strict=True):
            padded[: len(values)] = values
        numbers = (f.form, f.lowest, f.segment, f.guard, f.offset, len(given[0]), result.lo, result.hi)
        return QUAD(*numbers, *(at(t) for t in tables)), tables

    def quad(self, approximation: Any, tables: Sequence[Array], x: Array, result: IntType) -> Array:
        f, kept = self._quad((approximation, tables), result)
        y = Guarded(x.shape, result.dtype)
        x = np.ascontiguousarray(x)
        self._call("quad", c.addressof(f), *x.shape, at(x), x.shape[1], y.address, y.stride, TYPES[result])
        del kept
        return y.value()

    def table_of(self, table: Array, x: Array) -> Array:
        y = Guarded((1, x.size), np.dtype(np.uint8))
        self._call("table", at(table), x.size, at(x), y.address)
        return y.value()[0]

    def weights(self, exponentials: Array) -> Array:
        table = np.zeros(256, np.uint8)
        self.library.weights(at(exponentials), at(table))
        return table

    def softmax(self, exponentials: Array, x: Array) -> tuple[Array, Array]:
        y, sums = Guarded(x.shape, np.dtype(np.uint8)), Guarded((1, len(x)), np.dtype(np.int32))
        table = self.weights(exponentials)
        self._call("softmax", at(table), *x.shape, at(x), x.shape[1], y.address, y.stride, sums.address)
        return y.value(), sums.value()[0]

    def divide(self, mult: int, shift: int, zero: int, result: IntType, acc: Array, divisors: Array) -> Array:
        y = Guarded(acc.shape, result.dtype)
        numbers = (mult, shift, zero, result.lo, result.hi, *acc.shape)
        self._call("divide", *numbers, at(acc), acc.shape[1], at(divisors), y.address, y.stride)
        return y.value()

    def ln(self, approximation: Any, tables: Sequence[Array], x: Array, result: IntType) -> Array:
        gain, offset = (np.ascontiguousarray(t, np.int32) for t in tables)
        f = LN(x.shape[1], approximation.guard, result.lo, result.hi, approximation.epsilon, at(gain), at(offset))
        y = Guarded(x.shape, result.dtype)
        self._call("ln", c.addressof(f), len(x), at(x), x.shape[1], y.address, y.stride, TYPES[result])
        return y.value()

    def add(self, a: Array, b: Array, mults: tuple[int, int], shift: int, zeros: tuple[int, int, int]) -> Array:
        f = ADD(*mults, shift, *zeros, -(1 << 15), (1 << 15) - 1)
        y = Guarded((1, a.size), np.dtype(np.int16))
        self._call("add", c.addressof(f), a.size, at(a), at(b), y.address)
        return y.value()[0]

    def pack(self, weight: Array, size: int) -> Array:
        """weight [n, k], in any memory order."""
        panels = np.full(size, 77, np.int8)
        self._call("pack", *weight.shape, at(weight), *weight.strides, at(panels))
        return panels

    def attention(
        self,
        q: Array,
        k: Array,
        v: Array,
        exponentials: Array,
        scores: tuple[int, int, int, IntType],
        output: tuple[int, int, int, IntType],
    ) -> Array:
        """q [tokens, depth], k [keys, depth], v [keys, width], rows of larger arrays; scores and output: (mult, shift, zero,
        type)."""
        table = self.weights(exponentials)
        (*numbers, kind), (*last, result) = scores, output
        shape = (len(q), len(k), q.shape[1], v.shape[1])
        f = ATTENTION(*shape, *numbers, kind.lo, kind.hi, at(table), *last, result.lo, result.hi)
        y = Guarded((len(q), v.shape[1]), result.dtype)
        scratch = aligned(self.library.attention_scratch(*shape[1:]))
        operands = (x for t in (q, k, v) for x in (at(t), t.strides[0]))
        self._call("attention", c.addressof(f), *operands, y.address, y.stride, at(scratch))
        return y.value()


class Guarded:
    """An array whose rows have space behind them that must stay as it is."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.space = np.full((shape[0] + 1, shape[1] + 5), 85, dtype)
        self.shape, self.stride = shape, shape[1] + 5
        self.address = self.space.ctypes.data

    def value(self) -> Array:
        rows, n = self.shape
        # the last row's end is the end of a vector without a stride, too
        assert (self.space[:rows, n:] == 85).all(), "written beside the result"
        assert (self.space[rows] == 85).all(), "written beyond the result"
        return self.space[:rows, :n]
