"""The codes of weights: symmetric, one scale a tensor or one an output channel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.semantics.pot import Exponent, candidates
from qvit.transforms.ptq.observers import ADAPTIVE, powers, require_power


class Fit(StrEnum):
    """How the scale of a row of weights is chosen."""

    MAX = "max"
    """The largest weight takes the last code."""
    MSE = "mse"
    """The share of that scale, of 1, 0.975 .. 0.4, with the least squared error of the weights."""
    OUTPUT = "output"
    """The same by the squared error of the layer's output on the samples."""


@dataclass(frozen=True)
class WeightQuantizer:
    """bits: 2..8; per_channel: a scale for each output; power_of_two as for activations, "adaptive" by the output's error.

    gptq: round column after column, each taking up the error of those before it, as the samples' second moments weigh it
    (Frantar et al., GPTQ); for 6 bits and less.
    """

    bits: int = 8
    per_channel: bool = True
    fit: Fit = Fit.MAX
    power_of_two: str = ""
    gptq: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"weights have 2 to 8 bits, found {self.bits}")
        require_power(self.power_of_two)

    @property
    def type(self) -> IntType:
        return IntType(self.bits)

    @property
    def grid(self) -> "Grid":
        return Grid(self.type, self.per_channel)

    @property
    def needs_gram(self) -> bool:
        """Whether the samples' second moments are asked for."""
        return self.gptq or self.fit is Fit.OUTPUT or self.power_of_two == ADAPTIVE


@dataclass(frozen=True)
class WeightCodes:
    """codes: int8, of the weights' shape; scale: float32 [] or [outputs]; ideal: before it was rounded to powers of two.

    nearest_error, error: the squared error of the layer's output on the samples with scales rounded to the nearest powers of
    two, and with these; 0 where no samples were needed. away: how many scales are not the nearest powers of two.
    """

    codes: Array
    scale: Array
    ideal: Array
    nearest_error: float = 0.0
    error: float = 0.0
    away: int = 0

    def real(self) -> Array:
        """The weights that the codes stand for, float64."""
        scale = np.broadcast_to(self.scale.astype(np.float64), len(self.codes))
        return self.codes * scale.reshape(-1, *[1] * (self.codes.ndim - 1))


@dataclass(frozen=True)
class Grid:
    """The codes that rows of weights can have: their type, their zero points (one, or one a row), one scale or one a row."""

    type: IntType
    per_channel: bool
    zero_point: Array = field(default_factory=lambda: np.zeros(1, np.int64))

    def codes(self, rows: Array, scale: Array) -> Array:
        """Of rows [outputs, K] with scales [outputs], float64; rounded half to even."""
        zero = self.zero_point.reshape(-1, 1)
        return np.clip(np.rint(rows / scale[:, None]) + zero, self.type.lo, self.type.hi)

    def errors(self, rows: Array, scale: Array, moments: Array | None) -> Array:
        """The squared error of each row: of its weights, or with second moments [K, K] of its output."""
        real = (self.codes(rows, scale) - self.zero_point.reshape(-1, 1)) * scale[:, None]
        off = rows - real
        return (off * off).sum(1) if moments is None else ((off @ moments) * off).sum(1)

    def best(self, rows: Array, scales: Sequence[Array], moments: Array | None) -> Array:
        """Of several scales the best for each row, or for all where they share one; the first where equal."""
        errors = np.stack([self.errors(rows, scale, moments) for scale in scales])
        if not self.per_channel:
            errors = np.repeat(errors.sum(1, keepdims=True), len(rows), 1)
        return np.stack(scales)[errors.argmin(0), np.arange(len(rows))]

    def powers(self, rows: Array, ideal: Array, rounding: str, moments: Array | None) -> Array:
        """Powers of two; "adaptive" keeps of the four around a scale the one with the least error (P2-ViT)."""
        if rounding != ADAPTIVE:
            return powers(ideal, Exponent(rounding))
        nearest = powers(ideal, Exponent.NEAREST)
        others = np.ldexp(1.0, candidates(ideal)).T
        return self.best(rows, [nearest, *others], moments)  # first, so that it stays where nothing is better


def quantize_weights(
    weights: Array, quantizer: WeightQuantizer, gram: Array | None = None, times: int = 1
) -> WeightCodes:
    """weights [outputs, ...] in float. gram: the input's second moments [K, K], K the inputs of an output.

    times: scales that become powers of two are powers of two times this number, which is less than 2^24.
    """
    rows, grid = weights.reshape(len(weights), -1).astype(np.float64) / times, quantizer.grid
    moments = gram if gram is not None and gram.shape == (rows.shape[1],) * 2 else None
    ideal = _max_scales(rows, grid)
    if quantizer.fit is not Fit.MAX:
        by_output = moments if quantizer.fit is Fit.OUTPUT else None
        shares = [1 - 0.025 * i for i in range(25)]
        ideal = grid.best(rows, [ideal * f for f in shares], by_output)
    ideal = ideal.astype(np.float32).astype(np.float64)
    scale, nearest_error, error, away = ideal, 0.0, 0.0, 0
    if quantizer.power_of_two:
        scale, nearest = grid.powers(rows, ideal, quantizer.power_of_two, moments), powers(ideal, Exponent.NEAREST)
        away = int((scale != nearest).sum() if quantizer.per_channel else scale[0] != nearest[0])
        if moments is not None:
            nearest_error, error = (float(grid.errors(rows, s, moments).sum()) for s in (nearest, scale))
    codes = _gptq(rows, scale, grid, moments) if quantizer.gptq and moments is not None else None
    if codes is None:
        codes = grid.codes(rows, scale)
    if not quantizer.per_channel:
        scale, ideal = scale[0], ideal[0]
    return WeightCodes(
        codes.reshape(weights.shape).astype(quantizer.type.dtype),
        np.asarray(scale * times, np.float32),
        np.asarray(ideal * times),
        nearest_error,
        error,
        away,
    )


def _max_scales(rows: Array, grid: Grid) -> Array:
    largest = np.abs(rows).max(1)
    if not grid.per_channel:
        largest = np.full_like(largest, largest.max())
    return np.where(largest > 0, largest / grid.type.hi, 1.0)


def _gptq(rows: Array, scale: Array, grid: Grid, moments: Array) -> Array:
    """Codes of all columns, those with the largest moments first."""
    damped = moments + np.eye(len(moments)) * (0.01 * float(np.diag(moments).mean()) + 1e-12)
    order = np.argsort(-np.diag(damped), kind="stable")
    left = rows[:, order].copy()
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    codes = np.empty_like(left)
    for i in range(left.shape[1]):
        code = grid.codes(left[:, i : i + 1], scale)[:, 0]
        codes[:, i] = code
        error = (left[:, i] - code * scale) / upper[i, i]
        left[:, i + 1 :] -= np.outer(error, upper[i, i + 1 :])
    back = np.empty_like(codes)
    back[:, order] = codes
    return back
