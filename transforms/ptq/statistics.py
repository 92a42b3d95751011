"""What is seen of a tensor while sample inputs run: ranges, ranges of channels, and a sample of its values."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from qvit.dialects.semantics.integers import Array

MOMENTUM = 0.95
"""Of the exponential moving average of batch ranges (I-ViT's QuantAct)."""
SAMPLE_OF_BATCH = 8192
SAMPLE = 1 << 17
"""Values kept: of one batch, and in all."""
ROWS_OF_BATCH, ROWS = 32, 256
"""Rows kept: of one batch, and in all."""


class BadSample(ValueError):
    """A tensor held what cannot be quantized; the message says what."""


@dataclass
class Statistics:
    """Of one tensor; `update` takes a batch. Channels lie along the last axis."""

    batches: int = 0
    low: float = np.inf
    high: float = -np.inf
    average_low: float = 0.0
    average_high: float = 0.0
    channel_low: Array = field(default_factory=lambda: np.zeros(0))
    channel_high: Array = field(default_factory=lambda: np.zeros(0))
    channel_sum: Array = field(default_factory=lambda: np.zeros(0))
    rows: int = 0
    sample: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    sample_rows: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """A few whole rows, [R, C], of every batch: what row-wise functions are tried on."""
    gram: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """sum over rows of x x^T, [C, C] float64, where it is asked for: the layer's output error is a quadratic form of it."""

    def update(self, x: Array, rng: np.random.Generator, with_gram: bool = False) -> None:
        """Take in a batch; BadSample if it holds NaN or infinity."""
        if not np.isfinite(x).all():
            raise BadSample(f"{int((~np.isfinite(x)).sum())} of its {x.size} values are NaN or infinite")
        rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
        low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
        total = rows.sum(0, dtype=np.float64)
        if self.batches == 0:
            self.channel_low, self.channel_high, self.channel_sum = low, high, total
            self.average_low, self.average_high = float(low.min()), float(high.max())
        else:
            self.channel_low = np.minimum(self.channel_low, low)
            self.channel_high = np.maximum(self.channel_high, high)
            self.channel_sum = self.channel_sum + total
            self.average_low += (1 - MOMENTUM) * (float(low.min()) - self.average_low)
            self.average_high += (1 - MOMENTUM) * (float(high.max()) - self.average_high)
        self.low, self.high = min(self.low, float(low.min())), max(self.high, float(high.max()))
        self.rows += len(rows)
        self.batches += 1
        step = max(x.size // SAMPLE_OF_BATCH, 1)
        picked = x.reshape(-1)[int(rng.integers(step)) :: step].astype(np.float32)
        self.sample = np.concatenate([self.sample, picked])
        if self.sample.size > SAMPLE:
            self.sample = rng.choice(self.sample, SAMPLE, replace=False)
        # at random: a stride may meet the same token of every image
        some = rows[rng.permutation(len(rows))[:ROWS_OF_BATCH]].astype(np.float32)
        self.sample_rows = np.concatenate([self.sample_rows, some]) if self.sample_rows.size else some
        if len(self.sample_rows) > ROWS:
            self.sample_rows = rng.choice(self.sample_rows, ROWS, replace=False)
        if with_gram:
            wide = rows.astype(np.float64)
            self.gram = (self.gram if self.gram.size else 0) + wide.T @ wide

    @property
    def channel_mean(self) -> Array:
        return self.channel_sum / max(self.rows, 1)

    def per_channel(self, factor: Array, offset: Array | float = 0.0) -> "Statistics":
        """The statistics of x * factor + offset, one of each for a channel; factor > 0.

        The sample, whose values have lost their channels, is empty where a channel changes.
        """
        low, high = self.channel_low * factor + offset, self.channel_high * factor + offset
        gram = self.gram * np.outer(factor, factor) if self.gram.size and not np.any(offset) else np.zeros((0, 0))
        return Statistics(
            self.batches,
            float(low.min()),
            float(high.max()),
            float(low.min()),
            float(high.max()),
            low,
            high,
            self.channel_sum * factor + offset * self.rows,
            self.rows,
            np.zeros(0, np.float32),
            (self.sample_rows * factor + offset).astype(np.float32),
            gram,
        )

    def to_arrays(self, prefix: str) -> dict[str, Array]:
        """For an .npz file."""
        return {f"{prefix}.{f.name}": np.asarray(getattr(self, f.name)) for f in fields(self)}

    @staticmethod
    def from_arrays(arrays: dict[str, Array], prefix: str) -> "Statistics":
        def value(name: str) -> Any:
            array = arrays[f"{prefix}.{name}"]
            return array if array.ndim else array.item()

        return Statistics(**{f.name: value(f.name) for f in fields(Statistics)})


def joined(parts: list[Statistics]) -> Statistics:
    """Of tensors that share one scale; what belongs to channels is kept only where there is one part."""
    if len(parts) == 1:
        return parts[0]
    return Statistics(
        max(p.batches for p in parts),
        min(p.low for p in parts),
        max(p.high for p in parts),
        min(p.average_low for p in parts),
        max(p.average_high for p in parts),
        sample=np.concatenate([p.sample for p in parts]),
        sample_rows=_joined_rows([p.sample_rows for p in parts]),
    )


def _joined_rows(parts: list[Array]) -> Array:
    """None where a part has none, or another number of channels."""
    alike = all(p.size for p in parts) and len({p.shape[1] for p in parts}) == 1
    return np.concatenate(parts) if alike else np.zeros((0, 0), np.float32)


def of_constant(array: Array) -> Statistics:
    """A constant's own statistics."""
    statistics = Statistics()
    statistics.update(array, np.random.default_rng(0))
    return statistics
