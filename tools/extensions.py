"""Extensions: dialects, passes and targets of other installed projects, found by the entry points that xDSL reads too.

`installed` reads names from the metadata of packages and imports no extension; `extensions` imports them, so it costs
those who have one.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from qvit.tools.registry import PASSES

if TYPE_CHECKING:
    from xdsl.universe import Universe

GROUP = "xdsl.universe"
_OURS = (
    "xdsl.universe:XDSL_UNIVERSE",
    "qvit.transforms.universe:UNIVERSE",
    "qvit.backends.systolic.universe:UNIVERSE",
)


def installed() -> list[EntryPoint]:
    """The extensions by name."""
    return sorted(entry for entry in entry_points(group=GROUP) if entry.value not in _OURS)


@cache
def extensions() -> "Universe":
    """All that extensions bring. One that cannot be loaded, or brings a name that is taken, is left out, with a note."""
    from xdsl.universe import Universe

    found = Universe()
    for entry in installed():
        try:
            _add(found, _load(entry))
        except Exception as error:  # an extension may raise anything, and is no reason to stop
            print(f"note: the extension {entry.name} is left out: {error}", file=sys.stderr)
    return found


def _load(entry: EntryPoint) -> "Universe":
    from xdsl.universe import Universe

    universe = entry.load()
    if not isinstance(universe, Universe):
        raise TypeError(f"{entry.value} is no xdsl.universe.Universe")
    return universe


def _add(found: "Universe", new: "Universe") -> None:
    from xdsl.dialects import get_all_dialects

    dialects = {"qvit", "qisa", *get_all_dialects(), *found.all_dialects}
    _require_free("dialect", dialects, new.all_dialects)
    _require_free("pass", {*PASSES, *found.all_passes}, new.all_passes)
    _require_free("target", {"mlir", *found.all_targets}, new.all_targets)
    found.all_dialects |= new.all_dialects
    found.all_passes |= new.all_passes
    found.all_targets |= new.all_targets


def _require_free(what: str, taken: set[str], new: Mapping[str, object]) -> None:
    if clash := sorted(taken & new.keys()):
        raise ValueError(f"the {what} {clash[0]} is there already")
