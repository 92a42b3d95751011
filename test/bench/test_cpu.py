"""What the benchmark of processors is made of: its models, engines, programs, and the figures that it prints."""

import json
import math
import os
from pathlib import Path

import cpu
import engines
import models
import numpy as np
import onnx
import onnxruntime
import pytest
import standalone
import vit
from engines import Engine
from onnx import numpy_helper
from vit import Vit
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.weights import Weights

TINY = Vit(32, 2, depth=2, image=32, classes=5)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(cache: Path) -> Path:
    return cpu.source("tiny", TINY, cache)


@pytest.fixture(scope="module")
def module(source: Path) -> ModuleOp:
    return engines.integer_module(source, "best")


# --- the models ------------------------------------------------------------------------------------------------------


def erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf)(x)


def reference(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """The transformer in float64, from its weights."""
    w = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}

    def normalize(x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    side, patch, dim, heads = TINY.image // TINY.patch, TINY.patch, TINY.dim, TINY.heads
    patches = image.reshape(3, side, patch, side, patch).transpose(1, 3, 0, 2, 4).reshape(side * side, -1)
    x = patches @ w["patch_embed.proj.weight"].reshape(dim, -1).T + w["patch_embed.proj.bias"]
    x = np.concatenate([w["cls_token"][0], x]) + w["pos_embed"][0]
    for i in range(TINY.depth):
        block = f"blocks.{i}"
        joint = linear(normalize(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = (part.reshape(TINY.tokens, heads, -1).swapaxes(0, 1) for part in np.split(joint, 3, axis=-1))
        scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(dim // heads))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
        x = x + linear(mixed.swapaxes(0, 1).reshape(TINY.tokens, dim), f"{block}.attn.proj")
        inner = linear(normalize(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        x = x + linear(inner * (1 + erf(inner / math.sqrt(2))) / 2, f"{block}.mlp.fc2")
    return normalize(x, "norm")[0] @ w["head.weight"].T + w["head.bias"]


def test_the_graph_is_the_transformer(source: Path) -> None:
    model = onnx.load(source)
    onnx.checker.check_model(model, full_check=True)
    image = vit.images(TINY, 1, 3)[0]
    (logits,) = onnxruntime.InferenceSession(source).run(None, {vit.INPUT: image})
    np.testing.assert_allclose(logits[0], reference(model, image), rtol=1e-3, atol=1e-4)
    assert model == vit.model(TINY)  # the seed decides the weights


def test_its_size_is_the_published_one() -> None:
    initializers = vit.model(vit.MODELS["deit-t"]).graph.initializer
    learned = [tensor for tensor in initializers if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims]
    assert sum(math.prod(tensor.dims) for tensor in learned) == 5_717_416  # Touvron et al., DeiT: 5.7 M
    weights = [t for t in learned if t.name.endswith(".weight") and len(t.dims) > 1]
    assert sum(math.prod(tensor.dims) for tensor in weights) == vit.MODELS["deit-t"].weights


def test_multiply_accumulates(source: Path) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    macs = 0
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):  # each result sums over the first operand's last axis
            macs += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        if node.op_type == "Conv":
            macs += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    assert macs == TINY.macs


# --- the engines -----------------------------------------------------------------------------------------------------


def test_both_ends_are_the_interpreters(module: ModuleOp) -> None:
    image = vit.images(TINY, 1, 4)[0]
    quantize, dequantize = engines.quantizer(module), engines.dequantizer(module)

    def expected(function: str, array: np.ndarray) -> np.ndarray:
        (result,) = run(module, [array], function=function, float_dtype=np.float32).values()
        return result

    (scale,) = (op.params.scale for op in module.walk() if isinstance(op, QuantizeOp))
    halves = np.arange(-image.size // 2, image.size // 2, dtype=np.float32) / 2  # every second one a tie
    ties = halves.reshape(image.shape) * Weights(module).scale(scale, np.float32)
    for array in (image, 100 * image, ties):
        codes = expected("quantize_inputs", array)
        assert quantize(array).dtype == codes.dtype
        np.testing.assert_array_equal(quantize(array), codes)
    logits = np.array([[0, 1, -1, 12345, -(2**31) + 1]], np.int32)
    np.testing.assert_array_equal(dequantize(logits), expected("dequantize_outputs", logits))


def test_ways_to_run(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: engines.made(name, source, cache) for name in ("ort-int8", "ort-fp32")}
    assert files["ort-fp32"] == source
    kinds = {node.op_type for node in onnx.load(files["ort-int8"]).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    written = files["ort-int8"].stat().st_mtime_ns
    assert engines.made("ort-int8", source, cache).stat().st_mtime_ns == written  # kept
    young, old = (cache / "cpu" / f"{source.stem}-ort-int8-{letter * 16}" for letter in "ab")
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    engines.remove_old([young, old])
    assert young.exists()
    assert not old.exists()

    def missing(file: Path, cache: Path, threads: int) -> engines.Predict:
        raise models.Unavailable("not on this machine")

    monkeypatch.setitem(engines.ENGINES, "missing", Engine(missing))
    times = cpu.interleaved({**files, "missing": source}, vit.images(TINY, 1, 0)[0], 3, cache, lambda: 1.0)
    assert {name: len(values) for name, values in times.engines.items()} == {"ort-int8": 3, "ort-fp32": 3}
    assert times.peak == [1.0] * 3
    assert all(value > 0 for values in times.engines.values() for value in values)

    process = cpu.own_process("ort-fp32", source, cache, TINY, 1, 4)
    assert len(process.cpu) == len(process.wall) == 4
    assert process.start * 1e3 > max(process.cpu)
    assert 20 < process.peak < 200
    with pytest.raises(models.Unavailable, match="nowhere"):
        cpu.own_process("ort-fp32", cache / "nowhere.onnx", cache, TINY, 1, 1)


def test_ours_is_the_interpreters_or_left_out(source: Path, cache: Path) -> None:
    image = vit.images(TINY, 1, 5)[0]
    file = engines.made("qvit", source, cache)
    predict = engines.engine("qvit").load(file, cache, 1)
    engines.require_exact(file, predict, image)
    with pytest.raises(models.Unavailable, match="not those of the interpreter"):
        engines.require_exact(file, lambda image: np.nextafter(predict(image), np.float32(9)), image)
    engines.require_exact(file, engines.engine("qvit").load(file, cache, 2), image)


def test_every_engine_has_a_file_of_its_own_or_the_float_model() -> None:
    products = {label: engines.engine(label).product for label in engines.labels()}
    assert {label for label, product in products.items() if product is None} == {
        "openvino-fp32",
        "openvino-bf16",
        "ort-fp32",
    }
    assert products["qvit-i-vit"] != products["qvit-best"]
    assert {p.name for label, p in products.items() if p and "openvino" in label} == {"openvino-int8"}


# --- figures ---------------------------------------------------------------------------------------------------------


def test_rows() -> None:
    model = Vit(192, 3)
    times = cpu.Times({"openvino-int8": [30.0, 20.0, 22.0], "ort-fp32": [40.0, 44.0, 100.0]}, [200.0, 100.0, 250.0])
    ours, float_row = cpu.rows("tiny", model, times, 1)
    assert (ours.median, ours.minimum, ours.ratio) == (22.0, 20.0, 1.0)
    assert ours.peak_share == pytest.approx(model.macs / 22e-3 / 200e9)
    assert (float_row.median, float_row.ratio, float_row.peak_share) == (44.0, 0.5, None)  # no 8-bit products
    alone = cpu.rows("tiny", model, cpu.Times({"ort-int8": [1.0]}, [float("nan")]), 1)
    assert (alone[0].ratio, alone[0].peak_share) == (None, None)


def test_changes_of_counts() -> None:
    known: dict[str, str | int] = {"compiler": "gcc 12", "portable": 1000, "avx2": 500}
    assert cpu.changes(known, {"compiler": "gcc 12", "portable": 1100, "avx2": 500}) == [
        "gcc 12",
        "  portable             1,100    +10.00 %",
        "  avx2                   500     +0.00 %",
    ]
    assert cpu.changes({}, known)[0] == "gcc 12"
    title, row = cpu.changes(known, {"compiler": "gcc 13", "avx2": 400})
    assert title == "gcc 13, not gcc 12 as recorded"
    assert row.split() == ["avx2", "400", "-"]


def test_the_peak_is_of_a_plausible_processor() -> None:
    peak = cpu.Peak()()
    assert math.isnan(peak) or 10 < peak < 10_000


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(vit.MODELS, "tiny", TINY)
    options = ["--models", "tiny", "--engines", "qvit,ort-int8", "--cache", str(cache)]
    processors = os.sched_getaffinity(0)
    try:
        cpu.main([*options, "--rounds", "2", "--json", str(tmp_path / "times.json")])
        cpu.main([*options, "--start"])
        cpu.main([*options, "--rounds", "3", "--threads", "2"])
    finally:
        os.sched_setaffinity(0, processors)  # it pins itself
    found = json.loads((tmp_path / "times.json").read_text())["models"]["tiny"]
    assert [row["engine"] for row in found["rows"]] == ["qvit", "ort-int8"]
    assert [len(times) for times in found["times"]["engines"].values()] == [2, 2]
    printed = capsys.readouterr()
    first = [line.split()[0] for line in printed.out.splitlines() if line.startswith("  ")]
    heading = ["engine", "qvit", "ort-int8"]
    assert first == [*heading, *heading, *heading]
    assert "tiny, 2 threads: VNNI peak" in printed.out or not cpu.Peak(2)() > 0


@pytest.mark.parametrize(("option", "known"), [("--models", "deit-t, deit-s, vit-b"), ("--engines", "qvit-i-vit")])
def test_unknown_names(option: str, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cpu.main([option, "nothing"])
    message = capsys.readouterr().err
    assert "nothing" in message
    assert known in message


# --- a program -------------------------------------------------------------------------------------------------------


def test_the_emitted_program(module: ModuleOp, tmp_path: Path) -> None:
    standalone.emitted(module, tmp_path)
    made = standalone.built(tmp_path)
    seen = made.run(5)
    assert len(seen.cpu) == len(seen.wall) == 5
    assert seen.start > 0
    assert 0.1 < seen.peak < 10  # not that of the tests, from which it is started
    content = made.weights.read_bytes()
    made.weights.write_bytes(content[:-1])
    with pytest.raises(models.Unavailable, match="truncated"):
        made.run(1)
    made.weights.unlink()
    with pytest.raises(models.Unavailable, match=r"model\.weights: No such file"):
        made.run(1)
