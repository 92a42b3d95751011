"""What the published code of integer transformers computes, beside the exact value of the same formulas: data/golden.

`NAME.npz` has the arrays of all cases, `NAME.json` repository, commit, class, and the parameters of each. Of a case, x is
the operand and y_exact the exact result. y_peer is what the published program gave in float32, equal to it where `exact` is
set; both are left out where all are equal. Scales are hexadecimal floats.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data" / "golden"


@dataclass(frozen=True)
class Case:
    """One run: its name, parameters and arrays."""

    id: str
    params: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """An array; integers as int64."""
        array = self.arrays[name]
        return array.astype(np.int64) if array.dtype.kind in "iu" else array

    def scale(self, name: str = "S") -> Fraction:
        """A scale, exactly."""
        return Fraction(float.fromhex(self.params[name]))

    def check(self, found: NDArray[Any], exact: str = "y_exact", peer: str = "y_peer") -> None:
        """Equal to the exact result everywhere, and to the published program's where that is exact."""
        assert np.array_equal(found, self[exact])
        if peer in self.arrays:
            assert np.array_equal(found[self["exact"]], self[peer][self["exact"]])


def cases(name: str) -> list[Case]:
    """All cases of a file."""
    manifest = json.loads((DATA / f"{name}.json").read_text())
    with np.load(DATA / f"{name}.npz") as arrays:
        found: dict[str, dict[str, NDArray[Any]]] = {case["id"]: {} for case in manifest["cases"]}
        for key in arrays.files:
            case, array = key.split(".", 1)
            found[case][array] = arrays[key]
    return [Case(case["id"], case["params"], found[case["id"]]) for case in manifest["cases"]]
