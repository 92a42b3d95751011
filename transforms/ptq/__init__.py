"""Post-training quantization: from a float module and sample inputs to one whose every tensor has codes.

`prepare` brings the float module into shape, `sites` finds the tensors that need codes, `statistics` gathers what is seen of
them, `observers` makes scales of that, `smoothing` and `weights` choose the numbers of the weights, `insert` writes quantize
and dequantize operations. What a scheme asks for is data: `scheme`.
"""
