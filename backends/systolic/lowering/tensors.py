"""Where tensors live, and the same elements met in another order: transposes, slices and their like cost nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from xdsl.ir import SSAValue

from qvit.dialects.semantics.integers import IntType


@dataclass(eq=False)
class Home:
    """The memory of one tensor: `elements` of `type`, each in the bytes in which NumPy holds it.

    address: of DRAM, in bytes, where it lives there; else it lives in SPM.
    """

    name: str
    elements: int
    type: IntType
    value: SSAValue | None = None
    address: int | None = None

    @property
    def itemsize(self) -> int:
        return self.type.dtype.itemsize

    @property
    def bytes(self) -> int:
        return self.elements * self.itemsize


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor, in elements."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


@dataclass(frozen=True)
class Matrix:
    """[rows, columns] of a home; offset and strides in elements."""

    home: Home
    offset: int
    rows: int
    columns: int
    row: int
    column: int

    @property
    def contiguous(self) -> bool:
        """Whether the elements of a row lie side by side."""
        return self.column == 1 or self.columns == 1

    def turned(self) -> "Matrix":
        return Matrix(self.home, self.offset, self.columns, self.rows, self.column, self.row)

    def part(self, first: int, last: int, left: int = 0, right: int | None = None) -> "Matrix":
        """Rows first..last - 1 and columns left..right - 1."""
        right = self.columns if right is None else right
        offset = self.offset + first * self.row + left * self.column
        return Matrix(self.home, offset, last - first, right - left, self.row, self.column)


@dataclass(frozen=True)
class View:
    """A tensor as elements of a home; offset and strides in elements."""

    home: Home
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def of(cls, home: Home, shape: Sequence[int]) -> "View":
        """The home from its start, row by row."""
        return cls(home, tuple(shape), row_major(shape))

    def transposed(self, order: Sequence[int]) -> "View":
        shape, strides = (tuple(v[i] for i in order) for v in (self.shape, self.strides))
        return View(self.home, shape, strides, self.offset)

    def reshaped(self, shape: Sequence[int]) -> "View | None":
        """None where no strides say it."""
        strides = _split_strides(self.shape, self.strides, shape)
        return None if strides is None else View(self.home, tuple(shape), strides, self.offset)

    def sliced(self, axis: int, start: int, size: int, step: int) -> "View":
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = size, strides[axis] * step
        return View(self.home, tuple(shape), tuple(strides), offset)

    def broadcast(self, shape: Sequence[int]) -> "View":
        """By NumPy's rules."""
        missing = len(shape) - len(self.shape)
        strides = [0 if d == 1 else s for d, s in zip(self.shape, self.strides, strict=True)]
        return View(self.home, tuple(shape), (*[0] * missing, *strides), self.offset)

    def matrices(self) -> Iterator[Matrix]:
        """One for each index of all dimensions but the last two, in order."""
        shape, strides = (1, 1, *self.shape)[-max(2, len(self.shape)) :], (0, 0, *self.strides)
        strides = strides[-len(shape) :]
        for index in product(*(range(n) for n in shape[:-2])):
            offset = self.offset + sum(i * s for i, s in zip(index, strides[:-2], strict=True))
            yield Matrix(self.home, offset, shape[-2], shape[-1], strides[-2], strides[-1])

    def rows(self) -> list[Matrix]:
        """All rows along the last dimension, in order, in as few matrices as strides allow."""
        columns, column = (self.shape[-1], self.strides[-1]) if self.shape else (1, 1)
        merged = _split_strides(self.shape[:-1], self.strides[:-1], (prod(self.shape[:-1]),))
        if merged is not None:
            return [Matrix(self.home, self.offset, prod(self.shape[:-1]), columns, merged[0], column)]
        return list(self.matrices())


def _split_strides(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of the same elements, in the same order, in another shape; None where there are none."""
    merged: list[tuple[int, int]] = []  # as few dimensions as possible
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    found: list[int] = []
    size, stride = 1, 0
    for d in wanted:
        if d == 1:
            found.append(0)
            continue
        if size == 1 and merged:
            size, stride = merged.pop(0)
        if size % d:
            return None
        size //= d
        found.append(stride * size)
    return tuple(found) if size == 1 and not merged else None
