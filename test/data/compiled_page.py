"""What qvit-compile says of a small vision transformer: its program, its report and the page about both."""

from dataclasses import dataclass
from functools import cache

from data.quantized_page import rename_nodes
from data.small_vit import Variant, images, vit

from qvit.frontends.onnx import import_onnx
from qvit.tools.compile_report import CompileReport, SampleFacts, compile_report, float_bytes
from qvit.tools.compiler import Compiled, compile_model
from qvit.tools.page.compiled import compiled_page
from qvit.transforms.pipelines import SCHEMES


@dataclass(frozen=True)
class Example:
    """A compiled model and what is told of it."""

    compiled: Compiled
    report: CompileReport
    page: str


@cache
def compiled_example(rename: tuple[str, str] = ("", ""), scheme: str = "best") -> Example:
    """rename: a part of the names of all nodes and tensors, and what stands there instead."""
    model = vit(Variant())
    if rename[0]:
        rename_nodes(model, *rename)
    module, _ = import_onnx(model, dims={"batch": 2})
    floats, kind = float_bytes(module), SCHEMES[scheme]
    samples = [{"image": images(2, seed)} for seed in range(2)]
    compiled = compile_model(module, samples, kind)
    report = compile_report(
        compiled,
        kind,
        version="0",
        model="vit.onnx",
        sha256="0" * 64,
        settings={"seed": 0},
        samples=SampleFacts("4 of samples.npz, image", 4, 2),
        batch=samples[0],
        floats=floats,
    )
    return Example(compiled, report, compiled_page(compiled, report))
