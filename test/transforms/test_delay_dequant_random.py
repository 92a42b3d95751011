"""--delay-dequant on random graphs: the same codes, the same rational numbers, a fixed point, and a report that is true."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import Array, Graph, graphs, rational_run
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import run, trace_names
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.provenance import sources
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.statistics import is_integer_product, macs


def traced(module: ModuleOp, inputs: list[Array]) -> tuple[list[Array], dict[str, Array]]:
    """The results, and every integer tensor by its name."""
    names, trace = trace_names(module), dict[str, Array]()

    def keep(op: Operation, result: Array) -> None:
        for name in names.get(op, ()):
            assert name not in trace, f"two tensors are called {name}"
            trace[name] = result

    return list(run(module, inputs, observe=keep).values()), trace


def is_integer(array: Array) -> bool:
    return array.dtype.kind in "iu"


@settings(max_examples=200)
@given(graphs(), st.sampled_from([32, 64]))
def test_the_values_stay(graph: Graph, accumulator: int) -> None:
    after = graph.module.clone()
    delay_dequant(after, accumulator_bits=accumulator)
    after.verify()
    (results, trace), (results_after, trace_after) = (traced(m, graph.inputs) for m in (graph.module, after))
    for a, b in zip(results, results_after, strict=True):
        assert is_integer(a) == is_integer(b)
        assert not is_integer(a) or (a.dtype == b.dtype and np.array_equal(a, b))
    for name in trace.keys() & trace_after.keys():
        assert np.array_equal(trace[name], trace_after[name]), name
    exact, exact_after = (rational_run(str(m), graph.inputs) for m in (graph.module, after))
    for a, b, code in zip(exact, exact_after, results, strict=True):
        assert np.array_equal(a, b)
        assert not is_integer(code) or np.array_equal(a, code)


@settings(max_examples=100)
@given(graphs(), st.sampled_from([32, 64]), st.booleans())
def test_the_pass_is_done_after_one_run(graph: Graph, accumulator: int, allow_bounded: bool) -> None:
    module = graph.module
    names = {name for op in module.walk() for name in sources(op)}
    delay_dequant(module, allow_bounded=allow_bounded, accumulator_bits=accumulator)
    module.verify()
    assert {name for op in module.walk() for name in sources(op)} <= names
    # Nothing outside of the module counts as a user of its values: it would keep dead operations alive.
    inside = set(module.walk())
    assert all(use.operation in inside for op in inside for value in op.results for use in value.uses)
    text = str(module)
    again = delay_dequant(module, allow_bounded=allow_bounded, accumulator_bits=accumulator)
    assert str(module) == text
    assert again.rules == {}
    assert again.moved == []
    assert again.macs_integer.before == again.macs_integer.after
    run(module, graph.inputs)  # no accumulator overflows


@settings(max_examples=100)
@given(graphs(), st.booleans())
def test_the_report_is_true(graph: Graph, allow_bounded: bool) -> None:
    module = graph.module
    report = delay_dequant(module, allow_bounded=allow_bounded)
    products = [op for op in module.walk() if is_integer_product(op)]
    assert Counter(m["src"] for m in report.moved) == Counter(sources(op)[-1] for op in products)
    assert sum(m["macs"] for m in report.moved) == sum(map(macs, products)) == report.macs_integer.after
    assert report.qdq_ops.after == sum(isinstance(op, QuantizeOp | DequantizeOp) for op in module.walk())
    by_rule = {name: rule["count"] for name, rule in report.rules.items()}
    assert len(products) <= sum(
        n for name, n in by_rule.items() if name.split("-")[0] in ("matmul", "linear", "conv2d")
    )
    assert ("round-bias" in by_rule) <= allow_bounded
    assert ("round-bias" in by_rule) == any(rule["exactness"] == "bounded" for rule in report.rules.values())
    # Every product that stays in float is blocked, and says why.
    floats = Counter(sources(op)[-1] for op in module.walk() if macs(op) and not is_integer_product(op))
    blocked = {b.src for b in report.blocked if b.rule.split("-")[0] in ("matmul", "linear", "conv2d")}
    assert set(floats) == blocked
