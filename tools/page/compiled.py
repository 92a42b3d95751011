"""The page about a compiled model: its integer program, and what qvit-compile found on the way."""

from collections.abc import Sequence

from xdsl.ir import SSAValue

from qvit.dialects.provenance import Remark
from qvit.dialects.weights import Weights
from qvit.tools.compile_report import CompileReport
from qvit.tools.compiler import Compiled
from qvit.tools.page.codes import Codes, stated
from qvit.tools.page.facts import module_facts
from qvit.tools.page.render import page
from qvit.tools.quantizers import places


def compiled_page(compiled: Compiled, report: CompileReport, declined: Sequence[Remark] = ()) -> str:
    """The whole document. declined: what recognisers left in plain operations."""
    weights = Weights(compiled.quantized)
    told: dict[SSAValue, Codes] = {
        place.codes: stated(place.quantizer.params, weights)
        for place in places(compiled.quantized, compiled.module)
        if place.codes is not None
    }
    facts = module_facts(compiled.module, report.model, report.passes, None, declined, told)
    return page(facts, report)
