"""The rules of --integerize, by theme: what stands between a dequantize and a quantize becomes one integer operation."""
