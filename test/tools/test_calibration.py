"""--calibrate: scales of dynamic quantization, frozen by ranges that samples have."""

from pathlib import Path

import numpy as np
import pytest
from import_matrix import EXPORTS

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.frontends.onnx import load_onnx
from qvit.tools import qvit_opt, qvit_run
from qvit.tools.calibration import measured_ranges
from qvit.tools.common import read_mlir

MODEL = EXPORTS / "dynamic_u8_17.onnx"
IMAGES = np.random.default_rng(0).normal(0.3, 1, (6, 3, 16, 12)).astype(np.float32)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", image=IMAGES)
    return tmp_path / "samples.npz"


def test_ranges_are_those_of_all_samples(samples: Path) -> None:
    ranges = measured_ranges(load_onnx(MODEL), samples, {})
    assert ranges["image"] == (IMAGES.min(), IMAGES.max())
    assert len(ranges) > 4
    assert all(low < high for low, high in ranges.values())


def test_the_model_is_frozen(samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "frozen.mlir"
    assert qvit_opt.main([str(MODEL), "--calibrate", str(samples), "--delay-dequant", "-o", str(out)]) == 0
    module = read_mlir(out)
    quantizers = [op for op in module.walk() if isinstance(op, QuantizeOp)]
    top, bottom = np.float32(IMAGES.max()), np.float32(IMAGES.min())
    assert any(np.float32(q.params.scale.numbers[0]) == (top - bottom) / np.float32(255) for q in quantizers)
    np.save(tmp_path / "image.npy", IMAGES[:1])
    arguments = [str(MODEL), "--calibrate", str(samples), "--input", str(tmp_path / "image.npy")]
    assert qvit_run.main([*arguments, "--output", str(tmp_path / "logits.npy")]) == 0
    (found,) = run(module, [IMAGES[:1]]).values()
    np.testing.assert_allclose(found, np.load(tmp_path / "logits.npy"), rtol=1e-9)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"picture": IMAGES}, "holds picture, expected one array for each input: image"),
        ({}, "holds nothing"),
        ({"image": IMAGES[:, :2]}, "'image' has shape (6, 2, 16, 12), expected ('N', 3, 16, 12) with N at least 1"),
        ({"image": IMAGES[:0]}, "with N at least 1"),
    ],
)
def test_samples_that_do_not_fit(
    arrays: dict[str, np.ndarray], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)
    assert (
        qvit_opt.main([str(MODEL), "--calibrate", str(tmp_path / "samples.npz"), "-o", str(tmp_path / "o.mlir")]) == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "o.mlir").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut off"])
def test_files_that_are_no_samples(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    assert qvit_opt.main([str(MODEL), "--calibrate", str(tmp_path / "samples.npz")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not an .npz file of arrays" in line


def test_an_array_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "samples.npy", IMAGES)
    assert qvit_opt.main([str(MODEL), "--calibrate", str(tmp_path / "samples.npy")]) == 1
    assert "is not an .npz file of arrays" in capsys.readouterr().err


def test_nothing_to_calibrate(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    static = EXPORTS / "qdq_u8s8_tensor_17.onnx"
    assert qvit_opt.main([str(static), "--calibrate", str(samples)]) == 2
    assert "nothing in this model is quantized dynamically" in capsys.readouterr().err
