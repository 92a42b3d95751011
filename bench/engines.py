"""The engines that bench/cpu.py times: how each makes its file from a float ONNX model, and how it runs one.

    qvit            our C backend, scheme best; qvit-SCHEME: another scheme
    qvit-portable   the same file as qvit, with the kernels that are plain C, for this processor (-O3 -march=native)
    openvino-int8   OpenVINO, quantized by NNCF with its transformer preset
    openvino-fp32   OpenVINO, the float model
    ort-int8        ONNX Runtime static QDQ of all operators: uint8 activations, int8 weights per channel
    ort-fp32        ONNX Runtime, the float model
    openvino-int8-bf16, openvino-bf16   what quantization left, or all, in bfloat16, on processors that have it

All are calibrated on the same random images. OpenVINO and NNCF live in an environment of their own, pinned here, made by
the same Python as this one: NNCF runs in it; OpenVINO needs only NumPy, and is imported from it into this process.

    python bench/engines.py run ENGINE FILE CACHE 1,3,H,W THREADS ROUNDS

is one engine in a process of its own; it prints, as JSON, its `Fresh`.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a fresh process imports what its engine needs
    from xdsl.dialects.builtin import ModuleOp

Predict = Callable[[np.ndarray], np.ndarray]
"""An image, float32 [1, 3, H, W] -> logits [1, classes]."""

OPENVINO_PACKAGES = ("nncf==3.4.0", "openvino==2026.4.1")
PLAIN_C = ("-DQK_NO_SIMD",)  # for the C compiler: the kernels without intrinsics
PORTABLE = ("-O3", "-march=native", *PLAIN_C)
IMAGES = 4  # for calibration
REVISION = 1  # raise it when a build function or bench/vit.py changes what it writes: every file is then made again


@dataclass(frozen=True)
class Product:
    """A file that is made from a float model: build(source, folder, cache) writes `file` into the folder; tools() is what
    decides its bytes beside the model."""

    name: str
    file: str
    build: Callable[[Path, Path, Path], None]
    tools: Callable[[], list[str]]


@dataclass(frozen=True)
class Engine:
    """load(file, cache, threads) makes a product ready to run, where there is none the float model itself."""

    load: Callable[[Path, Path, int], Predict]
    product: Product | None = None


def calibration(source: Path) -> tuple[str, list[np.ndarray]]:
    """The input of a float model, and images for it."""
    import onnx

    (graph_input,) = onnx.load(source, load_external_data=False).graph.input
    shape = [dim.dim_value for dim in graph_input.type.tensor_type.shape.dim]
    return graph_input.name, list(np.random.default_rng(1).standard_normal((IMAGES, *shape), np.float32))


def versions(*packages: str) -> list[str]:
    return [f"{package}=={importlib.metadata.version(package)}" for package in packages]


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


def build_ort(source: Path, folder: Path, cache: Path) -> None:
    import models

    prepared = folder / "prepared.onnx"
    models.prepare_ort(source, prepared)
    models.static_qdq(prepared, folder / "model.onnx", calibration(source)[1], "QUInt8", None)
    prepared.unlink()


def load_ort(file: Path, cache: Path, threads: int) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (name,) = (graph_input.name for graph_input in session.get_inputs())
    return lambda image: session.run(None, {name: image})[0]


# --- OpenVINO --------------------------------------------------------------------------------------------------------


def openvino_environment(cache: Path) -> Path:
    import models

    return models.environment("openvino-venv", OPENVINO_PACKAGES, cache)


def build_openvino(source: Path, folder: Path, cache: Path) -> None:
    import models

    data = folder / "images.npy"
    np.save(data, np.stack(calibration(source)[1]))
    python = models.python_of(openvino_environment(cache))
    command = [python, str(Path(__file__).resolve()), "nncf", str(source), str(data), str(folder)]
    # NNCF_CI is NNCF's own switch for sending no usage data.
    models.run(command, "NNCF failed", {**os.environ, "NNCF_CI": "1"})
    data.unlink()


def nncf_step(source: Path, data: Path, folder: Path) -> None:
    """What build_openvino runs where `import nncf` works."""
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]

    images = np.load(data)
    quantized = nncf.quantize(
        openvino.convert_model(source),
        nncf.Dataset(list(images)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
    )
    openvino.save_model(quantized, folder / "model.xml", compress_to_fp16=False)


def load_openvino(file: Path, cache: Path, threads: int, precision: str = "f32") -> Predict:
    # at the end of the path: all that both environments have is taken from this one
    for packages in openvino_environment(cache).glob("lib/python*/site-packages"):
        if str(packages) not in sys.path:
            sys.path.append(str(packages))
    import openvino  # pyright: ignore[reportMissingImports]

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = openvino.Core().compile_model(file, "CPU", options).create_infer_request()
    return lambda image: next(iter(request.infer([image]).values()))


# --- qvit ------------------------------------------------------------------------------------------------------------


def source_digest() -> str:
    """Of all Python that decides what a model is compiled to."""
    root = Path(__file__).parents[1]
    content = hashlib.sha256()
    for folder in ("dialects", "frontends", "transforms", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            content.update(path.read_bytes())
    return content.hexdigest()


def integer_module(source: Path, scheme: str) -> "ModuleOp":
    """The float model as integers, with @quantize_inputs, @main and @dequantize_outputs."""
    from qvit.frontends.onnx import import_onnx, load_onnx
    from qvit.tools.compiler import compile_model
    from qvit.tools.progress import progress
    from qvit.transforms.pipelines import SCHEMES

    module, _ = import_onnx(load_onnx(source))
    name, images = calibration(source)
    samples = [{name: image} for image in images]
    with progress("compiling"):
        return compile_model(module, samples, SCHEMES[scheme]).module


def build_qvit(source: Path, folder: Path, cache: Path, scheme: str) -> None:
    from qvit.tools.common import write_mlir

    write_mlir(integer_module(source, scheme), folder / "model.mlir")


def quantizer(module: "ModuleOp") -> Predict:
    """@quantize_inputs in float32 with few passes of NumPy over the image; the codes are the interpreter's."""
    from qvit.backends.interpreter import find_function
    from qvit.dialects.ops.quantization import QuantizeOp
    from qvit.dialects.semantics.integers import Rounding
    from qvit.dialects.types import integer_of
    from qvit.dialects.weights import Weights

    (op,) = (op for op in find_function(module, "quantize_inputs").walk() if isinstance(op, QuantizeOp))
    weights, result = Weights(module), integer_of(op.results[0])
    assert op.rounding.data is Rounding.HALF_UP
    assert result is not None
    scale = weights.scale(op.params.scale, np.float32)
    zero = weights.zero_point(op.params.zero_point).astype(np.float32)

    def quantize(image: np.ndarray) -> np.ndarray:
        y = image / scale
        code = np.floor(y)
        np.subtract(y, code, out=y)
        code += y >= 0.5
        code += zero
        return np.clip(code, result.lo, result.hi, out=code).astype(result.dtype)

    return quantize


def dequantizer(module: "ModuleOp") -> Predict:
    """@dequantize_outputs in float32, as `quantizer`."""
    from qvit.backends.interpreter import find_function
    from qvit.dialects.ops.quantization import DequantizeOp
    from qvit.dialects.weights import Weights

    (op,) = (op for op in find_function(module, "dequantize_outputs").walk() if isinstance(op, DequantizeOp))
    weights = Weights(module)
    scale, zero = weights.scale(op.params.scale, np.float32), weights.zero_point(op.params.zero_point)
    return lambda codes: (codes - zero).astype(np.float32) * scale


def load_qvit(file: Path, cache: Path, threads: int, flags: Sequence[str] = ()) -> Predict:
    """@main runs in C, both ends in NumPy: they are timed too."""
    import models

    from qvit.backends.c.loader import load
    from qvit.backends.c.step import CompileError
    from qvit.tools.common import read_mlir

    module = read_mlir(file)
    try:
        program = load(module, flags=flags, threads=threads)
    except CompileError as error:
        raise models.Unavailable(str(error)) from None
    quantize, dequantize = quantizer(module), dequantizer(module)

    def predict(image: np.ndarray) -> np.ndarray:
        return dequantize(program(quantize(image))[0])

    return predict


def require_exact(file: Path, predict: Predict, image: np.ndarray) -> None:
    """Unavailable unless the logits are those of the interpreter: figures of a wrong program are worth nothing."""
    import models

    from qvit.backends.interpreter import run_model
    from qvit.tools.common import read_mlir

    (expected,) = run_model(read_mlir(file), [image], float_dtype=np.float32).values()
    if not np.array_equal(predict(image), expected):
        raise models.Unavailable("its logits are not those of the interpreter")


def qvit_tools(scheme: str) -> list[str]:
    return [scheme, source_digest(), *versions("numpy", "xdsl")]


def qvit(scheme: str, flags: Sequence[str] = ()) -> Engine:
    build = partial(build_qvit, scheme=scheme)
    product = Product(f"qvit-{scheme}", "model.mlir", build, partial(qvit_tools, scheme))
    return Engine(partial(load_qvit, flags=flags), product)


# --- all of them -----------------------------------------------------------------------------------------------------

OPENVINO_INT8 = Product("openvino-int8", "model.xml", build_openvino, lambda: list(OPENVINO_PACKAGES))
ORT_INT8 = Product("ort-int8", "model.onnx", build_ort, partial(versions, "onnx", "onnxruntime", "numpy"))
ENGINES = {
    "qvit": qvit("best"),
    "qvit-portable": qvit("best", PORTABLE),
    "openvino-int8": Engine(load_openvino, OPENVINO_INT8),
    "openvino-fp32": Engine(load_openvino),
    "ort-int8": Engine(load_ort, ORT_INT8),
    "ort-fp32": Engine(load_ort),
    "openvino-int8-bf16": Engine(partial(load_openvino, precision="bf16"), OPENVINO_INT8),
    "openvino-bf16": Engine(partial(load_openvino, precision="bf16")),
}
"""Beside these, `qvit-SCHEME` for every scheme."""


def labels() -> list[str]:
    """The names of all engines."""
    from qvit.tools.registry import SCHEMES

    return [*ENGINES, *(f"qvit-{scheme}" for scheme in SCHEMES)]


def engine(name: str) -> Engine:
    """By one of `labels`."""
    return ENGINES.get(name) or qvit(name.removeprefix("qvit-"))


def remove_old(folders: Iterable[Path]) -> None:
    """What other sources made more than a day ago; younger ones may be another checkout's."""
    for folder in folders:
        if time.time() - folder.stat().st_mtime > 24 * 3600:
            shutil.rmtree(folder, ignore_errors=True)


def made(name: str, source: Path, cache: Path) -> Path:
    """The file that an engine runs for a float model, made below `cache` if it is not there."""
    import models

    from qvit.dialects.atomic import replacing_folder

    product = engine(name).product
    if product is None:
        return source
    recipe = json.dumps([REVISION, product.name, product.tools(), IMAGES, models.digest(source)])
    kind = f"{source.stem}-{product.name}"
    folder = cache / "cpu" / f"{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if not folder.exists():
        remove_old(folder.parent.glob(f"{kind}-????????????????"))
        models.say(f"making {folder}")
        with replacing_folder(folder) as temporary:
            product.build(source, temporary, cache)
    return folder / product.file


# --- a fresh process -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """Start: CPU seconds from the start of the process to the first result; peak: MB of memory until then; cpu, wall:
    milliseconds of each further run."""

    start: float
    peak: float
    cpu: list[float]
    wall: list[float]


def timed(body: Callable[[], object]) -> tuple[float, float]:
    """(CPU milliseconds of the whole process, wall milliseconds) of one call.

    Of the process, for an engine may work in a thread of its own; with one thread the two are the same.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    body()
    return (time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3


def peak_memory() -> float:
    """MB that this process had resident at most. getrusage would count the parent's too, which a child starts from."""
    status = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


def fresh(name: str, file: Path, cache: Path, shape: Sequence[int], threads: int, rounds: int) -> Fresh:
    """Measure an engine in this process, which has done nothing else yet."""
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    predict = engine(name).load(file, cache, threads)
    predict(image)
    start, peak = time.process_time(), peak_memory()
    cpu, wall = zip(*(timed(lambda: predict(image)) for _ in range(rounds)), strict=True)
    return Fresh(start, peak, list(cpu), list(wall))


def main(task: str, *options: str) -> None:
    if task == "nncf":
        nncf_step(*map(Path, options))
    else:
        name, file, cache, shape, threads, rounds = options
        sizes = [int(size) for size in shape.split(",")]
        seen = fresh(name, Path(file), Path(cache), sizes, int(threads), int(rounds))
        print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
