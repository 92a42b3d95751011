"""--lower-to-systolic: from an integer-only module to a program of a machine."""

from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qvit.backends.interpreter import find_function
from qvit.backends.systolic.dialect import module_of
from qvit.backends.systolic.isa import Dataflow
from qvit.backends.systolic.lowering.build import Options
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.dialects.functions import MAIN

DATAFLOWS = {"weight-stationary": Dataflow.WEIGHT_STATIONARY, "output-stationary": Dataflow.OUTPUT_STATIONARY}


@dataclass(frozen=True)
class LowerToSystolicPass(ModulePass):
    """Lower @main to a program of a systolic machine: tiles, addresses, an order for each unit, and tokens between them.

    Legal on a module of integers alone. machine: the name of one that comes with qvit, or a TOML file. dataflow:
    weight-stationary or output-stationary. What is on by itself can be switched off, to see what it is worth:
    row-pipelining (vectors work on finished rows while the array goes on), streaming (an operation begins before the one
    before has ended), double-buffering (what comes next is loaded while the array works).

    @main becomes a `qisa.program`; its results are the same integers. What the machine cannot run exactly, and a program
    that does not fit, are errors that name the operation and the reason.
    """

    name: ClassVar[str] = "lower-to-systolic"

    machine: str = "small"
    dataflow: str = "weight-stationary"
    row_pipelining: bool = True
    streaming: bool = True
    double_buffering: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.dataflow not in DATAFLOWS:
            raise ValueError(f"lower-to-systolic: unknown dataflow {self.dataflow!r}; known are {', '.join(DATAFLOWS)}")
        options = Options(DATAFLOWS[self.dataflow], self.row_pipelining, self.streaming, self.double_buffering)
        lowered = module_of(lower(op, load_machine(self.machine), options), MAIN)
        main = find_function(op, MAIN)
        for new in list(lowered.body.block.ops):
            new.detach()
            op.body.block.insert_op_before(new, main)
        main.detach()
        main.erase()
