"""The arena: no two tensors that are in use at one step share a byte, and what is out of use gives its place."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from c_programs import FORMS
from integer_graphs import integer_graph

from qvit.backends.c import emit
from qvit.backends.c.plan import ALIGNMENT, Buffer, Plan, aligned, place


def require_sound(plan: Plan, buffers: list[Buffer]) -> None:
    for buffer in buffers:
        start = plan.offsets[buffer.key]
        assert start % ALIGNMENT == 0
        assert 0 <= start <= start + buffer.size <= plan.size
    for a, b in combinations(buffers, 2):
        if a.first <= b.last and b.first <= a.last:
            x, y = plan.offsets[a.key], plan.offsets[b.key]
            assert x + a.size <= y or y + b.size <= x, (a, b)
    steps = range(max((b.last for b in buffers), default=0) + 1)
    assert plan.least == max(sum(aligned(b.size) for b in buffers if b.first <= s <= b.last) for s in steps)
    assert plan.least <= plan.size <= sum(aligned(b.size) for b in buffers)


@pytest.mark.parametrize("seed", range(50))
def test_random_buffers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 40))
    firsts, lengths = rng.integers(0, 20, count), rng.integers(0, 8, count)
    sizes = rng.choice([0, 1, 63, 64, 65, 1000, 4096], count)
    buffers = [
        Buffer(k, int(size), int(first), int(first + length))
        for k, (size, first, length) in enumerate(zip(sizes, firsts, lengths, strict=True))
    ]
    require_sound(place(buffers), buffers)


def test_a_chain_takes_two_places() -> None:
    """Each tensor is read by the next step alone."""
    buffers = [Buffer(k, 100, k, k + 1) for k in range(10)]
    plan = place(buffers)
    assert plan.size == plan.least == 2 * 128
    assert len(set(plan.offsets.values())) == 2
    assert all(plan.offsets[a.key] != plan.offsets[b.key] for a, b in pairwise(buffers))


def test_a_gap_is_filled() -> None:
    """Small tensors lie where a large one was."""
    buffers = [Buffer("large", 256, 0, 1), Buffer("next", 64, 1, 4), Buffer("a", 128, 2, 4), Buffer("b", 128, 2, 4)]
    plan = place(buffers)
    assert plan.size == 256 + 64
    assert sorted(plan.offsets[key] for key in "ab") == [0, 128]


def test_no_buffers() -> None:
    assert place([]) == Plan({}, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_programs(seed: int) -> None:
    """What a step reads, writes and needs for itself are apart, and what it reads is still there."""
    sources = emit(integer_graph(np.random.default_rng(seed), 20, FORMS, every=False))
    assert sources.buffers
    require_sound(sources.plan, list(sources.buffers))
    alive = {buffer.key: (buffer.first, buffer.last) for buffer in sources.buffers}
    for i, step in enumerate(sources.program.steps):
        for value in (*map(sources.program.home, step.operands.values()), *step.results.values()):
            if value in alive:
                first, last = alive[value]
                assert first <= i <= last
