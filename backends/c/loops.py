"""Nests of C loops over tensors: each tensor has a stride for every loop, so that broadcasting costs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from qvit.backends.c.plan import ALIGNMENT
from qvit.backends.c.step import Share, indented


@dataclass(frozen=True)
class Access:
    """Which element of a tensor is met: number offset + sum_i strides[i] * (index of loop i)."""

    strides: tuple[int, ...]
    offset: int = 0


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor, in elements."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def dense(shape: Sequence[int]) -> Access:
    return Access(row_major(shape))


def broadcast(shape: Sequence[int], target: Sequence[int]) -> Access:
    """A tensor that NumPy's rules repeat to the shape `target`."""
    strides = [0 if d == 1 else s for d, s in zip(shape, row_major(shape), strict=True)]
    return Access((*[0] * (len(target) - len(shape)), *strides))


def vector(axis: int | None, rank: int) -> Access:
    """A vector that lies along one of `rank` dimensions."""
    return Access(tuple(1 if i == axis else 0 for i in range(rank)))


MANY = 64
"""Rounds of a loop that threads divide."""

At = Mapping[str, str]
"""The C expression of each tensor's index, by the tensor's name."""


def nest(shape: Sequence[int], accesses: Mapping[str, Access], body: Callable[[At], str], prefix: str = "i") -> str:
    """Loops over all indices of `shape`, in order, around the statements that `body` makes from the tensors' indices.

    Loops that all tensors walk through in one stride are one loop. Nothing where there is no element.
    """
    return _nest(shape, accesses, body, prefix, divided=False)[0]


def shared(shape: Sequence[int], accesses: Mapping[str, Access], body: Callable[[At], str]) -> tuple[str, Share | None]:
    """As `nest`, with begin..end as one of the loops; what `body` writes does not overlap for any two indices."""
    return _nest(shape, accesses, body, "i", divided=True)


def _nest(
    shape: Sequence[int], accesses: Mapping[str, Access], body: Callable[[At], str], prefix: str, divided: bool
) -> tuple[str, Share | None]:
    if not prod(shape):
        return "", None
    sizes, kept = _merged(shape, accesses)
    names = [f"{prefix}{k}" if len(sizes) > 1 else prefix for k in range(len(sizes))]
    text = body({name: _index(access, names) for name, access in kept.items()})
    # the outermost loop of many rounds, else the longest: the parts of threads are then about equal
    longest = sizes.index(max(sizes)) if sizes else None
    which = next((k for k, size in enumerate(sizes) if size >= MANY), longest) if divided else None
    for k, (name, size) in reversed(list(enumerate(zip(names, sizes, strict=True)))):
        text = part(name, text) if k == which else loop(name, size, text)
    if which is None:
        return text, None
    return text, of_elements(sizes[which])


def of_elements(extent: int) -> Share:
    """So many that parts may begin at cache lines and nearly be of one size: they do."""
    return Share(extent, ALIGNMENT if extent >= MANY * ALIGNMENT else 1)


def loop(name: str, size: int, body: str) -> str:
    return f"for (size_t {name} = 0; {name} < {size}; ++{name}) {{\n{indented(body)}}}"


def part(name: str, body: str, step: int = 1) -> str:
    """The loop over what a thread computes: see `Share`."""
    advance = f"++{name}" if step == 1 else f"{name} += {step}"
    return f"for (size_t {name} = begin; {name} < end; {advance}) {{\n{indented(body)}}}"


def _merged(shape: Sequence[int], accesses: Mapping[str, Access]) -> tuple[list[int], dict[str, Access]]:
    """The same walk with as few loops as possible."""
    sizes: list[int] = []
    strides: list[list[int]] = []  # of each loop, one for each tensor
    for i, size in enumerate(shape):
        if size == 1:
            continue
        mine = [access.strides[i] for access in accesses.values()]
        if sizes and all(outer == inner * size for outer, inner in zip(strides[-1], mine, strict=True)):
            sizes[-1], strides[-1] = sizes[-1] * size, mine
        else:
            sizes.append(size)
            strides.append(mine)
    kept = {
        name: Access(tuple(loop[k] for loop in strides), access.offset)
        for k, (name, access) in enumerate(accesses.items())
    }
    return sizes, kept


def _index(access: Access, names: Sequence[str]) -> str:
    terms = [(abs(s), "+" if s > 0 else "-", name) for s, name in zip(access.strides, names, strict=True) if s]
    parts = [f"{sign} {name}" if size == 1 else f"{sign} {name} * {size}" for size, sign, name in terms]
    text = " ".join(([str(access.offset)] if access.offset or not parts or parts[0][0] == "-" else []) + parts)
    return text.removeprefix("+ ")
