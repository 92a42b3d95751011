"""The demo's model by scheme best, in C: every tensor is the interpreter's, in every build."""

from pathlib import Path

import numpy as np
import pytest
from c_programs import WARNINGS, compile_c, equal, run_main
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.c import Sources, emit, load
from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.tools.backends import compared
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

FOLDER = Path(__file__).parents[2] / "examples/fashion_mnist"
BATCH = 4


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    grey = np.load(FOLDER / "test_images.npz")["images"]
    return (grey[:, None].astype(np.float32) / 255 - 0.5) / 0.5


@pytest.fixture(scope="module")
def module(images: np.ndarray) -> ModuleOp:
    floats = import_onnx(load_onnx(FOLDER / "vit.onnx"), (), {"batch": BATCH})[0]
    return compile_model(floats, [{"image": images[k : k + BATCH]} for k in (0, BATCH)], SCHEMES["best"]).module


@pytest.fixture(scope="module")
def codes(module: ModuleOp, images: np.ndarray) -> list[np.ndarray]:
    """@main's inputs for images that were no samples."""
    return list(run(module, [images[100 : 100 + BATCH]], function="quantize_inputs").values())


@pytest.fixture(scope="module")
def sources(module: ModuleOp) -> Sources:
    return emit(module)


def test_every_tensor_that_is_left(module: ModuleOp, codes: list[np.ndarray], sources: Sources) -> None:
    """With several operations a step: what is between them is not made."""
    _, count = compared(module, codes, ("interpreter", "c"))
    assert count == len(sources.program.steps) > 40


def test_every_tensor(module: ModuleOp, codes: list[np.ndarray], tmp_path: Path) -> None:
    seen: dict[Operation, np.ndarray] = {}
    run(module, codes, observe=lambda op, array: seen.update({op: array}))
    _, tensors = load(module, fused=False, cache=tmp_path).trace(*codes)
    first = [(value.op, array) for value, array in tensors if value.index == 0]
    equal([array for _, array in first], [seen[op] for op, _ in first])
    assert len(first) > 100


BUILDS = {
    "-O0": ["gcc", "-std=c11", "-O0"],
    "-O3": ["gcc", "-std=c11", "-O3", "-march=native"],
    "clang": ["clang", "-std=c11", "-O3"],
    "integer registers alone": ["gcc", "-std=c11", "-O2", "-mgeneral-regs-only"],
    "sanitizers": ["gcc", "-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


@pytest.mark.parametrize("build", BUILDS)
def test_every_build(build: str, module: ModuleOp, codes: list[np.ndarray], sources: Sources, tmp_path: Path) -> None:
    expected = list(run(module, codes, integers_only=True).values())
    equal(run_main(sources, [*BUILDS[build], *WARNINGS], tmp_path, codes), expected)


def test_memory(module: ModuleOp, sources: Sources, tmp_path: Path) -> None:
    """The arena is near what no plan can undercut; weights take their bytes, and the library its code alone."""
    assert sources.plan.size <= 1.1 * sources.plan.least
    apart = emit(module, fused=False).plan
    assert apart.size == apart.least > sources.plan.size  # tensors between operations take memory
    sources.write(tmp_path)
    compile_c(["gcc", "-O2", *WARNINGS, "-c", "-o", "model.o", "model.c"], tmp_path)
    assert (tmp_path / "model.o").stat().st_size < 400_000
