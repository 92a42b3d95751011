"""Operations that only move elements; they take any element type."""

from collections.abc import Sequence

import numpy as np

from qvit.dialects.semantics.integers import Array


def reshape(x: Array, shape: Sequence[int]) -> Array:
    """The same elements in row-major order, in another shape."""
    return x.reshape(tuple(shape))


def transpose(x: Array, permutation: Sequence[int]) -> Array:
    """Result dimension i is operand dimension permutation[i]."""
    return np.transpose(x, tuple(permutation))


def slice_(x: Array, axis: int, start: int, size: int, step: int = 1) -> Array:
    """x[..., start : : step, ...] along `axis`, `size` elements of it; a negative step walks backwards."""
    return np.take(x, range(start, start + size * step, step), axis=axis)


def concat(parts: Sequence[Array], axis: int) -> Array:
    """The parts one after another along `axis`."""
    return np.concatenate(parts, axis=axis)


def gather(x: Array, indices: Array, axis: int) -> Array:
    """x's slices at `indices` (integers, 0 .. dim-1) along `axis`; the axis is replaced by the shape of indices."""
    if indices.size and (indices.min() < 0 or indices.max() >= x.shape[axis]):
        raise IndexError(f"gather: indices reach {indices.min()}..{indices.max()}, axis {axis} has {x.shape[axis]}")
    return np.take(x, indices, axis=axis)


def broadcast(x: Array, shape: Sequence[int]) -> Array:
    """x repeated to `shape` by NumPy's rules."""
    return np.broadcast_to(x, tuple(shape))
