"""qvit-compile: a float model and samples in, integers and a report out, or one line and nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from data.onnx_build import graph, model
from data.small_vit import Variant, images, quantized, vit
from data.tool_call import Done, Tool, contents
from import_matrix import EXPORTS
from PIL import Image

from qvit.backends.interpreter import run, run_model
from qvit.dialects.ops.approximated import IntFunctionOp, IntSoftmaxOp
from qvit.dialects.ops.quantization import AddRequantOp, QuantizeOp
from qvit.dialects.types import integer_of
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.tools import compile_driver, qvit_compile, qvit_opt
from qvit.tools.common import read_mlir, write_mlir
from qvit.tools.compiler import quantize
from qvit.tools.registry import SCHEMES, VERSION
from qvit.tools.samples import npz_samples
from qvit.transforms import pipelines
from qvit.transforms.ptq.calibrate import Calibration
from qvit.transforms.verify_integer_only import floats_left

FASHION = Path(__file__).parents[2] / "examples" / "fashion_mnist"
FILES = ["model.mlir", "model.safetensors", "report.html", "report.json", "statistics.npz", "summary.txt"]
SMALL = ["small.onnx", "--dim", "batch=2"]
CALIBRATED = [*SMALL, "--calibrate", "samples.npz"]


def photos(count: int) -> np.ndarray:
    with np.load(FASHION / "test_images.npz") as file:
        return file["images"][:count]


def normalized(grey: np.ndarray) -> np.ndarray:
    return (grey[:, None].astype(np.float32) / 255 - 0.5) / 0.5


@pytest.fixture
def place(folder: Path) -> Path:
    """A working directory with a small model and samples."""
    onnx.save(vit(Variant()), "small.onnx")
    np.savez("samples.npz", image=images(5))
    return folder


# --- a real model ---


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Fashion-MNIST model by scheme best, calibrated on six images, in batches of four."""
    folder = tmp_path_factory.mktemp("fashion")
    np.savez(folder / "samples.npz", image=normalized(photos(6)))
    arguments = [str(FASHION / "vit.onnx"), "--dim", "batch=4", "--calibrate", str(folder / "samples.npz")]
    assert qvit_compile.main([*arguments, "-o", str(folder / "out")]) == 0
    return folder / "out"


def test_the_folder(fashion: Path) -> None:
    assert sorted(contents(fashion)) == FILES
    assert sorted(p.name for p in fashion.parent.iterdir()) == ["out", "samples.npz"]


def test_statistics_for_smoothing(fashion: Path, tmp_path: Path) -> None:
    """A vector for each normalisation, which --smooth-pot takes; the last one's class token alone goes on."""
    report = tmp_path / "report.json"
    model, statistics = str(FASHION / "vit.onnx"), fashion / "statistics.npz"
    with np.load(statistics) as file:
        assert sorted(array.shape for array in file.values()) == [(96,)] * 9
    command = [model, "--dim", "batch=4", f"--smooth-pot=statistics={statistics}", "--report", str(report)]
    assert qvit_opt.main([*command, "-o", str(tmp_path / "smooth.mlir")]) == 0
    found = json.loads(report.read_text())
    assert (len(found["smoothed"]), found["guessed"]) == (8, 0)


def test_the_program_is_free_of_floats_and_near_the_model(fashion: Path) -> None:
    module = read_mlir(fashion / "model.mlir")
    assert floats_left(module) == []
    inputs = {"image": normalized(photos(4))}
    (found,) = run_model(module, inputs).values()
    model = import_onnx(load_onnx(FASHION / "vit.onnx"), dims={"batch": 4})[0]
    (exact,) = run(model, inputs).values()
    np.testing.assert_array_equal(found.argmax(1), exact.argmax(1))
    noise = 10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum())
    report = json.loads((fashion / "report.json").read_text())
    assert report["outputs"]["logits"] == pytest.approx(noise, abs=0.01)  # its float run is in single precision
    assert noise > 25


def test_the_report(fashion: Path) -> None:
    report = json.loads((fashion / "report.json").read_text())
    settings = {"seed": 0, "dim": "batch=4"}
    assert (report["tool"], report["version"], report["model"]) == ("qvit-compile", VERSION, "vit.onnx")
    assert (report["scheme"], report["settings"]) == ("best", settings)
    assert report["samples"] == {"what": "6 of samples.npz, image", "count": 6, "batches": 2}
    assert (report["left"], report["warnings"]) == ([], [])
    assert len(report["approximations"]) == 17  # 9 normalisations, 4 softmax, 4 functions
    assert report["operations"]["int_layer_norm ln"] == 9
    assert "layer_norm" not in report["operations"]
    # all products but the operands of no accumulator: 4 x (3 + 1 + 2 linear, 2 products), patches and head
    assert len(report["accumulators"]) == 4 * 8 + 2
    assert all(line["headroom"] >= 0 for line in report["accumulators"])
    assert len(report["weights"]) == 4 * 6 + 2
    assert all(line["sqnr"] > 30 and line["bits"] == 8 for line in report["weights"])
    assert report["sizes"]["integer"] < 0.3 * report["sizes"]["float"]


def test_every_tensor_is_compared(fashion: Path) -> None:
    tensors = json.loads((fashion / "report.json").read_text())["tensors"]
    assert [line["src"] for line in tensors if line["sqnr"] is None] == ["pos_embed"]  # a constant
    compared = [line for line in tensors if line["sqnr"] is not None]
    assert len(compared) > 50
    assert all(20 < line["sqnr"] < 60 for line in compared)
    for line in tensors:
        assert line["low"] < line["high"]
        assert line["role"]
        whole = line["scale"] * (2 ** line["bits"] - 1)
        assert line["used"] == pytest.approx((line["high"] - line["low"]) / whole)
        assert line["saturated"] in (None, 0) or line["saturated"] < 0.01
    (pixels,) = (line for line in tensors if line["role"] == "pixels")
    assert (pixels["bits"], pixels["signed"], pixels["low"], pixels["high"]) == (8, False, -1, 1)


def test_the_summary(fashion: Path) -> None:
    text = (fashion / "summary.txt").read_text()
    report = json.loads((fashion / "report.json").read_text())
    assert f"scheme          best: {SCHEMES['best']}" in text
    assert f"output          logits: {report['outputs']['logits']:.1f} dB against float" in text
    worst = min((line for line in report["tensors"] if line["sqnr"] is not None), key=lambda line: line["sqnr"])
    assert f"least SQNR      {worst['sqnr']:.1f} dB at {worst['src']} ({worst['role']})" in text


def test_a_folder_of_images_is_the_same_as_its_numbers(fashion: Path, tool: Tool) -> None:
    """To the last bit of the program, and with a second run of the tool."""
    Path("images").mkdir()
    for i, array in enumerate(photos(8)):
        Image.fromarray(array).save(f"images/{i}.png")
    arguments = [FASHION / "vit.onnx", "--dim", "batch=4", "--calibrate", "images", "--samples", "6", "-o", "out"]
    said = tool(*arguments).succeeded()
    assert said == Path("out/summary.txt").read_text()
    assert (
        "6 images of images, whole, resized to 28 x 28, normalized by mean 0.5 and deviation 0.5 (the usual ones)"
        in said
    )
    for name in ("model.mlir", "model.safetensors"):
        assert Path("out", name).read_bytes() == (fashion / name).read_bytes()


# --- settings ---


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes(tool: Tool, place: Path, scheme: str) -> None:
    tool(*CALIBRATED, "--scheme", scheme, "-o", "out").succeeded()
    module = read_mlir(place / "out" / "model.mlir")
    assert floats_left(module) == []
    asked = pipelines.SCHEMES[scheme].integerize.softmax.split("+")
    taken = {op.approximation.data.name.replace("_", "-") for op in module.walk() if isinstance(op, IntSoftmaxOp)}
    assert taken <= set(asked)
    assert taken
    assert json.loads(Path("out/report.json").read_text())["outputs"]["logits"] > 5


def test_two_runs_give_the_same_bytes(tool: Tool, place: Path) -> None:
    for name in ("a", "b"):
        tool(*CALIBRATED, "--seed", "7", "-o", name).succeeded()
    assert contents(place / "a") == contents(place / "b")


def test_a_second_run_replaces_the_first(tool: Tool, place: Path) -> None:
    tool(*CALIBRATED, "-o", "out").succeeded()
    first = contents(place / "out")
    tool(*CALIBRATED, "--weights-bits", "4", "-o", "out").succeeded()
    second = contents(place / "out")
    assert first.keys() == second.keys()
    assert first["model.safetensors"] != second["model.safetensors"]
    assert sorted(p.name for p in place.iterdir()) == ["out", "samples.npz", "small.onnx"]


def test_bits_of_weights(tool: Tool, place: Path) -> None:
    tool(*CALIBRATED, "--weights-bits", "4", "-o", "out").succeeded()
    report = json.loads(Path("out/report.json").read_text())
    assert {line["bits"] for line in report["weights"]} == {4}
    assert report["settings"]["weights-bits"] == 4


def test_bits_of_activations(tool: Tool, place: Path) -> None:
    """Of 4 bits, but at the ends of the model; weights too where that is asked for."""
    tool(*CALIBRATED, "--weights-bits", "5", "--activation-bits", "4", "-o", "out").succeeded()
    report = json.loads(Path("out/report.json").read_text())
    assert {line["bits"] for line in report["weights"]} == {5, 8}
    assert report["settings"]["activation-bits"] == 4
    tool(*CALIBRATED, "--activation-bits", "4", "-o", "out").succeeded()
    assert {line["bits"] for line in json.loads(Path("out/report.json").read_text())["weights"]} == {8}


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_bits_of_the_residual_stream(tool: Tool, place: Path, bits: int) -> None:
    tool(*CALIBRATED, "--scheme", "i-bert", "--residual", str(bits), "-o", "out").succeeded()
    module = read_mlir(place / "out" / "model.mlir")
    sums = [integer_of(op.result) for op in module.walk() if isinstance(op, AddRequantOp)]
    assert sums
    # of 32 bits, layer normalisation over 10 channels takes 27: 10 x 2^26 < 2^30
    assert {(codes.bits, codes.signed) for codes in sums if codes is not None} == {(min(bits, 27), True)}


def test_overrides(tool: Tool, place: Path) -> None:
    Path("o.toml").write_text(
        '[[override]]\nmatch = "*/fc1/*"\nroles = ["function"]\nbits = 8\n'
        '[[override]]\nmatch = "*/fc2/*"\nweights = true\nbits = 3\n'
    )
    tool(*CALIBRATED, "--overrides", "o.toml", "-o", "out").succeeded()
    report = json.loads(Path("out/report.json").read_text())
    assert {line["bits"] for line in report["tensors"] if line["role"] == "function"} == {8}
    assert {line["bits"] for line in report["weights"] if "/fc2/" in line["src"]} == {3}
    functions = [op for op in read_mlir(place / "out" / "model.mlir").walk() if isinstance(op, IntFunctionOp)]
    assert {op.approximation.data.name for op in functions} == {"table"}


def test_other_samples_give_other_scales(tool: Tool, place: Path) -> None:
    tool(*CALIBRATED, "-o", "all").succeeded()
    tool(*CALIBRATED, "--samples", "1", "-o", "one").succeeded()
    one, all_ = (json.loads(Path(name, "report.json").read_text())["tensors"] for name in ("one", "all"))
    highs = [(a["high"], b["high"]) for a, b in zip(one, all_, strict=True)]
    assert all(a <= b or a == pytest.approx(b) for a, b in highs[:1])
    assert sum(a < b for a, b in highs) > len(highs) / 2


# --- models that are quantized ---


def test_quantized_models_need_no_samples(tool: Tool, place: Path) -> None:
    """The program is the one of the same scales chosen here."""
    tool(*CALIBRATED, "-o", "chosen").succeeded()
    module = import_onnx(load_onnx(Path("small.onnx")), dims={"batch": 2})[0]
    samples = npz_samples(Path("samples.npz"), {"image": (2, *images(1).shape[1:])})
    quantize(module, samples, pipelines.SCHEMES["best"].quantization)
    write_mlir(module, Path("quantized.mlir"))
    said = tool("quantized.mlir", "-o", "given").succeeded()
    assert "samples         none: the model has its scales" in said
    for name in ("model.mlir", "model.safetensors"):
        assert Path("given", name).read_bytes() == Path("chosen", name).read_bytes()
    report = json.loads(Path("given/report.json").read_text())
    assert (report["samples"], report["outputs"], report["weights"]) == (None, {}, [])
    assert all(line["sqnr"] is None and line["scale"] > 0 for line in report["tensors"])


def test_quantized_models_that_lack_scales(tool: Tool, place: Path) -> None:
    onnx.save(quantized(Variant(), "QUInt8"), "q.onnx")
    done = tool("q.onnx", "--dim", "batch=2", "-o", "out")
    assert done.status == 1
    first, *rest = done.err.splitlines()
    assert re.fullmatch(r"qvit-compile: error: q.onnx: \d+ operations stay in float:", first)
    assert any("/pos/Add" in line and "its result has no quantizer" in line for line in rest)
    assert rest[-1].endswith("; --calibrate DIR or FILE.npz adds the scales that are missing")
    assert not Path("out").exists()


def test_samples_add_the_scales_that_are_missing(tool: Tool, place: Path) -> None:
    """Also of a constant that is joined to quantized tokens; the model's own scales stay."""
    onnx.save(quantized(Variant(), "QUInt8"), "q.onnx")
    tool("q.onnx", "--dim", "batch=2", "--scheme", "i-bert", "--calibrate", "samples.npz", "-o", "out").succeeded()
    module = import_onnx(load_onnx(Path("q.onnx")), dims={"batch": 2})[0]
    own = {float(np.float32(op.params.scale.numbers[0])) for op in module.walk() if isinstance(op, QuantizeOp)}
    report = json.loads(Path("out/report.json").read_text())
    assert own <= {line["scale"] for line in report["tensors"]}
    assert report["left"] == []
    assert report["outputs"]["logits"] > 20


def test_a_scale_of_zero(tool: Tool, place: Path) -> None:
    Path("zero.mlir").write_text(
        "func.func @main(%x: tensor<2x4xf32>) -> tensor<2x4xf32> {\n"
        "%q = qvit.quantize %x <0.0> : tensor<2x4xf32> -> tensor<2x4xi8>\n"
        "%d = qvit.dequantize %q <0.0> : tensor<2x4xi8> -> tensor<2x4xf32>\n"
        '%g = qvit.gelu %d {qvit.src = ["act"]} : tensor<2x4xf32>\n'
        "%r = qvit.quantize %g <0.1> : tensor<2x4xf32> -> tensor<2x4xi8>\n"
        "%y = qvit.dequantize %r <0.1> : tensor<2x4xi8> -> tensor<2x4xf32>\n"
        "func.return %y : tensor<2x4xf32>\n}\n"
    )
    assert "a quantizer divides by its scale; it must be positive, found 0.0" in tool("zero.mlir", "-o", "out").failed()
    assert not Path("out").exists()


def test_dynamic_quantization_is_frozen_by_the_samples(tool: Tool, folder: Path) -> None:
    """Its scales come from the samples too; what it leaves in float gets scales beside them."""
    np.savez("samples.npz", image=np.random.default_rng(0).normal(0.3, 1, (6, 3, 16, 12)).astype(np.float32))
    arguments = ["--outputs", "logits_MatMul", "--scheme", "i-bert", "--calibrate", "samples.npz", "-o", "out"]
    tool(EXPORTS / "dynamic_u8_17.onnx", *arguments).succeeded()
    assert json.loads(Path("out/report.json").read_text())["outputs"]["logits_MatMul"] > 5
    assert "--calibrate" in tool(EXPORTS / "dynamic_u8_17.onnx", "-o", "new").failed()


def test_mlir_with_weight_files(tool: Tool, place: Path) -> None:
    """The output stands alone, and is that of the .onnx model."""
    tool(*CALIBRATED, "-o", "first").succeeded()
    Path("in").mkdir()
    write_mlir(import_onnx(load_onnx(Path("small.onnx")), dims={"batch": 2})[0], Path("in/small.mlir"))
    assert Path("in/small.safetensors").exists()
    tool("in/small.mlir", "--calibrate", "samples.npz", "-o", "out").succeeded()
    for name in ("model.mlir", "model.safetensors"):
        assert Path("out", name).read_bytes() == Path("first", name).read_bytes()
    said = tool("in/small.mlir", "--calibrate", "samples.npz", "--dim", "batch=2", "-o", "x").failed(2)
    assert "--outputs is for .onnx and .pt2 models, --dim for .onnx" in said


# --- several inputs ---

TWO = "p = MatMul a v\nq = MatMul b w\ny = Add p q"


@pytest.fixture
def two(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(0, 1, (4, 3)).astype(np.float32) for name in "vw"}
    proto = model(graph(TWO), {name: np.zeros((2, 4), np.float32) for name in "ab"}, "y", arrays)
    onnx.save(proto, "two.onnx")
    return folder


def test_several_inputs(tool: Tool, two: Path) -> None:
    rng = np.random.default_rng(6)
    arrays = {name: rng.normal(0, 1, (3, 4)).astype(np.float32) for name in "ab"}
    np.savez("samples.npz", **arrays)
    tool("two.onnx", "--calibrate", "samples.npz", "-o", "out").succeeded()
    assert json.loads(Path("out/report.json").read_text())["outputs"]["y"] > 30


def test_several_inputs_and_images(tool: Tool, two: Path) -> None:
    Path("images").mkdir()
    Image.new("L", (4, 4)).save("images/a.png")
    said = tool("two.onnx", "--calibrate", "images", "-o", "out").failed()
    assert "the model has 2 inputs (a, b): give FILE.npz with one array for each input" in said
    assert not Path("out").exists()


# --- interruption ---


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Calibration is interrupted before the batch `at`; the list gets the batches that are taken."""
    take = Calibration.take
    taken: list[int] = []

    def stopping(self: Calibration, *arguments: Any) -> None:
        if self.done == at:
            raise KeyboardInterrupt
        taken.append(self.done)
        take(self, *arguments)

    monkeypatch.setattr(Calibration, "take", stopping)
    return taken


def test_an_interrupted_run_goes_on(tool: Tool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(*CALIBRATED, "-o", "whole").succeeded()
    with monkeypatch.context() as patch:
        assert interrupted(patch, 2) == []
        said = tool(*CALIBRATED, "-o", "out").failed()
    assert said == "qvit-compile: interrupted; the same command goes on from here"
    assert list(contents(place / "out")) == [".calibration.npz"]
    with monkeypatch.context() as patch:
        taken = interrupted(patch, -1)
        tool(*CALIBRATED, "-o", "out").succeeded()
    assert taken == [2]  # of the batches 0, 1, 2
    assert contents(place / "out") == contents(place / "whole")


@pytest.mark.parametrize("other", ["samples", "model", "settings", "damaged"])
def test_a_state_of_another_run_is_not_taken(
    tool: Tool, place: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        tool(*CALIBRATED, "-o", "out").failed()
    arguments = CALIBRATED
    match other:
        case "samples":
            np.savez("samples.npz", image=images(5) * 2)
        case "model":
            proto = onnx.load("small.onnx")
            weights = onnx.numpy_helper.to_array(proto.graph.initializer[0])
            proto.graph.initializer[0].CopyFrom(
                onnx.numpy_helper.from_array(weights * 2, proto.graph.initializer[0].name)
            )
            onnx.save(proto, "small.onnx")
        case "settings":
            arguments = [*CALIBRATED, "--seed", "1"]
        case _:
            state = Path("out/.calibration.npz")
            state.write_bytes(state.read_bytes()[:100])
    with monkeypatch.context() as patch:
        taken = interrupted(patch, -1)
        tool(*arguments, "-o", "out").succeeded()
    assert taken == [0, 1, 2]


def test_interrupted_before_anything_is_kept(tool: Tool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, 0)
    assert tool(*CALIBRATED, "-o", "out").failed() == "qvit-compile: interrupted"
    assert not Path("out").exists()


def test_interrupted_while_writing(tool: Tool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run wrote is as it was, and the calibration is kept."""
    tool(*CALIBRATED, "-o", "out").succeeded()
    before = contents(place)

    def stopping(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compile_driver, "write_mlir", stopping)
    said = tool(*CALIBRATED, "--seed", "3", "-o", "out").failed()
    assert said == "qvit-compile: interrupted; the same command goes on from here"
    after = contents(place)
    assert after.pop("out/.calibration.npz")
    assert after == before


def test_no_room_to_write(tool: Tool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(place)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "model.mlir")

    monkeypatch.setattr(compile_driver, "write_mlir", full)
    assert "No space left on device" in tool(*CALIBRATED, "-o", "out").failed()
    assert contents(place) == before
    assert not Path("out").exists()


# --- bad input ---


def images_with(name: str, content: bytes) -> Callable[[], None]:
    def make() -> None:
        Path("images").mkdir()
        Image.new("L", (28, 28), 100).save("images/a.png")
        Path("images", name).write_bytes(content)

    return make


def overrides(text: str) -> Callable[[], None]:
    return lambda: Path("o.toml").write_text(text) and None


def saved(**arrays: np.ndarray) -> Callable[[], None]:
    return lambda: np.savez("bad.npz", **arrays)


def nothing() -> None:
    """The files are as they are."""


def full(name: str) -> Callable[[], None]:
    def make() -> None:
        Path("full").mkdir()
        Path("full", name).write_text("{}")

    return make


OVERRIDE = '[[override]]\nmatch = "*"\n'
BAD: dict[str, tuple[Callable[[], object], list[str], int, str]] = {
    "no samples": (nothing, SMALL, 2, "small.onnx is a float model: give samples for its scales, --calibrate DIR or FILE.npz"),
    "no such samples": (nothing, [*SMALL, "--calibrate", "nix.npz"], 1, "--calibrate: nix.npz: no such file or folder"),
    "empty folder": (lambda: Path("images").mkdir(), [*SMALL, "--calibrate", "images"], 1, "images fit an input of shape"),
    "wrong name": (saved(x=images(2)), [*SMALL, "--calibrate", "bad.npz"], 1, "holds x, expected one array for each input: image"),
    "wrong shape": (saved(image=images(2)[:, :1]), [*SMALL, "--calibrate", "bad.npz"], 1, "expected ('N', 2, 4, 6)"),
    "NaN": (saved(image=images(2) * np.nan), [*SMALL, "--calibrate", "bad.npz"], 1, "'image': sample 0 holds NaN or infinity"),
    "beyond float": (saved(image=np.full_like(images(2), 3e38)), [*SMALL, "--calibrate", "bad.npz"], 1, "values are NaN or infinite"),
    "no archive": (lambda: Path("bad.npz").write_text("no"), [*SMALL, "--calibrate", "bad.npz"], 1, "is not an .npz file of arrays"),
    "unknown scheme": (nothing, [*CALIBRATED, "--scheme", "i-vti"], 2, "unknown scheme 'i-vti'; did you mean i-vit?"),
    "unlike any scheme": (nothing, [*CALIBRATED, "--scheme", "xyz"], 2, "unknown scheme 'xyz'; there are best, "),
    "unknown flag": (nothing, [*CALIBRATED, "--residuals", "8"], 2, "unknown flag --residuals; did you mean --residual?"),
    "bits of weights": (nothing, [*CALIBRATED, "--weights-bits", "9"], 2, "argument --weights-bits: invalid choice: 9"),
    "bits of the residual": (nothing, [*CALIBRATED, "--residual", "12"], 2, "argument --residual: invalid choice: 12"),
    "seed": (nothing, [*CALIBRATED, "--seed", "-1"], 2, "argument --seed: expected"),
    "no sample at all": (nothing, [*CALIBRATED, "--samples", "0"], 2, "expected a number of at least 1, found '0'"),
    "means": (nothing, [*CALIBRATED, "--mean", "half"], 2, "expected numbers such as 0.5"),
    "deviations": (nothing, [*CALIBRATED, "--std", "0"], 2, "expected positive numbers, found '0'"),
    "dynamic dimension": (nothing, ["small.onnx", "--calibrate", "samples.npz"], 1, "dynamic dimension 'batch'; fix it with --dim batch=1"),
    "no such model": (nothing, ["nix.onnx", "--calibrate", "samples.npz"], 1, "nix.onnx: no such file"),
    "no model": (nothing, ["samples.npz", "--calibrate", "samples.npz"], 2, "format from '.npz'; known are .onnx, .pt2, .mlir"),
    "not TOML": (overrides("bits"), [*CALIBRATED, "--overrides", "o.toml"], 1, "o.toml: "),
    "unknown setting": (overrides(OVERRIDE + "bit = 4"), [*CALIBRATED, "--overrides", "o.toml"], 1, "unknown bit; known are bits"),
    "no such role": (overrides(OVERRIDE + 'roles = ["key"]'), [*CALIBRATED, "--overrides", "o.toml"], 1, "roles is a list of pixels"),
    "senseless bits": (overrides(OVERRIDE + "bits = 1"), [*CALIBRATED, "--overrides", "o.toml"], 1, "bits must be in 2..32, found 1"),
    "bits that go with no zero point": (
        overrides(OVERRIDE + 'roles = ["linear"]\nbits = 24\nsymmetric = true\n' + OVERRIDE + "symmetric = false"),
        [*CALIBRATED, "--overrides", "o.toml"], 1, "override of '*' at /blocks.0/norm1/",
    ),
    "bits that no sum holds": (
        overrides(OVERRIDE + 'roles = ["attention"]\nbits = 16'), [*CALIBRATED, "--overrides", "o.toml"], 1, "/blocks.0/attn/",
    ),
    "a condition that fails": (
        overrides(OVERRIDE + 'roles = ["function"]\nbits = 4\nscale = 100.0'),
        [*CALIBRATED, "--scheme", "i-vit", "--published", "--overrides", "o.toml"], 1, "/blocks.0/act/",
    ),
    "no such parent": (nothing, [*CALIBRATED, "-o", "nix/out"], 1, "nix/out cannot be written: there is no folder"),
    "output is a file": (nothing, [*CALIBRATED, "-o", "small.onnx"], 1, "small.onnx is a file; name a folder with -o"),
    "somebody else's folder": (full("notes.txt"), [*CALIBRATED, "-o", "full"], 1, "full holds notes.txt: name a new folder"),
    "somebody else's report": (full("report.json"), [*CALIBRATED, "-o", "full"], 1, "full holds a report of another program"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(tool: Tool, place: Path, name: str) -> None:
    make, arguments, status, says = BAD[name]
    make()
    before = contents(place)
    folders = sorted(p for p in place.rglob("*") if p.is_dir())
    output = [] if "-o" in arguments else ["-o", "out"]
    done: Done = tool(*arguments, *output)
    message = done.err if "stay in float" in done.err else done.failed(status)
    assert (done.status, done.out) == (status, "")
    assert says in message
    assert "Traceback" not in message
    assert contents(place) == before
    assert sorted(p for p in place.rglob("*") if p.is_dir()) == folders


FOLDERS: dict[str, tuple[Callable[[], None], str]] = {
    "other files": (images_with("notes.txt", b"hello"), "notes.txt is no image: expected images alone"),
    "corrupt": (images_with("b.png", b"hello"), "b.png cannot be read as an image"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_bad_folders(tool: Tool, name: str) -> None:
    make, says = FOLDERS[name]
    make()
    before = contents(Path())
    arguments = [FASHION / "vit.onnx", "--dim", "batch=1", "--calibrate", "images", "-o", "out"]
    assert says in tool(*arguments).failed()
    assert contents(Path()) == before


def test_colour_images_for_a_grey_model(tool: Tool) -> None:
    Path("images").mkdir()
    Image.new("RGB", (28, 28)).save("images/a.png")
    arguments = [FASHION / "vit.onnx", "--dim", "batch=1", "--calibrate", "images", "-o", "out"]
    assert (
        "a.png is an image of mode RGB, the model takes 1 channel of 8 bits (L): convert it"
        in tool(*arguments).failed()
    )


def test_constant_samples_are_warned_of(tool: Tool, place: Path) -> None:
    np.savez("samples.npz", image=np.zeros((2, *images(1).shape[1:]), np.float32))
    done = tool(*CALIBRATED, "-o", "out")
    assert done.status == 0
    (line,) = done.err.splitlines()
    assert re.match(r"qvit-compile: warning: input \S* ?(and \d+ more )?had one value on all samples \(0\)", line)
    report = json.loads(Path("out/report.json").read_text())
    assert line == f"qvit-compile: warning: {report['warnings'][0]}"
    assert report["tensors"][0]["scale"] == 1


# --- the front door ---


def test_list_schemes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        qvit_compile.main(["--list-schemes"])
    assert stop.value.code == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(SCHEMES)


def test_help_names_every_option_and_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        qvit_compile.main(["--help"])
    said = capsys.readouterr().out
    for option in ("--calibrate", "--scheme", "--residual", "--weights-bits", "--overrides", "--seed", *SCHEMES):
        assert option in said


def test_a_program_of_torch_export(tmp_path: Path) -> None:
    """.pt2: compiled, run, and refused where it is damaged."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).eval()
    torch.export.save(torch.export.export(model, (torch.ones(2, 8),)), tmp_path / "model.pt2")
    np.savez(tmp_path / "samples.npz", input=np.linspace(-2, 2, 64, dtype=np.float32).reshape(8, 8))
    command = [str(tmp_path / "model.pt2"), "--calibrate", str(tmp_path / "samples.npz"), "-o", str(tmp_path / "out")]
    assert qvit_compile.main(command) == 0
    assert (tmp_path / "out/model.mlir").exists()
    assert qvit_opt.main([str(tmp_path / "model.pt2"), "--outputs", "gelu", "-o", str(tmp_path / "part.mlir")]) == 0
    assert "tensor<2x16xf32>" in (tmp_path / "part.mlir").read_text()
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    assert qvit_compile.main(command) == 1
