"""The rows of docs/import.md, and what a model must pass to be one: how it is read, against onnxruntime."""

import gzip
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from data.onnx_build import opcounts, run_ort
from model_trace import trace
from node_by_node import all_tensors, assert_node_by_node, dynamic_ranges
from onnx import helper

from qvit.backends.interpreter import run
from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx
from qvit.transforms.delay_dequant import Report, delay_dequant

EXPORTS = Path(__file__).parent / "data/exports"
MATRIX = Path(__file__).parents[1] / "docs/import.md"
RECOGNISED = ("layer_norm", "gelu", "softmax", "linear", "matmul", "conv2d")


def rows() -> dict[str, list[str]]:
    """The cells behind each fixture's name in the tables."""
    found: dict[str, list[str]] = {}
    for line in MATRIX.read_text().splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"`[a-z0-9_]+`", name):
            assert name not in found
            found[name.strip("`")] = cells
    return found


ROWS = rows()


def fixture_path(name: str) -> Path:
    return next(p for p in (EXPORTS / f"{name}.onnx", EXPORTS / f"{name}.onnx.gz") if p.exists())


def load(path: Path) -> onnx.ModelProto:
    """A fixture; gzip only where the file ends in .gz. External data is loaded from beside it."""
    if path.suffix == ".gz":
        return onnx.load_from_string(gzip.decompress(path.read_bytes()))
    return onnx.load(path)


def symbols(proto: onnx.ModelProto) -> dict[str, int]:
    """A size for every dynamic dimension: a batch of 2, pictures of 12 by 8."""
    dims = [d.dim_param for i in proto.graph.input for d in i.type.tensor_type.shape.dim if d.dim_param]
    return {name: {"height": 12, "width": 8}.get(name, 2) for name in dims}


def feeds(proto: onnx.ModelProto, dims: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random pictures, tokens and masks for the inputs."""
    rng, stored = np.random.default_rng(5), {t.name for t in proto.graph.initializer}
    arrays: dict[str, np.ndarray] = {}
    for value in proto.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        shape = [dims.get(d.dim_param, d.dim_value) for d in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            arrays[value.name] = rng.normal(0.3, 1, shape).astype(dtype)
        elif "mask" in value.name:
            arrays[value.name] = np.ones(shape, dtype)
            arrays[value.name][..., -2:] = 0
        else:
            arrays[value.name] = rng.integers(0, 2 if "type" in value.name else 10, shape).astype(dtype)
    return arrays


def stays_float(report: Report) -> str:
    """The blocked list by operation, operand and cause: `1 concat (not quantized), 2 matmul lhs (softmax)`."""
    causes = Counter[str]()
    for remark in report.blocked:
        operation, reason = remark.rule.removesuffix("-of-dequantize"), remark.reason
        if made := re.match(r"operand not quantized: (\w+) is (?:made by qvit\.(\w+)|an (argument))", reason):
            causes[f"{operation} {made[1]} ({made[2] or made[3]})"] += 1
        elif along := re.match(r"scale along the contracted axis: (\w+)'s", reason):
            causes[f"{operation} {along[1]} (scale along the contracted axis)"] += 1
        elif reason.startswith("the accumulator could overflow"):
            causes[f"{operation} (i32 could overflow)"] += 1
        elif reason.endswith("is not quantized"):
            causes[f"{operation} (an operand is not quantized)"] += 1
        else:
            causes[f"{operation} ({reason})"] += 1
    return ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "nothing"


def check(proto: onnx.ModelProto, outside: Mapping[str, np.ndarray] | None = None) -> list[str]:
    """Read a model and compare it node by node and end to end; returns the cells of its row.

    outside: feeds and tensors from elsewhere where onnxruntime does not know the operators.
    """
    dims = symbols(proto)
    inputs = feeds(proto, dims)
    if outside is not None:
        inputs = {name: outside[name] for name in inputs}
    reference = all_tensors(proto, inputs) if outside is None else outside
    ranges = dynamic_ranges(proto, reference, inputs)
    module, remarks = import_onnx(proto, (), dims, ranges)
    assert_node_by_node(proto, inputs, reference, dims, ranges)
    counts = opcounts(module)
    declined = Counter(remark.rule for remark in remarks)
    read = ", ".join(f"{counts[name]} {name}" for name in RECOGNISED if name in counts)
    if declined:
        read += "; remarks: " + ", ".join(f"{count} {rule}" for rule, count in declined.items())
    if "dequantize" not in counts:
        expected = run_ort(proto, inputs) if outside is None else {o.name: outside[o.name] for o in proto.graph.output}
        for name, found in run(module, inputs).items():
            largest = np.abs(expected[name]).max()
            np.testing.assert_allclose(found / largest, expected[name] / largest, rtol=0, atol=1e-5)
        return [read]
    _, codes = trace(module, inputs)
    report = delay_dequant(module)
    module.verify()
    _, moved = trace(module, inputs)
    for name, array in codes.items():
        np.testing.assert_array_equal(array, moved[name], name)
    assert {rule["exactness"] for rule in report.rules.values()} <= {"bit-exact", "real-exact"}
    return [read, f"{report.macs_integer.after / report.macs_total:.1%}", stays_float(report)]


def refusal(proto: onnx.ModelProto) -> str:
    with pytest.raises(ImportRefused) as refused:
        import_onnx(proto, (), symbols(proto))
    assert "\n" not in str(refused.value)
    return str(refused.value)
