"""--fuse-pot: scales that are powers of two, so that every requantize becomes a shift."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf, log10
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.atomic import write_text
from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, describe, grouped, set_sources, sources
from qvit.dialects.semantics.integers import Array, minus, widen
from qvit.dialects.semantics.pot import Exponent
from qvit.dialects.types import element_of, integer_of
from qvit.dialects.weights import Weights
from qvit.transforms.pot.factors import fold_factors
from qvit.transforms.ptq.observers import ADAPTIVE, POWERS, powers
from qvit.transforms.ptq.weights import Grid
from qvit.transforms.rule import Declined, Exactness, require

Moments: TypeAlias = Callable[[LinearOp], Array | None]
"""The second moments [K, K] of a linear layer's input on samples, where they are known."""

LAYERS = (LinearOp, Conv2dOp)


@dataclass(frozen=True)
class Snapped:
    """A scale, or the scales of channels, that became powers of two.

    kind: "activation" (its quantize, or a constant among activations), "weights" or "bias". octaves: how far each of the
    scales moved that did. bound: half of the largest new unit, by which a number that does not saturate can be off. noise:
    how much the power of the rounding noise grew, in dB, as units did. sqnr_before, sqnr_after: of weights, in dB: their
    power over that of the noise, which is unit^2 / 12 before; after, that and what really changed.
    """

    src: str
    kind: str
    channels: int
    octaves: tuple[float, ...]
    bound: float
    noise: float
    sqnr_before: float | None = None
    sqnr_after: float | None = None


@dataclass
class FuseReport:
    """What --fuse-pot did: scales, constant factors that went into weights, and what could not become a shift, and why."""

    rounding: str
    exactness: Exactness = Exactness.BOUNDED
    scales: list[Snapped] = field(default_factory=list[Snapped])
    folded: list[str] = field(default_factory=list[str])
    left: list[Remark] = field(default_factory=list[Remark])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = [f"fuse-pot ({self.rounding}; {self.exactness}: off by half of a new unit)"]
        for kind in dict.fromkeys(s.kind for s in self.scales):
            mine = [s for s in self.scales if s.kind == kind]
            octaves = [o for s in mine for o in s.octaves]
            reach = f" by {min(octaves):+.2f} .. {max(octaves):+.2f} octaves" if octaves else ""
            lines.append(f"  {kind:<12} {len(mine):>5} tensors, {len(octaves)} scales moved{reach}")
            worst = max(mine, key=lambda s: s.noise)
            lines.append(f"    most noise added: {worst.src}, {worst.noise:+.1f} dB{_sqnr(worst)}")
        if self.folded:
            lines.append(f"  factors folded into weights: {len(self.folded)}, first {self.folded[0]}")
        lines += grouped("left", self.left)
        return "\n".join(lines) + "\n"


def _sqnr(snapped: Snapped) -> str:
    if snapped.sqnr_before is None or snapped.sqnr_after is None:
        return ""
    return f" (SQNR {snapped.sqnr_before:.1f} -> {snapped.sqnr_after:.1f} dB)"


def fuse_pot(module: ModuleOp, rounding: str = Exponent.NEAREST, moments: Moments | None = None) -> FuseReport:
    """Make every scale of a module with quantize and dequantize operations a power of two, in place.

    rounding: nearest (in the linear domain), floor, ceil, or adaptive: of floor - 1 .. floor + 2 the one with the least
    squared error (P2-ViT, 3.2): of a linear layer's output where its `moments` are known, else of the weights themselves.
    Activations, of which nothing is known here, are then rounded up, so that nothing saturates that did not before.

    Codes of weights follow the numbers they stand for. A bias that is quantized is stored anew at the product of the scales
    of input and weights. Zero points stay. Constant factors that are no powers of two go into weights first. Bounded: a
    number that stays in the range of its codes moves by at most half of its new unit.
    """
    if rounding not in POWERS:
        raise ValueError(f"fuse-pot: rounding must be {', '.join(POWERS)}, found {rounding or 'nothing'}")
    weights = Weights(module)
    fusing = _Fusing(weights, rounding, moments or (lambda _: None), FuseReport(rounding))
    fusing.report.folded, fusing.report.left = fold_factors(module, weights)
    biases = {op.bias: op for op in module.walk() if isinstance(op, LAYERS) and op.bias is not None}
    for op in list(module.walk()):
        if isinstance(op, DequantizeOp) and op.result in biases:
            continue  # after the scales that it depends on
        if isinstance(op, DequantizeOp | QuantizeOp):
            fusing.guard(op, lambda op=op: fusing.snap(op))
        elif isinstance(op, RequantizeOp | AddRequantOp):
            fusing.report.left.append(Remark(describe(op), op.name, "it has a factor already: fuse before delaying"))
    for value, layer in biases.items():
        if isinstance(dq := value.owner, DequantizeOp):
            fusing.guard(dq, lambda dq=dq, layer=layer: fusing.bias(dq, layer))
    # a walk that rewrites nothing removes the constants that are left without a use
    PatternRewriteWalker(GreedyRewritePatternApplier([])).rewrite_module(module)
    return fusing.report


@dataclass
class _Fusing:
    """One run of the pass."""

    weights: Weights
    rounding: str
    moments: Moments
    report: FuseReport

    def guard(self, op: QuantizeOp | DequantizeOp, step: Callable[[], None]) -> None:
        try:
            step()
        except Declined as declined:
            self.report.left.append(Remark(describe(op), "fuse-pot", str(declined)))

    def snap(self, op: QuantizeOp | DequantizeOp) -> None:
        """Of activations the scale alone; constants have their codes made anew."""
        codes = None if isinstance(op, QuantizeOp) else self.weights.array(op.input)
        ideal = self._scales(op)
        if codes is None or not isinstance(op, DequantizeOp):
            scale = powers(ideal, self._plain)
            self._set(op, scale)
            if isinstance(op, QuantizeOp) or not isinstance(op.input.owner, QuantizeOp):  # else it is told already
                self.report.scales.append(_snapped(describe(op), "activation", ideal, scale))
            return
        layers = list(_layers_of(op.result))
        grid, rows, axis = self._grid(op, codes)
        row_scales = np.broadcast_to(ideal, len(rows))
        if layers:
            scale = grid.powers(rows, row_scales, self.rounding, self._moments(layers, op.result, rows))
        else:
            scale = powers(row_scales, self._plain)
        made = grid.codes(rows, scale)
        after = scale if grid.per_channel else scale[:1]
        self._set(op, after)
        self._replace_codes(op, made, codes, axis)
        change = rows - (made - grid.zero_point.reshape(-1, 1)) * scale[:, None]
        kind = "weights" if layers else "activation"
        self.report.scales.append(_snapped(describe(op), kind, ideal, after, rows, row_scales, change))

    def bias(self, op: DequantizeOp, layer: LinearOp | Conv2dOp) -> None:
        """Codes at the product of the scales of input and weights."""
        codes, integer = self.weights.array(op.input), integer_of(op.input)
        operands = [v.owner for v in (layer.input, layer.weight)]
        if codes is None or integer is None or not all(isinstance(dq, DequantizeOp) for dq in operands):
            return self.snap(op)
        x, w = (dq for dq in operands if isinstance(dq, DequantizeOp))
        if x.params.axis_index is not None or w.params.axis_index not in (None, 0):
            return self.snap(op)
        ideal, unit = self._scales(op), self.weights.scale(x.params.scale) * self.weights.scale(w.params.scale)
        real = minus(widen(codes), self.weights.zero_point(op.params.zero_point)) * ideal
        made = np.rint(real / unit)
        require(
            integer.lo <= made.min() and made.max() <= integer.hi,
            f"the bias needs codes up to {float(np.abs(made).max()):.0f} at the scales of input and weights, beyond {integer}",
        )
        scale = np.atleast_1d(unit)
        op.properties["params"] = QParamsAttr.of(_scale(scale), 0, 0 if scale.size > 1 else None)
        self._constant(op, made)
        self.report.scales.append(
            _snapped(describe(op), "bias", ideal, scale, real[:, None], ideal, (real - made * unit)[:, None])
        )
        return None

    @property
    def _plain(self) -> Exponent:
        """For what there are no samples of."""
        return Exponent.CEIL if self.rounding == ADAPTIVE else Exponent(self.rounding)

    def _scales(self, op: QuantizeOp | DequantizeOp) -> Array:
        """float64 [1] or one a channel; Declined unless they are positive."""
        scales = np.array([float(s) for s in self.weights.exact_scale(op.params.scale)])
        require((scales > 0).all(), f"its scale {float(scales.min()):.6g} is not positive")
        return scales

    def _set(self, op: QuantizeOp | DequantizeOp, scale: Array) -> None:
        if op.params.scale.length is None:
            scale = scale[:1]
        op.properties["params"] = QParamsAttr.of(_scale(scale), op.params.zero_point, op.params.axis_index)

    def _grid(self, op: DequantizeOp, codes: Array) -> tuple[Grid, Array, int | None]:
        """(grid, the real numbers [rows, ...], the axis that the rows lie along)."""
        integer, axis = integer_of(op.input), op.params.axis_index
        assert integer is not None
        zero = np.atleast_1d(self.weights.zero_point(op.params.zero_point))
        front = np.moveaxis(widen(codes), axis or 0, 0) if codes.ndim else widen(codes).reshape(1)
        rows = front.reshape(len(front), -1)
        real = minus(rows, zero[:, None]) * np.broadcast_to(self._scales(op), len(rows))[:, None]
        return Grid(integer, op.params.scale.length is not None, zero), real, axis

    def _moments(self, layers: Sequence[LinearOp | Conv2dOp | MatmulOp], value: SSAValue, rows: Array) -> Array | None:
        """Of the one linear layer that takes the weights as they are."""
        layer = layers[0]
        if len(layers) > 1 or not isinstance(layer, LinearOp) or layer.weight is not value:
            return None
        found = self.moments(layer)
        return found if found is not None and found.shape == (rows.shape[1],) * 2 else None

    def _replace_codes(self, op: DequantizeOp, made: Array, old: Array, axis: int | None) -> None:
        front = np.moveaxis(old, axis or 0, 0).shape if old.ndim else ()
        codes = made.reshape(front)
        self._constant(op, np.moveaxis(codes, 0, axis or 0) if codes.ndim else codes)

    def _constant(self, op: DequantizeOp, codes: Array) -> None:
        """In the place of the codes that there are, unless they are the same."""
        integer = integer_of(op.input)
        assert integer is not None
        if np.array_equal(codes, np.asarray(self.weights.array(op.input))):
            return
        constant = ConstantOp(codes.astype(integer.dtype), element_of(op.input))
        owner = op.input.owner
        set_sources(constant, sources(owner) if isinstance(owner, ConstantOp) else sources(op))
        constant.result.name_hint = op.input.name_hint
        Rewriter.insert_op(constant, InsertPoint.before(op))
        op.operands[0] = constant.result


def _layers_of(value: SSAValue) -> list[LinearOp | Conv2dOp | MatmulOp]:
    """The products that take a constant as weights, moved at most."""
    found: list[LinearOp | Conv2dOp | MatmulOp] = []
    for use in value.uses:
        op = use.operation
        if isinstance(op, LinearOp | Conv2dOp | MatmulOp):
            found.append(op)
        elif isinstance(op, TransposeOp | ReshapeOp):
            found += _layers_of(op.result)
    return found


def _scale(scale: Array) -> float | Array:
    """One number, or a vector: powers of two are float32 numbers, where these reach as far."""
    return float(scale[0]) if scale.size == 1 else scale.astype(np.float32)


def _snapped(
    src: str,
    kind: str,
    ideal: Array,
    scale: Array,
    real: Array | None = None,
    units: Array | None = None,
    change: Array | None = None,
) -> Snapped:
    """real [rows, ...]: the numbers before, each row in units of `units`; change: what they lost."""
    moved = np.log2(np.broadcast_to(scale, ideal.shape) / ideal) if scale.size == 1 else np.log2(scale / ideal)
    octaves = tuple(float(o) for o in moved if o)
    noise = 10 * log10(float((scale**2).mean() / (ideal**2).mean()))
    before = after = None
    if real is not None and units is not None and change is not None:
        power = float((real**2).sum())
        rounding = float((np.broadcast_to(units, len(real)) ** 2).sum()) * real.shape[1] / 12
        before, after = (_decibel(power, noise) for noise in (rounding, rounding + float((change**2).sum())))
    return Snapped(src, kind, max(ideal.size, scale.size), octaves, float(scale.max()) / 2, noise, before, after)


def _decibel(power: float, noise: float) -> float:
    return 10 * log10(power / noise) if power and noise else inf if power else 0.0


@dataclass(frozen=True)
class FusePotPass(ModulePass):
    """Round every scale to a power of two, so that every requantize becomes a shift; say what that costs.

    Legal on modules with quantize and dequantize operations, before --delay-dequant; bounded by half of a new unit.
    `rounding=nearest|floor|ceil|adaptive` (default nearest): adaptive keeps of four powers of two the one with the least
    squared error of the weights, and rounds activations up. Afterwards all scales are powers of two, and --lower-requant
    takes form=pot, but for what the report names with the reason. `report=FILE` writes it as JSON; a table is on stderr.
    """

    name: ClassVar[str] = "fuse-pot"

    rounding: str = Exponent.NEAREST.value
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)

    def run(self, module: ModuleOp) -> FuseReport:
        """`apply`, which cannot return what was done."""
        report = fuse_pot(module, self.rounding)
        if self.report:
            write_text(Path(self.report), report.to_json())
        sys.stderr.write(report.table())
        return report
