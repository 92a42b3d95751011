"""The schemes are different programs."""

from itertools import combinations

from programs import programs


def test_schemes_are_pairwise_different_programs() -> None:
    found = programs()
    same = [(a, b) for a, b in combinations(found, 2) if found[a] == found[b]]
    assert not same
