"""Regions of memories: the bytes that strides reach, against sets of addresses."""

from collections import Counter

import numpy as np

from qvit.backends.systolic.simulator.memory import Region, overlap, overlaps_itself, view


def addresses(region: Region) -> list[int]:
    base, run, rows, row, planes, plane = region
    return [base + i * plane + j * row + n for i in range(planes) for j in range(rows) for n in range(run)]


def regions(count: int) -> list[Region]:
    """Dense ones, ones with gaps, repeated ones and ones whose runs lie on each other."""
    rng = np.random.default_rng(0)
    found: list[Region] = []
    for _ in range(count):
        run, rows, planes = rng.integers(1, 5, 3).tolist()
        row = int(rng.choice([0, run, run + 2, rng.integers(0, 9)]))
        plane = int(rng.choice([0, row * rows, run, rng.integers(0, 40)]))
        found.append(Region(int(rng.integers(0, 30)), run, rows, row, planes, plane))
    return found


def test_views_are_the_addresses_in_their_order() -> None:
    memory = np.arange(400, dtype=np.uint32)
    for region in regions(300):
        assert view(memory, region).reshape(-1).tolist() == addresses(region)
        assert region.end == max(addresses(region)) + 1
        assert region.bytes == len(addresses(region))


def test_merged_regions_are_the_same_bytes() -> None:
    for region in regions(1000):
        assert set(addresses(region.merged())) == set(addresses(region))
    assert Region(3, 4, 5, 4, 6, 20).merged() == Region(3, 120)
    assert Region(3, 4, 5, 8, 6, 40).merged() == Region(3, 4, 30, 8)
    assert Region(3, 4, 5, 0, 6, 0).merged() == Region(3, 4)


def test_overlaps() -> None:
    found = regions(400)
    itself = [overlaps_itself(region) for region in found]
    assert itself == [max(Counter(addresses(region)).values()) > 1 for region in found]
    assert 50 < sum(itself) < 350
    pairs = list(zip(found, reversed(found), strict=True))
    shared = [overlap(a, b) for a, b in pairs]
    assert shared == [bool(set(addresses(a)) & set(addresses(b))) for a, b in pairs]
    assert 50 < sum(shared) < 350
