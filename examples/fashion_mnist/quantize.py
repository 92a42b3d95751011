"""Export the trained ViT to ONNX, quantize it with ONNX Runtime, and put some test images beside it.

    python -m fashion_mnist.quantize     # in the folder above, after train.py; needs torch, onnx and onnxruntime

writes vit.onnx (float, opset 17, any batch), vit_int8.onnx (QDQ: uint8 activations, int8 weights per channel, MatMul,
Gemm and Conv) and test_images.npz (the first images of the test set, uint8 [N, 28, 28], with their labels).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fashion_mnist.data import load, normalize
from fashion_mnist.model import ViT
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from small_vit import export

HERE = Path(__file__).parent
CALIBRATION_IMAGES = 512
TEST_IMAGES = 300


class Images(CalibrationDataReader):
    """Calibration images in batches of 64."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(np.split(normalize(images), len(images) // 64))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    args = parser.parse_args()

    export(ViT(), HERE / "vit.safetensors", HERE / "vit.onnx")
    images, _ = load(args.data, "train")
    quantize_static(
        HERE / "vit.onnx",
        HERE / "vit_int8.onnx",
        Images(images[:CALIBRATION_IMAGES]),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
    )
    images, labels = load(args.data, "t10k")
    np.savez_compressed(HERE / "test_images.npz", images=images[:TEST_IMAGES], labels=labels[:TEST_IMAGES])


if __name__ == "__main__":
    main()
