"""The page about a compiled model says what the report says, of a program whose every operation is an integer one."""

import re
from collections.abc import Iterable

import numpy as np
import pytest
from data.compiled_page import Example, compiled_example
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import run, run_model
from qvit.dialects.functions import stages
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.types import integer_of
from qvit.dialects.weights import Weights
from qvit.tools.page.codes import codes_of, stated
from qvit.tools.page.facts import Form, module_facts
from qvit.tools.quantizers import places

HOSTILE = "<script>alert('x')</script>\"&amp;' onload=x href=https://x.invalid"


@pytest.fixture(scope="module")
def example() -> Example:
    return compiled_example()


def rows(text: str, title: str) -> list[str]:
    """The rows of the tables below a heading, as text."""
    part = re.split(r"<h2>", text.partition(f"<h2>{title}</h2>")[2])[0]
    return [re.sub(r"<[^>]+>", " ", row) for row in re.findall(r"<tr><td>(.*?)</tr>", part, re.DOTALL)]


def test_every_operation_is_an_integer_one(example: Example) -> None:
    facts = module_facts(example.compiled.module, "vit.onnx")
    kinds = {form: {op.kind for block in facts.blocks for op in block.flow if op.form is form} for form in Form}
    assert (kinds[Form.QUANTIZE], kinds[Form.DEQUANTIZE], kinds[Form.FLOAT]) == ({"quantize"}, {"dequantize"}, set())
    assert {"int_softmax", "int_function", "int_layer_norm", "add_requant", "requantize"} <= kinds[Form.INTEGER]
    assert facts.floats_left == {}
    assert facts.macs.share == 1


def test_approximations_and_forms_are_named(example: Example) -> None:
    how = {op.kind: op.how for op in module_facts(example.compiled.module, "vit.onnx").ops}
    assert how["int_layer_norm"].startswith("ln, guard = ")
    assert how["requantize"] in ("dyadic", "dyadic, over row sums")
    assert how["add_requant"] == "dyadic"
    assert how["linear"] == ""
    assert "ln, guard = " in example.page
    each = {op.how for op in module_facts(compiled_example(scheme="i-vit").compiled.module, "x").ops}
    assert "dyadic, each rounded" in each


def test_blocks_by_structure() -> None:
    """Integer softmax and normalisation mark the blocks where names do not."""
    module = compiled_example(("blocks.", "part")).compiled.module
    titles = [block.title for block in module_facts(module, "vit.onnx").blocks]
    assert titles == ["Embeddings", "Block 0", "Block 1", "Head"]


def told(example: Example) -> Iterable[tuple[SSAValue, QuantizeOp]]:
    for place in places(example.compiled.quantized, example.compiled.module):
        if place.codes is not None:
            yield place.codes, place.quantizer


def test_scales_are_those_of_the_quantizers(example: Example) -> None:
    """What follows from the quantizers fits what was told; and nearly all codes are known."""
    weights = Weights(example.compiled.quantized)
    known = codes_of(example.compiled.module, {value: stated(op.params, weights) for value, op in told(example)})
    for value, op in told(example):
        assert known[value].scale == weights.scale(op.params.scale)
        assert integer_of(value) == integer_of(op.result)
    for function in stages(example.compiled.module):
        for op in function.walk():
            if isinstance(op, DequantizeOp):  # of the results, told by none of the quantizers
                np.testing.assert_array_equal(known[op.input].scale, weights.scale(op.params.scale))
    made = [
        op for op in example.compiled.module.walk() if op.name in ("qvit.requantize", "qvit.add_requant", "qvit.linear")
    ]
    assert all(op.results[0] in known for op in made)


def test_scales_follow_from_stage_to_stage(example: Example) -> None:
    """Without being told anything: codes of the inputs are known in @main, and through residual additions."""
    known = codes_of(example.compiled.module)
    quantize, main, _ = stages(example.compiled.module)
    (image,) = main.args
    returned = quantize.body.block.last_op
    assert returned is not None
    assert known[image] == known[returned.operands[0]]


def test_every_quantizer_has_its_places(example: Example) -> None:
    """What is measured at them is near what was quantized: no two are mixed up."""
    compiled = example.compiled
    found = places(compiled.quantized, compiled.module, compiled.reference)
    assert all(place.codes is not None and place.reals is not None for place in found)
    assert compiled.reference is not None
    values: dict[Operation, np.ndarray] = {}
    inputs = {"image": np.random.default_rng(1).normal(0, 1, (2, 2, 4, 6)).astype(np.float32)}

    def keep(op: Operation, result: np.ndarray) -> None:
        values[op] = result

    run(compiled.reference, inputs, observe=keep)
    run_model(compiled.module, inputs, observe=keep)
    weights = Weights(compiled.quantized)
    for place in found:
        assert place.codes is not None
        assert place.reals is not None
        if not isinstance(place.reals.owner, Operation) or not isinstance(place.codes.owner, Operation):
            continue
        codes = stated(place.quantizer.params, weights)
        real = (values[place.codes.owner].astype(float) - codes.zero_point) * codes.scale
        assert np.corrcoef(real.ravel(), values[place.reals.owner].ravel())[0, 1] > 0.98


def test_tensors_are_listed_worst_first(example: Example) -> None:
    found = rows(example.page, "Tensors against float")
    assert len(found) == len(example.report.tensors)
    numbers = [float(match[1]) for row in found if (match := re.search(r"([0-9.]+) dB", row))]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(example.report.worst)
    for line, row in zip(example.report.worst, found, strict=False):
        assert f"{'i' if line.signed else 'ui'}{line.bits}" in row
        assert line.src in row


def test_weights_are_listed_worst_first(example: Example) -> None:
    found = rows(example.page, "Weights")
    numbers = [float(match[1]) for row in found if (match := re.search(r"([0-9.]+) dB", row))]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(example.report.weights)


def test_tiles_and_approximations(example: Example) -> None:
    assert f"{example.report.outputs['logits']:.1f} dB" in example.page
    assert "Scheme best" in example.page
    for name in set(example.report.approximations.values()):
        count = list(example.report.approximations.values()).count(name)
        assert f"{count} × {name}" in example.page


def test_candidates_have_their_scores() -> None:
    example = compiled_example(scheme="iptq-vit")
    assert example.report.candidates
    for choice in example.report.candidates:
        assert example.report.approximations[choice.src] == choice.chosen
        assert len(choice.scores) > 1
        scores = ", ".join(f"{name} {score:.1f} dB" for name, score in choice.scores.items())
        assert f'{choice.src}</span> <span class="why">{scores}</span>' in example.page


def test_equal_facts_equal_pages(example: Example) -> None:
    compiled_example.cache_clear()
    assert compiled_example().page == example.page


def test_names_are_only_text() -> None:
    text = compiled_example(("attn", HOSTILE)).page
    assert HOSTILE not in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
