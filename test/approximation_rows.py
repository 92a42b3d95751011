"""Rows of codes that try approximations at their edges, and what it means that proven intervals hold."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[int, int]


def rows(seed: int, count: int, length: int, codes: Interval) -> NDArray[np.int64]:
    """[count, length]: normal ones of many widths, even ones, and the extremes."""
    rng, (lo, hi) = np.random.default_rng(seed), codes
    spread = (hi - lo) * 2.0 ** rng.uniform(-8, 0, (count, 1))
    x = rng.normal(rng.uniform(lo, hi, (count, 1)), spread, (count, length))
    x = np.where(rng.random((count, 1)) < 0.3, rng.uniform(lo, hi + 1, (count, length)), x)
    x = np.clip(np.floor(x), lo, hi).astype(np.int64)
    special = [np.full(length, lo), np.full(length, hi), np.resize([lo, hi], length)]
    for value, other in ((lo, hi), (hi, lo), (hi, hi - 1), (lo, lo + 1)):  # all but one are alike
        special.append(np.r_[other, np.full(length - 1, value)])
    x[: min(count, len(special))] = special[:count]
    return x


def masks(seed: int, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Rows with few, most, a single, and no entry."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < rng.uniform(0, 1, (shape[0], 1))).astype(np.uint8)
    mask[: min(len(mask), 2)] = 0
    mask[1:2, shape[1] // 2] = 1
    return mask


def lists(x: NDArray[Any], mask: NDArray[Any] | None = None) -> Iterator[tuple[list[int], list[int]]]:
    """(codes, which take part) of each row, as Python's numbers."""
    keep = np.ones_like(x) if mask is None else np.broadcast_to(mask, x.shape)
    return zip(x.tolist(), keep.tolist(), strict=True)


class Extent:
    """The least and the greatest value seen of each intermediate."""

    def __init__(self) -> None:
        self.seen: dict[str, Interval] = {}

    def add(self, seen: Mapping[str, Sequence[int]]) -> None:
        for name, values in seen.items():
            if values:
                lo, hi = self.seen.get(name, (values[0], values[0]))
                self.seen[name] = min(lo, *values), max(hi, *values)

    def require_within(self, proven: Mapping[str, Interval], unseen: Sequence[str] = ()) -> None:
        """Every intermediate was seen, but for those named, and stayed in its interval."""
        assert set(proven) == set(self.seen) | set(unseen)
        for name, (lo, hi) in self.seen.items():
            assert proven[name][0] <= lo <= hi <= proven[name][1], (name, proven[name], (lo, hi))
