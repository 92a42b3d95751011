"""A vision transformer of each scheme as a program, with inputs and what the interpreter makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from import_matrix import feeds, fixture_path, load, symbols
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.c import Sources, emit
from qvit.backends.interpreter import run
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.semantics.integers import Array
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES


@dataclass(frozen=True)
class Whole:
    """A compiled module, codes of a picture, and the integers that @main makes of them."""

    module: ModuleOp
    codes: Sequence[Array]
    expected: Sequence[Array]

    @cached_property
    def sources(self) -> Sources:
        return emit(self.module)


@cache
def transformer(scheme: str, published: bool = False, name: str = "vit_legacy17", batch: int = 1) -> Whole:
    """name: of the export. Of random weights some published forms hold for no layer: these are unchecked."""
    proto = load(fixture_path(name))
    rng = np.random.default_rng(0)
    sizes = {key: batch if key == "batch" else size for key, size in symbols(proto).items()}
    shapes = {key: array.shape for key, array in feeds(proto, sizes).items()}
    batches = [{key: rng.normal(0.3, 1, shape) for key, shape in shapes.items()} for _ in range(3)]
    module, _ = import_onnx(proto, (), sizes)
    compile_model(module, batches[:2], SCHEMES[scheme], published=published, unchecked=published)
    codes = list(run(module, batches[2], function=QUANTIZE_INPUTS).values())
    return Whole(module, codes, list(run(module, codes, integers_only=True).values()))
