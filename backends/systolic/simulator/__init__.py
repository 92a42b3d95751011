"""The simulator: values, bit by bit, from memories and words alone; cycles, events and traps."""

from qvit.backends.systolic.simulator.run import Result, simulate
from qvit.backends.systolic.simulator.trap import Trap

__all__ = ["Result", "Trap", "simulate"]
