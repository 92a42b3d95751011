"""--smooth-pot: move ranges of channels from layer normalisations into the weights behind them, by powers of two."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar
from zipfile import BadZipFile

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qvit.dialects.atomic import write_text
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.provenance import Remark, describe, grouped
from qvit.dialects.semantics.integers import Array
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.smoothing import Smoothable, Smoothed, factors, smoothable
from qvit.transforms.rule import Declined, require

DEVIATIONS = 3.0
"""Without statistics a normalised value is taken to reach so many standard deviations."""


@dataclass(frozen=True)
class SmoothReport:
    """smoothed: normalisations, and the factors of their channels; guessed: how many of them without statistics; left: why."""

    smoothed: list[Smoothed]
    guessed: int
    left: list[Remark]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = ["smooth-pot", f"  {'smoothed':<16} {len(self.smoothed):>28,}"]
        if self.guessed:
            lines.append(
                f"    {self.guessed} without statistics: channels taken to reach |beta| + {DEVIATIONS:g} |gamma|"
            )
        lines += [f"    {s.src}: by {s.low:g} .. {s.high:g}" for s in self.smoothed]
        lines += grouped("left", self.left)
        return "\n".join(lines) + "\n"


def smooth_pot(module: ModuleOp, alpha: float = 0.5, largest: Mapping[str, Array] | None = None) -> SmoothReport:
    """Divide the results of layer normalisations by 2^k_c and multiply the weights behind them, in place (P2-ViT, 3.3).

    2^k_c is the power of two nearest to a_c^alpha / w_c^(1 - alpha) over its geometric mean, a_c the largest |result| of
    channel c and w_c its largest weight. largest: a by the name of the normalisation; where it is not told, a bound that
    needs no data is taken: |beta_c| + 3 |gamma_c|, which a normally distributed value exceeds once in 370 times.

    Bit-exact in floats: multiplication by a power of two does not round, and nothing is changed where a weight would leave
    the normal numbers.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"smooth-pot: alpha must be in 0..1, found {alpha:g}")
    weights, known = Weights(module), largest or {}
    report = SmoothReport([], 0, [])
    guessed = 0
    for norm in [op for op in module.walk() if isinstance(op, LayerNormOp)]:
        name = describe(norm)
        try:
            found = smoothable(norm, weights)
            factor = factors(_largest(found, known.get(name)), found.columns, alpha, True)
            require(_exact(found, factor), "a power of two would take some of its constants beyond the normal floats")
        except Declined as declined:
            report.left.append(Remark(name, "smooth-pot", str(declined)))
            continue
        guessed += name not in known
        report.smoothed.append(found.divide(factor))
    return SmoothReport(report.smoothed, guessed, report.left)


def _largest(found: Smoothable, known: Array | None) -> Array:
    """[C], float64"""
    gamma, *beta = (np.abs(array.astype(np.float64)) for array in found.constants)
    if known is None:
        return sum(beta, DEVIATIONS * gamma)
    require(
        known.shape == gamma.shape, f"its statistics have the shape {list(known.shape)}, expected {list(gamma.shape)}"
    )
    require(np.isfinite(known).all() and (known >= 0).all(), "its statistics are not all finite and at least 0")
    return known.astype(np.float64)


def _exact(found: Smoothable, factor: Array) -> bool:
    """Whether all constants can be divided or multiplied by the powers of two without rounding."""
    scaled = [(a, a / factor, factor) for a in found.constants]
    scaled += [(matrix, matrix * factor, 1 / factor) for _, matrix in found.layers]
    with np.errstate(over="ignore"):  # infinity is not equal
        return all(np.array_equal(new.astype(old.dtype).astype(np.float64) * back, old) for old, new, back in scaled)


def read_statistics(path: Path) -> dict[str, Array]:
    """The largest |result| of each channel, by the name of the normalisation: an .npz file of vectors."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, BadZipFile, AttributeError) as error:
        raise ValueError(f"smooth-pot: {path} cannot be read as an .npz file of vectors: {error}") from error


@dataclass(frozen=True)
class SmoothPotPass(ModulePass):
    """Fold powers of two into gamma and beta of layer normalisations and the weights behind them, so that channels are alike.

    Legal on float modules, and where the layers behind a normalisation are not quantized yet; bit-exact. `alpha` (default
    0.5) says how much of a channel's range goes into the weights. `statistics=FILE.npz` has the largest |result| of each
    channel, a vector for each normalisation, by its name; without, |beta| + 3 |gamma| stands for it. `report=FILE` writes
    what was done as JSON, and prints a short table on stderr.
    """

    name: ClassVar[str] = "smooth-pot"

    alpha: float = 0.5
    statistics: str = ""
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)

    def run(self, module: ModuleOp) -> SmoothReport:
        """`apply`, which cannot return what was done."""
        known = read_statistics(Path(self.statistics)) if self.statistics else {}
        report = smooth_pot(module, self.alpha, known)
        if self.report:
            write_text(Path(self.report), report.to_json())
            sys.stderr.write(report.table())
        return report
