"""What the tools see: names, and how to load what they stand for once it is needed."""

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe


def _npu() -> Dialect:
    from qvit_npu.dialect import Npu

    return Npu


def _map_to_npu() -> type[ModulePass]:
    from qvit_npu.map_to_npu import MapToNpuPass

    return MapToNpuPass


UNIVERSE = Universe(all_dialects={"npu": _npu}, all_passes={"map-to-npu": _map_to_npu})
