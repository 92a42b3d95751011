"""What plain `xdsl-opt` sees of the systolic backend: its entry point in the group `xdsl.universe`."""

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe


def _qisa() -> Dialect:
    from qvit.backends.systolic.dialect import Qisa

    return Qisa


def _lower_to_systolic() -> type[ModulePass]:
    from qvit.backends.systolic.lower_to_systolic import LowerToSystolicPass

    return LowerToSystolicPass


UNIVERSE = Universe(all_dialects={"qisa": _qisa}, all_passes={"lower-to-systolic": _lower_to_systolic})
"""Our dialect of machine programs and the pass that makes them, by name; imported once one is asked for."""
