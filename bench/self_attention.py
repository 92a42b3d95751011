"""Self-attention of integers alone, as Lin and Shah move dequantization behind its products, and what it would be in floats.

All numbers are random; what is computed, and in which widths, is not: queries, keys and values, their products, softmax, and
the projection, at b bits. Behind a product stands a quantizer: comparators up to 4 bits, for which the constants are found by
bisection on the requantization that they stand for; a multiplier and a shift for 8 bits and for scores, which softmax reads
with 8 bits.
"""

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil

import numpy as np
from xdsl.dialects.builtin import FunctionType, IntegerType, ModuleOp, Signedness, TensorType, i8
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qvit.backends.systolic.isa import Queue
from qvit.backends.systolic.simulator import Events, Result
from qvit.dialects.approximations.base import Codes, SoftmaxSpec
from qvit.dialects.approximations.sm8 import Sm8
from qvit.dialects.attributes import DyadicAttr
from qvit.dialects.functions import MAIN
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import set_sources
from qvit.dialects.semantics.integers import Int64, IntType, Rounding
from qvit.dialects.semantics.quantization import requantize_dyadic
from qvit.dialects.types import int_type, shape_of

COMPARATORS = 4
"""Bits of a quantizer of comparators, at most."""
SHIFT = 24


@dataclass(frozen=True)
class Shape:
    """Of self-attention: tokens, channels, heads."""

    tokens: int
    dim: int
    heads: int


DEIT_S = Shape(197, 384, 6)


def thresholds(multiplier: int, shift: int, result: IntType) -> Int64:
    """Of the quantizer that is requantization by multiplier / 2^shift, half up, int64 [levels]: the least x for each code above
    the lowest, by bisection over all numbers of 32 bits; the highest of them for a code that none reaches."""
    codes = np.arange(result.lo + 1, result.hi + 1)
    low, high = np.full(len(codes), -(1 << 31)), np.full(len(codes), (1 << 31) - 1)
    zero = (np.array(0), np.array(0))
    while (low < high).any():
        middle = (low + high) >> 1
        reached = (
            requantize_dyadic(middle, np.array(multiplier), np.array(shift), zero, Rounding.HALF_UP, result) >= codes
        )
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return low


@dataclass
class _Builder:
    rng: np.random.Generator
    bits: int
    comparators: bool
    block: Block

    @property
    def codes(self) -> IntegerType:
        return IntegerType(self.bits)

    def emit(self, op: Operation, name: str) -> SSAValue:
        set_sources(op, [name])
        self.block.add_op(op)
        return op.results[0]

    def constant(self, numbers: np.ndarray, codes: IntegerType, name: str) -> SSAValue:
        held = int_type(codes)
        assert held is not None
        return self.emit(ConstantOp(numbers.astype(held.dtype), codes), name)

    def quantized(self, sums: SSAValue, deviation: float, codes: IntegerType, name: str) -> SSAValue:
        """Codes of sums: two deviations are the highest code."""
        held = int_type(codes)
        assert held is not None
        multiplier = max(round(held.hi / (2 * deviation) * 2**SHIFT), 1)
        if not self.comparators or held.bits > COMPARATORS:
            form = DyadicAttr.of(multiplier, SHIFT)
            return self.emit(RequantizeOp(sums, form, codes, rounding=Rounding.HALF_UP), name)
        found = thresholds(multiplier, SHIFT, held)
        levels = self.constant(found, IntegerType(32), name)
        return self.emit(ThresholdOp(sums, levels, held.lo, codes), name)

    def linear(self, x: SSAValue, name: str) -> SSAValue:
        dim = shape_of(x)[-1]
        highest = (1 << (self.bits - 1)) - 1
        weight = self.rng.integers(-highest, highest, (dim, dim), endpoint=True)
        deviation = float(np.sqrt(dim)) * float(weight.std()) * max(highest / 2, 0.7)
        bias = np.rint(self.rng.normal(0, deviation / 4, dim))
        w, b = self.constant(weight, self.codes, name), self.constant(bias, IntegerType(32), name)
        return self.quantized(self.emit(LinearOp(x, w, b), name), deviation, self.codes, name)

    def heads(self, x: SSAValue, count: int, name: str, turned: bool = False) -> SSAValue:
        """[1, N, C] -> [1, H, N, C / H], or its rows and columns in turn."""
        _, tokens, dim = shape_of(x)
        x = self.emit(ReshapeOp(x, (1, tokens, count, dim // count)), name)
        return self.emit(TransposeOp(x, (0, 2, 3, 1) if turned else (0, 2, 1, 3)), name)


def self_attention(shape: Shape, bits: int, seed: int = 0, comparators: bool = True) -> ModuleOp:
    """@main: codes of `bits` bits [1, tokens, dim] -> the same. comparators: quantizers up to 4 bits are thresholds, else
    the requantizations that these stand for."""
    block = Block(arg_types=[TensorType(IntegerType(bits), (1, shape.tokens, shape.dim))])
    b = _Builder(np.random.default_rng(seed), bits, comparators, block)
    (x,) = block.args
    q = b.heads(b.linear(x, "queries"), shape.heads, "queries")
    k = b.heads(b.linear(x, "keys"), shape.heads, "keys", turned=True)
    v = b.heads(b.linear(x, "values"), shape.heads, "values")
    width = shape.dim // shape.heads
    code = max(((1 << (bits - 1)) - 1) / 2, 0.7)
    scores = b.quantized(b.emit(MatmulOp(q, k), "scores"), float(np.sqrt(width)) * code**2, i8, "scores")
    unsigned = IntegerType(bits, Signedness.UNSIGNED)
    made = Sm8.build(
        SoftmaxSpec(Codes(Fraction(1, 16), 0, IntType(8)), shape.tokens, Codes(Fraction(1), 0, IntType(bits, False)))
    )
    tables = [b.constant(table, IntegerType(held.bits, Signedness.UNSIGNED), "softmax") for table, held in made.tables]
    weights = b.emit(IntSoftmaxOp(scores, made.approximation, tables, [unsigned]), "softmax")
    mixed = b.emit(MatmulOp(weights, v), "mix")
    mixed = b.quantized(mixed, ((1 << bits) - 1) * code / 2, b.codes, "mix")
    mixed = b.emit(TransposeOp(mixed, (0, 2, 1, 3)), "mix")
    mixed = b.emit(ReshapeOp(mixed, (1, shape.tokens, shape.dim)), "mix")
    y = b.linear(mixed, "projection")
    block.add_op(ReturnOp(y))
    module = ModuleOp([FuncOp(MAIN, FunctionType.from_lists([x.type], [y.type]), Region(block))])
    module.verify()
    return module


def matmul_operands(shape: Shape) -> int:
    """Elements of all operands of products, each once: of x, four weights, queries, keys, values, attention, mixed values."""
    activations = 5 * shape.tokens * shape.dim
    return activations + 4 * shape.dim**2 + shape.heads * shape.tokens**2


@dataclass(frozen=True)
class Baseline:
    """Events, and the fewest cycles: of the busiest unit."""

    events: Events
    cycles: int


def dequantized_first(result: Result, shape: Shape, bits: int) -> Baseline:
    """The same tiles where every operand becomes a float of 32 bits in front of the products: closed forms, not a program.

    Elements of activations in SPM and of weights in WBUF take 4 bytes. DRAM has the codes as before, and sums have 4 bytes
    as before. A multiplication dequantizes an operand's element, once; another scales and rounds what a quantizer makes; a
    pass of softmax takes a multiplication and an addition, its divisions stay. Elements of floats are as fast as those of
    integers: in the baseline's favour.
    """
    before = result.events
    operands = matmul_operands(shape)
    read, written = Counter(before.read), Counter(before.written)
    read["SPM"], written["SPM"] = 4 * read["SPM"], 4 * written["SPM"]
    read["WBUF"], written["WBUF"] = (n["WBUF"] * 32 // bits for n in (read, written))
    read["CBUF"] = written["CBUF"] = 0  # in its favour
    quantized = before.operations["requantize"] + before.operations["threshold"]
    operations = Counter(dequantize=operands, quantize=quantized, float=before.operations["sm8"])
    busy = dict(result.busy)
    busy[Queue.VECTOR] += ceil(operands / result.program.machine.vector.lanes)
    macs = Counter({f"f32a{bits}": result.macs})
    events = replace(
        before,
        macs=macs,
        read=read,
        written=written,
        operations=operations,
        comparisons=0,
    )
    return Baseline(events, max(busy.values()))
