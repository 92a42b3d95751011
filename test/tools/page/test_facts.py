"""The facts on a page are those of the module and of the reports."""

from collections import Counter

import ir_text
import pytest
from data.quantized_page import Example, example

from qvit.dialects.provenance import sources
from qvit.tools.page.facts import NO_INTEGER_FORM, REAL_FACTOR, CodeFacts, Form, OpFacts, module_facts
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.statistics import macs, macs_integer, macs_total
from qvit.transforms.verify_integer_only import floats_left


@pytest.fixture(scope="module")
def vit() -> Example:
    return example()


def only(vit: Example, kind: str, src: str) -> OpFacts:
    (found,) = [op for op in vit.facts.ops if op.kind == kind and op.src and op.src[-1] == src]
    return found


def test_every_operation_is_listed_once_in_order(vit: Example) -> None:
    listed = sorted(vit.facts.ops, key=lambda op: op.number)
    assert [op.number for op in listed] == list(range(1, len(listed) + 1))
    inside = [op for op in vit.module.walk() if op.name.startswith("qvit.")]
    assert [(f"qvit.{op.kind}", op.src, op.macs) for op in listed] == [(o.name, sources(o), macs(o)) for o in inside]
    for block in vit.facts.blocks:
        numbers = [op.number for op in block.ops]
        assert numbers == sorted(numbers)
    assert [block.title for block in vit.facts.blocks] == ["Embeddings", "Block 0", "Block 1", "Head"]


def test_shares_are_those_of_the_statistics(vit: Example) -> None:
    facts = vit.facts
    assert (facts.macs.total, facts.macs.integer) == (macs_total(vit.module), macs_integer(vit.module))
    assert 0 < facts.macs.share < 1
    assert sum(m.total for m in facts.macs_by_kind.values()) == facts.macs.total
    assert sum(m.integer for m in facts.macs_by_kind.values()) == facts.macs.integer
    products = {"linear": "linear", "conv2d": "convolution", "matmul": "attention"}
    by_kind = Counter[str]()
    for op in facts.ops:
        if op.macs:
            by_kind[products[op.kind]] += op.macs
    assert {kind: m.total for kind, m in facts.macs_by_kind.items()} == by_kind
    attention = facts.macs_by_kind["attention"]
    assert attention.total - attention.integer == only(vit, "matmul", "/blocks.1/attn/pv/MatMul").macs
    assert facts.macs_by_kind["linear"].share == facts.macs_by_kind["convolution"].share == 1


def test_floats_are_those_of_the_check(vit: Example) -> None:
    assert sum(vit.facts.floats_left.values()) == len(floats_left(vit.module))


def test_remarks_are_those_of_the_reports(vit: Example) -> None:
    for groups, remarks in ((vit.facts.blocked, vit.report.blocked), (vit.facts.notes, vit.report.notes)):
        assert Counter(r for group in groups for r in group.remarks) == Counter(remarks)
    assert len(vit.report.blocked) > 1
    counts = [len(group.remarks) for group in vit.facts.declined]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == 5 + 2  # two LayerNorms a block and the last one, a GELU a block
    assert [(g.rule, "…" in g.reason) for g in vit.facts.declined] == [("layer_norm", True), ("gelu", True)]


def test_forms(vit: Example) -> None:
    forms = {(op.kind, op.form) for op in vit.facts.ops if not op.constant}
    assert {("quantize", Form.QUANTIZE), ("dequantize", Form.DEQUANTIZE), ("requantize", Form.INTEGER)} <= forms
    assert {
        ("softmax", Form.FLOAT),
        ("linear", Form.INTEGER),
        ("matmul", Form.INTEGER),
        ("matmul", Form.FLOAT),
    } <= forms
    for op in vit.facts.ops:
        floats = [t for t in (*op.operands, op.result.rpartition(" ")[2]) if t.startswith("f")]
        assert (op.form is Form.INTEGER) == (not floats)


def test_constants_do_not_depend_on_the_input(vit: Example) -> None:
    assert only(vit, "dequantize", "/blocks.0/norm1/eps_DequantizeLinear").constant
    assert not only(vit, "quantize", "image_QuantizeLinear").constant
    assert all(op.constant for op in vit.facts.ops if op.kind == "constant")


def test_every_float_says_why(vit: Example) -> None:
    for op in vit.facts.ops:
        if op.form is Form.FLOAT and not op.constant:
            assert op.why, op
    product = only(vit, "matmul", "/blocks.1/attn/pv/MatMul")
    (blocked,) = [r for r in vit.report.blocked if r.src == "/blocks.1/attn/pv/MatMul"]
    assert product.why == (f"{blocked.rule}: {blocked.reason}",)
    assert only(vit, "softmax", "/blocks.0/attn/Softmax").why == (NO_INTEGER_FORM,)
    (declined,) = only(vit, "div", "/blocks.0/norm1/Div").why
    assert declined.startswith("layer_norm: the variance plus epsilon is quantized")
    bias = only(vit, "add", "/patch/Conv").why
    assert bias == (f"bias: {next(n.reason for n in vit.report.notes if n.src == '/patch/Conv')}",)
    assert {op.why for op in vit.facts.ops if op.kind == "requantize"} == {(REAL_FACTOR,)}


def test_reasons_of_what_follows_its_operands() -> None:
    text = """func.func @main(%x: tensor<2x3xf32>) -> tensor<3x2xf32> {
      %y = qvit.sqrt %x {qvit.src = ["root"]} : tensor<2x3xf32>
      %z = qvit.transpose %y [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>
      func.return %z : tensor<3x2xf32>
    }"""
    facts = module_facts(ir_text.parse(text), "a.mlir")
    assert [op.why for op in facts.ops] == [(NO_INTEGER_FORM,), ("operand root is float",)]
    assert (facts.report, facts.blocked, facts.macs.share) == (None, (), 0)


def test_codes() -> None:
    text = """func.func @main(%x: tensor<2x3xf32>) -> tensor<2x2xf32> {
      %q = qvit.quantize %x <0.5, zero_point = 3> : tensor<2x3xf32> -> tensor<2x3xui8>
      %p = qvit.dequantize %q <0.5, zero_point = 3> : tensor<2x3xui8> -> tensor<2x3xf32>
      %w = qvit.constant dense<1> : tensor<2x3xi8>
      %v = qvit.dequantize %w <[0.25, 4.0], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
      %y = qvit.linear %p, %v : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x2xf32>
      func.return %y : tensor<2x2xf32>
    }"""
    module = ir_text.parse(text)
    delay_dequant(module)
    found = {op.kind: op.codes for op in module_facts(module, "a.mlir").ops}
    sums = CodeFacts((0.125, 2.0), (0, 0), (-(2.0**32), (2**31 - 1) * 2.0), 2)
    assert found == {
        "quantize": CodeFacts((0.5, 0.5), (3, 3), (-1.5, 126.0), None),
        "constant": CodeFacts((0.25, 4.0), (0, 0), (-512.0, 508.0), 2),
        "linear": sums,
        "dequantize": sums,
    }


def test_an_integer_module_is_free_of_floats() -> None:
    text = """func.func @main(%a: tensor<2x2xi8>) -> tensor<2x2xi32> {
      %y = qvit.matmul %a, %a : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi32>
      func.return %y : tensor<2x2xi32>
    }"""
    facts = module_facts(ir_text.parse(text), "a.mlir")
    assert (facts.floats_left, facts.macs.share, [op.why for op in facts.ops]) == ({}, 1, [()])


def test_real_factors_of_integer_operations() -> None:
    text = """func.func @main(%x: tensor<2xi8>) -> tensor<2xi8> {
      %y = qvit.add_requant %x by #qvit.pot<1>, %x by #qvit.real<0.3> : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
      %z = qvit.add_requant %y by #qvit.pot<1>, %y by #qvit.dyadic<3, 2> : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
      func.return %z : tensor<2xi8>
    }"""
    facts = module_facts(ir_text.parse(text), "a.mlir")
    assert [op.why for op in facts.ops] == [(REAL_FACTOR,), ()]
