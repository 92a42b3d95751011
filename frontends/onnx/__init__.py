"""The ONNX reader. `onnx` itself is imported only when a model is read."""

from qvit.frontends.onnx.reader import import_onnx, import_to_measure, load_onnx

__all__ = ["import_onnx", "import_to_measure", "load_onnx"]
