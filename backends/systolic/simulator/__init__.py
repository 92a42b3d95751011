"""The simulator: values, bit by bit, from memories and words alone; cycles, events and traps."""

from qvit.backends.systolic.simulator.events import Events
from qvit.backends.systolic.simulator.result import NodeUse, Result
from qvit.backends.systolic.simulator.run import simulate, timeline
from qvit.backends.systolic.simulator.trap import Trap

__all__ = ["Events", "NodeUse", "Result", "Trap", "simulate", "timeline"]
