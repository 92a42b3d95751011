"""Golden vectors: what published programs compute, and what their formulas give exactly, in data/golden.

NAME.json has the parameters of each case (integers as numbers, scales as hexadecimal floats), NAME.npz its arrays. `*_exact`
is the exact evaluation, `*_peer` what the published program gave, `exact` where both agree.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(__file__).parent / "data/golden"


@dataclass(frozen=True)
class Case:
    """One case: its parameters, and its arrays by name."""

    id: str
    params: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    def integers(self, name: str) -> NDArray[np.int64]:
        return self.arrays[name].astype(np.int64)

    def scale(self, name: str) -> Fraction:
        """A scale among the parameters, exactly."""
        return Fraction(float.fromhex(self.params[name]))


def cases(name: str) -> Iterator[Case]:
    manifest = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        for case in manifest["cases"]:
            prefix = case["id"] + "."
            own = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
            yield Case(case["id"], case["params"], own)
