"""The fast kernels are equal to the semantics, in every variant, on random and on extreme codes."""

import re
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from kernel_library import KERNELS, VARIANTS, Array, Kernels

from qvit.backends.c import packing
from qvit.dialects.approximations import Ln, Quad, Sm8Late
from qvit.dialects.approximations.base import Codes, FunctionSpec, LayerNormSpec, SoftmaxSpec
from qvit.dialects.semantics import products, quantization
from qvit.dialects.semantics.integers import IntType, Rounding, widen

I8, U8, I16, I32 = IntType(8), IntType(8, False), IntType(16), IntType(32)
RNG = np.random.default_rng(5)
ZERO = np.zeros((), np.int64)
M = (*range(21), 197)


def pick(kind: IntType, *shape: int) -> Array:
    return RNG.integers(kind.lo, kind.hi + 1, shape).astype(kind.dtype)


@pytest.fixture(params=VARIANTS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    found = Kernels(request.param)
    if not found.found:
        pytest.fail(f"the processor has no {request.param}")
    return found


def requantized(
    acc: Array, mult: Array, shift: Array, zero: int, result: IntType, clip: tuple[int, int] | None = None
) -> Array:
    y = quantization.requantize_dyadic(
        acc, mult, shift, (ZERO, np.array(zero)), Rounding.HALF_UP, I32 if clip else result
    )
    return np.clip(y, *clip).astype(result.dtype) if clip else y


class Layer:
    """A random linear layer; `extreme`: weights, operand and multipliers at the ends of their ranges."""

    def __init__(self, n: int, k: int, low: int, high: int, extreme: bool = False) -> None:
        self.n, self.k, self.zero_point = n, k, int(RNG.integers(0, 256))
        self.weight = pick(I8, n, k)
        self.bias = RNG.integers(-(1 << 20), 1 << 20, n)
        self.mult = RNG.integers(1 << 30, 1 << 31, n)
        if extreme:
            self.weight = RNG.choice(np.array([-128, 127], np.int8), (n, 1)).repeat(k, axis=1)
            self.mult = RNG.choice(np.array([(1 << 31) - 1, 1, 0, -(1 << 31) + 1]), n)
        self.shift = RNG.integers(low, high + 1, n)
        packed = packing.layer(self.weight, self.bias, self.zero_point, False, self.mult, self.shift)
        assert packed is not None
        self.packed = packed

    def acc(self, x: Array) -> Array:
        zero_points = (np.array(self.zero_point), ZERO)
        return products.linear(x, self.weight, self.bias, zero_points, I32)


@pytest.mark.parametrize("m", M)
def test_linear_has_any_number_of_rows(kernels: Kernels, m: int) -> None:
    for n, k in ((53, 37), (112, 64), (197, 5)):
        layer, x = Layer(n, k, 33, 44), pick(U8, m, k)
        acc = layer.acc(x)
        assert (kernels.linear(layer.packed, x, n, 0, None) == acc).all()
        for zero, result in ((3, I8), (130, U8), (-7, I16)):
            expected = requantized(acc, layer.mult, layer.shift, zero, result)
            assert (kernels.linear(layer.packed, x, n, zero, result) == expected).all()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 47, 48, 49, 63, 64, 65, 80, 97, 128, 160, 208])
def test_linear_has_any_number_of_columns(kernels: Kernels, n: int) -> None:
    for m, k in ((1, 3), (9, 4), (11, 7), (20, 66)):
        layer, x = Layer(n, k, 36, 42), pick(U8, m, k)
        expected = requantized(layer.acc(x), layer.mult, layer.shift, 0, I8)
        assert (kernels.linear(layer.packed, x, n, 0, I8) == expected).all()


@pytest.mark.parametrize(("low", "high"), [(0, 62), (0, 0), (1, 32), (32, 33), (33, 33), (33, 62), (62, 62)])
@pytest.mark.parametrize("extreme", [False, True])
def test_linear_requantizes_exactly_by_any_shift(kernels: Kernels, low: int, high: int, extreme: bool) -> None:
    layer = Layer(70, 97, low, high, extreme)
    x = RNG.choice(np.array([0, 255], np.uint8), (14, 1)).repeat(97, axis=1) if extreme else pick(U8, 14, 97)
    acc = layer.acc(x)
    for zero, result in ((0, I8), (-128, I8), (255, U8), (1000, I16), (-9, I32)):
        expected = requantized(acc, layer.mult, layer.shift, zero, result)
        assert (kernels.linear(layer.packed, x, 70, zero, result) == expected).all()


def test_linear_clips_to_fewer_bits(kernels: Kernels) -> None:
    for n in (33, 48):
        layer, x = Layer(n, 40, 38, 40), pick(U8, 10, 40)
        for low, high, result in ((-8, 7, I8), (0, 15, U8), (-512, 511, I16)):
            expected = requantized(layer.acc(x), layer.mult, layer.shift, 2, result, (low, high))
            assert (kernels.linear(layer.packed, x, n, 2, result, clip=(low, high)) == expected).all()


def test_a_tie_is_rounded_up(kernels: Kernels) -> None:
    """acc / 2: 1/2 and -1/2 lie between two codes, by a shift of 62 and by one of 1."""
    weight = np.array([[1], [-1]], np.int8)
    for mult, shift in ((1 << 30, 31), (1, 1), (1 << 30, 31)):
        packed = packing.layer(weight, None, 0, False, np.array(mult), np.array(shift))
        assert packed is not None
        assert kernels.linear(packed, np.array([[1]], np.uint8), 2, 0, I8).tolist() == [[1, 0]]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(1, 8))
def test_weights_of_fewer_bits(kernels: Kernels, bits: int, signed: bool) -> None:
    """Tightly packed, by shapes that fill panels and that do not; small ones stay as they are."""
    held = IntType(bits, signed)
    for m, n, k in ((1, 64, 16), (3, 113, 37), (14, 48, 63), (20, 70, 15), (33, 130, 64), (9, 31, 32)):
        weight, bias, zero_point, x = pick(held, n, k), RNG.integers(-9999, 9999, n), 91, pick(U8, m, k)
        mult, shift = RNG.integers(1 << 30, 1 << 31, n), RNG.integers(30, 40, n)
        packed = packing.layer(weight, bias, zero_point, False, mult, shift, held)
        assert packed is not None
        whole = packing.pack(weight.astype(np.int8))
        if n * k < 1024:
            assert packed.held == I8
            assert (packed.panels == whole).all()
        else:
            assert packed.held == held
            assert packed.panels.nbytes * 8 == whole.size * bits
        acc = products.linear(x, weight, bias, (np.array(zero_point), ZERO), I32)
        assert (kernels.linear(packed, x, n, 0, None) == acc).all()
        expected = requantized(acc, mult, shift, 3, I8)
        assert (kernels.linear(packed, x, n, 3, I8) == expected).all()


@pytest.mark.parametrize("bits", range(1, 8))
def test_panels_are_tightened(bits: int) -> None:
    """By Python's own integers: of each 64 weights the lowest 4 bits, then 2, then 1, each part from the lowest bit on."""
    weight = pick(IntType(bits, False), 17, 6)
    panels = packing.pack(weight.astype(np.int8)).tolist()
    expected = b""
    for start in range(0, len(panels), 64):
        below = 0
        for width in (4, 2, 1):
            if bits & width:
                part = bytearray(8 * width)
                for i, code in enumerate(panels[start : start + 64]):
                    part[i % len(part)] |= (code >> below) % (1 << width) << width * (i // len(part))
                expected += bytes(part)
                below += width
    assert packing.tighten(packing.pack(weight.astype(np.int8)), bits).tobytes() == expected


def test_signed_operands_are_shifted(kernels: Kernels) -> None:
    x, weight, bias = pick(I8, 12, 33), pick(I8, 50, 33), RNG.integers(-999, 999, 50)
    packed = packing.layer(weight, bias, -5, True, np.array(1), np.array(0))
    assert packed is not None
    unsigned = (x.view(np.uint8) ^ 128).astype(np.uint8)
    expected = products.linear(x, weight, bias, (np.array(-5), ZERO), I32)
    assert (kernels.linear(packed, unsigned, 50, 0, None) == expected).all()


def test_sums_beyond_32_bits_are_not_taken() -> None:
    weight = np.full((2, 100), 127, np.int8)
    inside = (1 << 31) - 1 - 255 * 127 * 100
    for bias, fits in ((inside, True), (inside + 1, False), (-(1 << 31), False)):
        assert (packing.layer(weight, np.array([0, bias]), 0, False, np.array(1), np.array(0)) is not None) == fits
    assert packing.layer(weight, None, 0, False, np.array(-(1 << 31)), np.array(0)) is None
    assert packing.layer(weight, None, 0, False, np.array(1), np.array(63)) is None
    assert packing.layer(weight, None, 0, False, np.array(1), np.array(-1)) is None


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 4), (17, 5), (64, 64), (65, 3), (197, 64), (112, 31), (208, 12)])
def test_panels_are_packed_alike(kernels: Kernels, n: int, k: int) -> None:
    weight = pick(I8, n, k)
    packed = packing.pack(weight)
    assert (packing.unpack(packed, n, k) == weight).all()
    for order in ("C", "F"):
        assert (kernels.pack(np.asarray(weight, order=order), packed.size) == packed).all()
    wide = pick(I8, n, 2 * k)
    assert (kernels.pack(wide[:, ::2], packed.size) == packing.pack(wide[:, ::2])).all()


def quads() -> list[tuple[Quad, list[Array], IntType]]:
    found: list[tuple[Quad, list[Array], IntType]] = []
    for function in ("gelu", "tanh", "silu", "sigmoid"):
        for scale, result in ((Fraction(1, 4096), I8), (Fraction(1, 3000), U8), (Fraction(1, 4096), I16)):
            output = Codes(Fraction(1, 40) if result.bits == 8 else scale, 7 if result.bits == 8 else 0, result)
            built = Quad.build(FunctionSpec(function, Codes(scale, 0, I16), output))
            assert isinstance(built.approximation, Quad)
            found.append((built.approximation, [t for t, _ in built.tables], built.results[0]))
    return found


QUADS = quads()


@pytest.mark.parametrize(("approximation", "tables", "result"), QUADS)
def test_quad_on_every_code(kernels: Kernels, approximation: Quad, tables: list[Array], result: IntType) -> None:
    x = np.arange(-(1 << 15), 1 << 15).astype(np.int16).reshape(64, 1024)
    expected = approximation.apply(widen(x), tables, result)
    assert (kernels.quad(approximation, tables, x, result) == expected).all()
    assert (kernels.quad(approximation, tables, x[:3, :45], result) == expected[:3, :45]).all()


@pytest.mark.parametrize("guard", range(9))
def test_quad_with_any_guard_and_offset(kernels: Kernels, guard: int) -> None:
    """Random coefficients: pieces of 16 bits come from nothing else here."""
    x = np.arange(-(1 << 15), 1 << 15).astype(np.int16).reshape(64, 1024)
    for form, segment, offset in (
        (0, 10, 0),
        (0, 10, 1 << 17),
        (0, 10, -(1 << 14)),
        (1, 9, -300),
        (2, 16, 3),
        (1, 1, 40000),
    ):
        tables = [RNG.integers(-most, most, 64).astype(np.int16) for most in (20000, 4000, 4000)]
        approximation = Quad(form, -(1 << 15) if form == 0 else 0, segment, guard, offset)
        for result in (I8, U8, I16):
            expected = approximation.apply(widen(x), tables, result)
            assert (kernels.quad(approximation, tables, x, result) == expected).all()


def test_quad_with_fewer_pieces_and_far_positions(kernels: Kernels) -> None:
    x = np.arange(-(1 << 15), 1 << 15).astype(np.int16).reshape(64, 1024)
    tables = [RNG.integers(-9000, 9000, count).astype(np.int16) for count in (32, 32, 32)]
    for lowest, segment in ((-(1 << 15), 11), (-40000, 12), (-65536, 12)):
        approximation = Quad(0, lowest, segment, 3, 0)
        expected = approximation.apply(widen(x), tables, I8)
        assert (kernels.quad(approximation, tables, x, I8) == expected).all()


def test_functions_behind_a_linear_layer(kernels: Kernels) -> None:
    layer, x = Layer(70, 41, 33, 36), pick(U8, 19, 41)
    acc = layer.acc(x)
    for approximation, tables, result in QUADS:
        expected = approximation.apply(widen(requantized(acc, layer.mult, layer.shift, -3, I16)), tables, result)
        found = kernels.linear(layer.packed, x, 70, -3, result, quad=(approximation, tables), codes=I16)
        assert (found == expected).all()
    table = pick(U8, 256)
    for kind in (I8, U8):
        codes = requantized(acc, layer.mult, layer.shift, 5, kind)
        found = kernels.linear(layer.packed, x, 70, 5, kind, table=table)
        assert (found.view(np.uint8) == table[codes.view(np.uint8)]).all()


def test_table(kernels: Kernels) -> None:
    table = pick(U8, 256)
    for n in (1, 31, 32, 33, 256, 999):
        x = np.resize(np.arange(256), n).astype(np.uint8)
        assert (kernels.table_of(table, x) == table[x]).all()


def exponentials(scale: Fraction) -> Array:
    built = Sm8Late.build(SoftmaxSpec(Codes(scale, 0, I16), Codes(Fraction(1, 255), 0, U8)))
    return built.tables[0][0].astype(np.uint16)


@pytest.mark.parametrize("scale", [Fraction(1, 16), Fraction(1, 100), Fraction(1)])
def test_softmax(kernels: Kernels, scale: Fraction) -> None:
    table = exponentials(scale)
    for n in (1, 2, 17, 31, 32, 33, 197, 257):
        rows = [
            pick(I16, 3, n),
            RNG.integers(-128, 128, (5, n)),
            RNG.integers(900, 1300, (4, n)),
            np.full((1, n), -(1 << 15)),
        ]
        rows.append(np.where(np.arange(n) == n - 1, (1 << 15) - 1, -(1 << 15))[None])
        x = np.concatenate(rows).astype(np.int16)
        expected = Sm8Late().apply(widen(x), [table], None, (U8, I32))
        y, sums = kernels.softmax(table, x)
        assert (y == expected[0]).all()
        assert (sums[:, None] == expected[1]).all()


def test_softmax_of_a_table_of_zeros_has_a_sum(kernels: Kernels) -> None:
    _, sums = kernels.softmax(np.zeros(256, np.uint16), np.zeros((2, 5), np.int16))
    assert sums.tolist() == [255, 255]


@pytest.mark.parametrize("shift", [0, 5, 18, 25, 30, 45, 62])
def test_division_by_a_row_sum(kernels: Kernels, shift: int) -> None:
    divisors = np.array([1, 2, 3, 254, 255, 256, 50235, (1 << 24) - 1, (1 << 31) - 1, 1 << 30], np.int32)
    acc = RNG.integers(-(1 << 31), 1 << 31, (10, 70)).astype(np.int32)
    acc[:, :20] >>= 16
    acc[:, 20:24] = [(1 << 31) - 1, -(1 << 31), 0, 1]
    for mult in (1302929007, (1 << 31) - 1, -(1 << 31) + 1, 1 << 30, 1, 0):
        for zero, result in ((141, U8), (-3, I8)):
            form = (
                np.array(mult),
                np.array(shift),
                (ZERO, np.array(zero)),
                Rounding.HALF_UP,
                result,
                divisors[:, None],
            )
            expected = quantization.requantize_dyadic(acc, *form)
            assert (kernels.divide(mult, shift, zero, result, acc, divisors) == expected).all()


@pytest.mark.parametrize("channels", [1, 6, 31, 32, 100, 384, 768])
def test_ln(kernels: Kernels, channels: int) -> None:
    gamma, beta = RNG.normal(0, 1, channels), RNG.normal(0, 1, channels)
    rows = [pick(I16, 4, channels), RNG.integers(-5, 6, (4, channels)), RNG.integers(900, 1000, (4, channels))]
    rows += [np.full((1, channels), value) for value in (0, -(1 << 15), (1 << 15) - 1)]
    rows.append(np.where(np.arange(channels) % 2, (1 << 15) - 1, -(1 << 15))[None])
    x = np.concatenate(rows).astype(np.int16)
    for scale, result in ((Fraction(1, 32), U8), (Fraction(1, 40), I8), (Fraction(1, 4000), I16)):
        for epsilon in (1e-6, 1e-2, 0.0):
            spec = LayerNormSpec(gamma, beta, epsilon, Codes(Fraction(1, 1000), 0, I16), Codes(scale, 3, result))
            built = Ln.build(spec)
            tables = [t for t, _ in built.tables]
            assert isinstance(built.approximation, Ln)
            built.approximation.check((-(1 << 15), (1 << 15) - 1), channels, tables)
            expected = built.approximation.apply(widen(x), tables, result)
            assert (kernels.ln(built.approximation, tables, x, result) == expected).all()


def test_where_newtons_iteration_starts() -> None:
    """2^15 / sqrt((2 i + 65) / 64): qk_starts, number by number."""
    text = (KERNELS / "qk_gemm.h").read_text()
    numbers = re.search(r"qk_starts\[96\] = \{([^}]*)\}", text)
    assert numbers is not None
    assert [int(n) for n in re.findall(r"\d+", numbers[1])] == [isqrt((1 << 36) // (2 * i + 65)) for i in range(96)]


@pytest.mark.parametrize("shift", [0, 1, 16, 17, 18, 19, 29, 31, 32, 33, 34, 46, 47, 62])
def test_residual_add(kernels: Kernels, shift: int) -> None:
    edges = np.array([-(1 << 15), -1, 0, 1, (1 << 15) - 1], np.int16)
    a = np.concatenate([edges.repeat(5), pick(I16, 1000)])
    b = np.concatenate([np.tile(edges, 5), pick(I16, 1000)])
    top = (1 << 31) - 1
    halves = 0x4000_8000  # its lower half is -2^15, of which two overflow
    for mults in ((1498102421, 1318926238), (top, top), (-top, top), (1, 0), (-top, -top), (halves, halves)):
        for zeros in (
            (0, 0, 0),
            (3, -1000, 20),
            ((1 << 15) - 1, -(1 << 15), -5),
            (65535, 65535, 0),
            (-65535, 40000, 7),
        ):
            m, s, z = (tuple(map(np.array, v)) for v in (mults, (shift, shift), zeros))
            expected = quantization.add_requant(a, b, m, s, z, Rounding.HALF_UP, False, I16)  # pyright: ignore
            assert (kernels.add(a, b, mults, shift, zeros) == expected).all()


@pytest.mark.parametrize(
    ("tokens", "keys", "depth", "width"),
    [(197, 197, 64, 64), (1, 1, 4, 1), (5, 53, 30, 33), (40, 9, 64, 48), (3, 260, 16, 70)],
)
def test_attention(kernels: Kernels, tokens: int, keys: int, depth: int, width: int) -> None:
    q, k = (pick(I8, rows, 2 * depth + 3)[:, 3 : depth + 3] for rows in (tokens, keys))
    v, table = pick(I8, keys, width + 9)[:, :width], exponentials(Fraction(1, 16))
    for kind, result, zero in ((I16, U8, 141), (I8, I8, -3)):
        scores, output = (1269676543, 37 if kind == I16 else 42, 2, kind), (1302929007, 30, zero, result)
        acc = products.matmul(q, k.T, (ZERO, ZERO), I32)
        codes = requantized(acc, np.array(scores[0]), np.array(scores[1]), 2, kind)
        y, sums = Sm8Late().apply(widen(codes), [table], None, (U8, I32))
        late = products.matmul(y, v, (ZERO, ZERO), I32)
        form = (np.array(output[0]), np.array(30), (ZERO, np.array(zero)), Rounding.HALF_UP, result, sums)
        assert (kernels.attention(q, k, v, table, scores, output) == quantization.requantize_dyadic(late, *form)).all()


@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "padding"),
    [
        ((4, 4), (4, 4), (1, 1), (0, 0, 0, 0)),
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (2, 1), (2, 3), (3, 1, 0, 2)),
    ],
)
def test_patches(
    kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], padding: tuple[int, ...]
) -> None:
    """Rows of patches, times weights, are the convolution."""
    x, weight = pick(U8, 1, 3, 12, 13), pick(I8, 5, 3, *kernel)
    expected = products.conv2d(x, weight, None, strides, padding, dilations, 1, (np.array(77), ZERO), I32)[0]
    _, high, wide = expected.shape
    shape = np.array([3, 12, 13, *kernel, *strides, *dilations, *padding[:2], high, wide], np.uint64)
    rows = np.zeros((high * wide, weight[0].size), np.uint8)
    library = Kernels("portable").library
    library.im2col(shape.ctypes.data, x.ctypes.data, 77, 0, rows.ctypes.data)
    found = products.linear(rows, weight.reshape(5, -1), None, (np.array(77), ZERO), I32)
    assert (expected.reshape(5, -1) == found.T).all()
    library.im2col(shape.ctypes.data, x.ctypes.data, 77, 128, rows.ctypes.data)
    assert (products.linear(rows ^ 128, weight.reshape(5, -1), None, (np.array(77), ZERO), I32) == found).all()


def test_transpose() -> None:
    x = pick(I16, 37, 20)
    y = np.zeros((20, 37), np.int16)
    Kernels("portable").library.transpose(37, 20, x.ctypes.data, 20, y.ctypes.data, 37)
    assert (y == x.T).all()
