"""Write docs/ir.md from the docstrings of the operations and attributes: `python docs/generate_ir.py`."""

import inspect
from pathlib import Path

from qvit.dialects.qvit import Qvit
from qvit.dialects.semantics.integers import Rounding

THEMES = {
    "qvit.dialects.ops.quantization": "Between real numbers and codes",
    "qvit.dialects.ops.products": "Products",
    "qvit.dialects.ops.elementwise": "Elementwise",
    "qvit.dialects.ops.nonlinear": "Float functions",
    "qvit.dialects.ops.approximated": "Integer functions",
    "qvit.dialects.ops.shape": "Moving elements",
    "qvit.dialects.ops.weights": "Weights and constants",
}

HEAD = """\
# The qvit dialect

Made from the docstrings by `python docs/generate_ir.py`; the examples are round-tripped by the tests.

Tensors are builtin, with static shapes, of f32 or f64, of `iN` (two's complement) or `uiN` (unsigned). An operation that
takes floats or integers never takes a mix. Integer results are exact: one that does not fit its type is an error, except
where saturation is part of the formula. round() is the operation's rounding, half_even unless written:

"""


def render() -> str:
    parts = [HEAD]
    source = inspect.getsource(Rounding)
    documents = {r: source.split(f'= "{r.value}"\n')[1].split('"""')[1] for r in Rounding}
    parts += [f"- `{rounding.value}`: {text}\n" for rounding, text in documents.items()]
    for module, title in THEMES.items():
        parts.append(f"\n## {title}\n")
        for op in Qvit.operations:
            if op.__module__ == module:
                parts.append(f"\n### {op.name}\n\n{inspect.getdoc(op)}\n")
    parts.append("\n## Attributes\n")
    for attribute in Qvit.attributes:
        parts.append(f"\n### #{attribute.name}\n\n{inspect.getdoc(attribute)}\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("ir.md").write_text(render())
