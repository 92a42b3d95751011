"""Quantization-aware training: what is trained is, bit for bit, what is deployed.

    model = prepare_qat(vit, [batch, ...], "best", weights=4, activations=4)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-4))
    ...                                                             # any training loop
    module = convert(model)                                         # integers alone, for all backends

Each forward pass compiles the weights and scales of the moment with the scheme's own passes and runs the integers that come
out, so the loss is that of the deployed program, accumulators of 32 bits and approximations included; torch computes the
gradients, of the float model through straight-through quantizers (Learned Step Size Quantization, arXiv 1902.08153).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ModuleOp

from qvit.dialects.semantics.integers import Array
from qvit.transforms.pipelines import SCHEMES, Scheme, at_bits, run_scheme
from qvit.transforms.ptq.approximate import choose_approximations
from qvit.transforms.ptq.observers import Observer
from qvit.transforms.ptq.sites import Role
from qvit.transforms.ptq.weights import Fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qvit.tools.qat.model import QuantizedModel

__all__ = ["convert", "prepare_module", "prepare_qat"]


def prepare_qat(
    model: "nn.Module",
    samples: "Sequence[Tensor | tuple[Tensor, ...]]",
    scheme: str | Scheme = "best",
    *,
    weights: int = 8,
    activations: int = 8,
    per_head: bool = False,
    learn: bool | None = None,
    learn_widths: bool = False,
) -> "QuantizedModel":
    """A torch model as one that trains on integers.

    model: in evaluation mode, as torch.export.export takes it; it is not changed. samples: batches of its inputs, all of
    one shape, which becomes the compiled one; from them come the first scales, and the zero points, which stay. scheme: a
    name of `qvit.transforms.pipelines.SCHEMES`, or a scheme. weights, activations: bits, 2 to 8, of the weights and of
    what products take; the first and last layers keep 8. per_head: queries and keys have a scale for each head (Q-ViT,
    arXiv 2201.07703), and values too in lin-shah; without it each tensor has one, as Lin and Shah need it. learn: whether
    scales are trained (LSQ); by default everywhere but in i-vit and i-bert, whose scales follow moving averages of
    ranges. learn_widths: each head of queries, keys (and values) learns how many bits it has, 2 to `activations`, and the rows
    of the weights that make it, 2 to `weights`, with scales for each width (Q-ViT); per_head is implied. Without a price they
    have no reason to become fewer: add `QuantizedModel.bit_operations` to the loss.

    ImportRefused for a model that cannot be read, ValueError for a scheme or width that is unknown, or where no width can be
    learned, DiagnosticException where something would stay in float.
    """
    import torch

    from qvit.backends.interpreter import find_function, input_names
    from qvit.frontends.torch import from_exported

    if isinstance(scheme, str):
        if scheme not in SCHEMES:
            raise ValueError(f"the scheme is one of {', '.join(SCHEMES)}; found {scheme!r}")
        scheme = SCHEMES[scheme]
    for name, bits in (("weights", weights), ("activations", activations)):
        if not 2 <= bits <= 8:
            raise ValueError(f"{name} have 2 to 8 bits, found {bits}")
    if not samples:
        raise ValueError("samples are needed: batches of inputs, from which the first scales come")
    batches = [sample if isinstance(sample, tuple) else (sample,) for sample in samples]
    module, _ = from_exported(torch.export.export(model.eval(), batches[0]))
    names = input_names(find_function(module))
    arrays = [{name: x.detach().cpu().numpy() for name, x in zip(names, batch, strict=True)} for batch in batches]
    if learn is None:
        learn = scheme.name not in ("i-vit", "i-bert")
    scheme = at_bits(scheme, weights, activations)
    if per_head:
        scheme = _with_heads(scheme)
    return prepare_module(module, arrays, scheme, learn=learn, learn_widths=learn_widths)


def _with_heads(scheme: Scheme) -> Scheme:
    """A scale for each head; scores of several scales need codes before a softmax takes them."""
    return replace(scheme, quantization=replace(scheme.quantization, per_head=True, raw_scores=False))


def prepare_module(
    module: ModuleOp,
    samples: Sequence[Mapping[str, Array]],
    scheme: Scheme,
    *,
    learn: bool = True,
    learn_widths: bool = False,
) -> "QuantizedModel":
    """A float module, which is changed in place, as a model that trains; samples: inputs by name. Else as `prepare_qat`."""
    from qvit.tools.compiler import quantize
    from qvit.tools.qat.model import QuantizedModel
    from qvit.tools.qat.template import Template, make_template
    from qvit.tools.qat.widths import give_widths

    if learn_widths and not learn:
        raise ValueError(
            "widths are learned with the scales: learn=False leaves nothing that follows them; pass learn=True"
            " (i-vit and i-bert do not learn scales by themselves)"
        )
    plain = module.clone() if learn_widths else module
    scheme = _with_heads(scheme) if learn_widths else scheme
    scheme = replace(scheme, lower=replace(scheme.lower, nearest=scheme.lower.form == "dyadic"))
    made = quantize(module, samples, scheme.quantization)
    assert made.reference is not None
    choices = choose_approximations(module, made.rows.get, scheme.candidates) if scheme.candidates else []
    given = {quantizer.scale for quantizer in scheme.quantization.roles.values() if quantizer.scale}
    layers = {choice.src: (choice.chosen,) for choice in choices}
    template = make_template(module, made.reference, given)
    if learn_widths:

        def narrower(bits: int) -> Template:
            own = scheme.quantization
            roles = {**own.roles, Role.ATTENTION: replace(own.roles[Role.ATTENTION], bits=bits, observer=Observer.MSE)}
            weights = replace(own.weights, bits=bits, fit=Fit.MSE)
            copy = plain.clone()
            made = quantize(copy, samples, replace(own, roles=roles, weights=weights, mixed=None))
            assert made.reference is not None
            return make_template(copy, made.reference, given)

        give_widths(template, narrower)
    return QuantizedModel(template, scheme, layers, learn)


def convert(model: "QuantizedModel") -> ModuleOp:
    """The integer-only module of a trained model, by all passes of its scheme, range analysis and proof included."""
    model.write()
    module = model.template.module.clone()
    run_scheme(module, model.scheme, layers=model.layers)
    return module
