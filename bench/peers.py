"""Other people's int8 of a float ONNX model, each calibrated on the same images, and what ONNX Runtime computes of it.

    float               the model itself, float32
    ort                 ONNX Runtime static QDQ of MatMul, Gemm, Conv: uint8 activations, int8 weights per channel,
                        min-max; every other function and the residual stream stay float
    ort-float-softmax   the same, without the quantizers behind softmax: what one scale for all probabilities costs
    nncf                NNCF, transformer preset

Quantized files are kept in DIR/peers under the digest of all that decides them: model, images, recipe, tool versions.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import numpy as np
import onnx
import onnxruntime

Predict = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Images [N, C, H, W] -> the outputs by name, each [N, ...]."""


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Cut images into batches of one size; the last is filled up with copies of its last image."""
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])


def predict_batches(predict: Predict, images: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """What a function of whole batches predicts for any number of images."""
    results = [predict(batch) for batch in batches(images, size)]
    return {name: np.concatenate([result[name] for result in results])[: len(images)] for name in results[0]}


# --- making them -----------------------------------------------------------------------------------------------------


def onnxruntime_qdq(model: Path, calibration: Sequence[np.ndarray], target: Path, cache: Path) -> None:
    with TemporaryDirectory(dir=cache) as folder:
        prepared = Path(folder) / "prepared.onnx"
        models.prepare_ort(model, prepared)
        models.static_qdq(prepared, target, calibration, "QUInt8", models.LINEARS)


def without_softmax_quantizers(model: onnx.ModelProto) -> int:
    """Let the users of Softmax -> QuantizeLinear -> DequantizeLinear read the softmax itself; -> how many there were."""
    graph = model.graph
    softmax = {node.output[0] for node in graph.node if node.op_type == "Softmax"}
    quantized = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in softmax}
    restored = {n.output[0]: quantized[n.input[0]] for n in graph.node if n.input and n.input[0] in quantized}
    kept = [n for n in graph.node if n.output[0] not in {*quantized, *restored}]
    for node in kept:
        node.input[:] = [restored.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    return len(restored)


def onnxruntime_float_softmax(model: Path, calibration: Sequence[np.ndarray], target: Path, cache: Path) -> None:
    onnxruntime_qdq(model, calibration, target, cache)
    quantized = onnx.load(target)
    if not without_softmax_quantizers(quantized):
        raise models.Unavailable(f"{model}: ONNX Runtime quantized the output of no Softmax")
    onnx.save(quantized, target)


def nncf(model: Path, calibration: Sequence[np.ndarray], target: Path, cache: Path) -> None:
    models.transformer_nncf(model, target, calibration, cache)


@dataclass(frozen=True)
class Peer:
    """How a quantizer makes its file, and the packages whose versions show in it; `bits` is weights/activations."""

    bits: str
    build: Callable[[Path, Sequence[np.ndarray], Path, Path], None] | None
    tools: tuple[str, ...] = ()


PEERS = {
    "float": Peer("32/32", None),
    "ort": Peer("8/8", onnxruntime_qdq, ("onnx", "onnxruntime", "numpy")),
    "ort-float-softmax": Peer("8/8", onnxruntime_float_softmax, ("onnx", "onnxruntime", "numpy")),
    "nncf": Peer("8/8", nncf, models.NNCF_PACKAGES),
}
REVISION = 1  # raise it when a build function changes what it writes: every file is then made again


def quantized(name: str, model: Path, calibration: np.ndarray, batch: int, cache: Path) -> Path:
    """The peer's file for a float model, calibrated on images [N, C, H, W] given in batches; N is a multiple of it."""
    peer = PEERS[name]
    if peer.build is None:
        return model
    tools = [tool if "==" in tool else f"{tool}=={importlib.metadata.version(tool)}" for tool in peer.tools]
    recipe = json.dumps([REVISION, name, tools, batch, str(calibration.dtype), calibration.shape])
    content = hashlib.sha256(recipe.encode())
    content.update(bytes.fromhex(models.digest(model)))
    content.update(np.ascontiguousarray(calibration))
    target = cache / "peers" / f"{model.stem}-{name}-{content.hexdigest()[:16]}.onnx"
    if not target.exists():
        models.say(f"making {target}")
        with models.replacing(target) as temporary:
            peer.build(model, list(batches(calibration, batch)), temporary, cache)
    return target


# --- running them ----------------------------------------------------------------------------------------------------


def session(model: Path, outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    """One thread, and the graph as it is: the int8 kernels that optimization puts in may saturate on some processors."""
    graph = onnx.load(model)
    present = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph.SerializeToString(), options)


def predictor(model: Path, outputs: Sequence[str], batch: int) -> Predict:
    """ONNX Runtime on a file; outputs are names of tensors, the model's own outputs or any other."""
    runtime = session(model, outputs)
    name = runtime.get_inputs()[0].name

    def of_batch(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(outputs, runtime.run(list(outputs), {name: images}), strict=True))

    return partial(predict_batches, of_batch, size=batch)
