"""What plain `xdsl-opt` sees of the systolic backend: its entry point in the group `xdsl.universe`."""

from xdsl.ir import Dialect
from xdsl.universe import Universe


def _qisa() -> Dialect:
    from qvit.backends.systolic.dialect import Qisa

    return Qisa


UNIVERSE = Universe(all_dialects={"qisa": _qisa})
"""Our dialect of machine programs, by name; imported once one is met."""
