"""qvit as a library: build a small program, delay its dequantization, read what was blocked, execute it before and after.

The program is one attention head on three tokens. Its linear layers and the product of queries and keys take quantized
operands, so they move onto integers; the softmax's result is not quantized, so the product behind it stays in float.
"""

import numpy as np
from xdsl.builder import ImplicitBuilder
from xdsl.dialects.builtin import ModuleOp, TensorType, f32, i8
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import run, trace_names
from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import set_sources
from qvit.transforms.delay_dequant import delay_dequant

TOKENS, WIDTH = 3, 4


def named(op: Operation, name: str) -> SSAValue:
    """The operation's result; reports and traces call it `name`."""
    set_sources(op, [name])
    op.results[0].name_hint = name
    return op.results[0]


def quantized(value: SSAValue, scale: float, name: str) -> SSAValue:
    """`value` through 8-bit codes, as a quantizer leaves it: quantize, then dequantize."""
    params = QParamsAttr.of(np.array(scale, np.float32))
    codes = named(QuantizeOp(value, params, i8), f"{name}_q")
    return named(DequantizeOp(codes, params), f"{name}_dq")


def layer(x: SSAValue, name: str, rng: np.random.Generator) -> SSAValue:
    """A linear layer with a weight of 8-bit codes, one scale an output; its result is quantized too."""
    codes = ConstantOp(rng.integers(-127, 128, (WIDTH, WIDTH), np.int8))
    scales = QParamsAttr.of(rng.uniform(0.001, 0.002, WIDTH).astype(np.float32), axis=0)
    weight = named(DequantizeOp(named(codes, f"{name}_w"), scales), f"{name}_w_dq")
    return quantized(named(LinearOp(x, weight), name), 0.02, name)


def attention() -> ModuleOp:
    """softmax(Q K^T) V of tokens [3, 4]."""
    rng = np.random.default_rng(0)
    type_ = TensorType(f32, [TOKENS, WIDTH])
    function = FuncOp("main", ([type_], [type_]))
    with ImplicitBuilder(function.body) as (x,):
        x.name_hint = "x"
        tokens = quantized(x, 0.02, "tokens")
        queries, keys, values = (layer(tokens, name, rng) for name in ("queries", "keys", "values"))
        turned = named(TransposeOp(keys, [1, 0]), "turned")
        scores = quantized(named(MatmulOp(queries, turned), "scores"), 0.05, "scores")
        weights = named(SoftmaxOp(scores, 1), "softmax")
        ReturnOp(named(MatmulOp(weights, values), "mixed"))
    return ModuleOp([function])


def codes_of(module: ModuleOp, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of codes that an execution makes, by its name."""
    names, codes = trace_names(module), dict[str, np.ndarray]()

    def keep(op: Operation, result: np.ndarray) -> None:
        codes.update((name, result) for name in names.get(op, ()))

    run(module, [x], observe=keep)
    return codes


def main() -> None:
    module = attention()
    module.verify()
    before = module.clone()
    report = delay_dequant(module)
    module.verify()
    print("== before", before, "\n== after", module, "\n== moved onto integers", sep="\n")
    for product in report.moved:
        print(f"{product['src']}: {product['op']}, {product['macs']} multiply-accumulates")
    print("\n== blocked")
    for remark in report.blocked:
        print(f"{remark.src}: {remark.rule}: {remark.reason}")

    x = np.random.default_rng(1).normal(size=(TOKENS, WIDTH))
    old, new = codes_of(before, x), codes_of(module, x)
    differing = sum(int((array != new[name]).sum()) for name, array in old.items())
    print(f"\n== codes compared: {sum(array.size for array in old.values())}; different: {differing}")


if __name__ == "__main__":
    main()
