"""Quantization-aware training: what is trained is, bit for bit, what is deployed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from qvit.dialects.semantics.integers import Array
from qvit.transforms.pipelines import Scheme, run_scheme
from qvit.transforms.ptq.approximate import choose_approximations

if TYPE_CHECKING:
    from qvit.tools.qat.model import QuantizedModel


def prepare_module(
    module: ModuleOp, samples: Sequence[Mapping[str, Array]], scheme: Scheme, *, learn: bool = True
) -> "QuantizedModel":
    """A float module as a model that trains; see `prepare_qat`. samples: inputs by name, one batch each."""
    from qvit.tools.compiler import quantize
    from qvit.tools.qat.model import QuantizedModel
    from qvit.tools.qat.template import make_template

    scheme = replace(scheme, lower=replace(scheme.lower, nearest=scheme.lower.form == "dyadic"))
    made = quantize(module, samples, scheme.quantization)
    assert made.reference is not None
    choices = choose_approximations(module, made.rows.get, scheme.candidates) if scheme.candidates else []
    layers = {choice.src: (choice.chosen,) for choice in choices}
    return QuantizedModel(make_template(module, made.reference), scheme, layers, learn)


def convert(model: "QuantizedModel") -> ModuleOp:
    """The integer-only module of a trained model, through all passes of its scheme, range analysis and proof included."""
    model.write()
    module = model.template.module.clone()
    run_scheme(module, model.scheme, layers=model.layers)
    return module
