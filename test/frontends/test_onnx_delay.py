"""What exporters put between a DequantizeLinear and a product: --delay-dequant passes it, or says exactly why not."""

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, graph, model, run_ort

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx
from qvit.transforms.delay_dequant import delay_dequant


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng([4, *shape]).normal(0, 1, shape).astype(np.float32)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng([5, *shape]).integers(-128, 128, shape, np.int8)


def vector(length: int) -> np.ndarray:
    return np.linspace(0.01, 0.03, length, dtype=np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


FEEDS = {"x": random(2, 3, 4), "y": random(2, 3, 4), "image": random(1, 4, 5, 6)}
CONSTANTS = {
    "s": np.array(0.02, np.float32),
    "t": np.array(0.03, np.float32),
    "z": np.array(-5, np.int8),
    "z2": np.array(7, np.int8),
    "u": np.array(131, np.uint8),
    "scale2": vector(2),
    "scale3": vector(3),
    "scale4": vector(4),
    "scale5": vector(5),
    "scale6": vector(6),
    "scale15": vector(15),
    "number": np.array(0.7, np.float32),
    "factor4": random(4),
    "factor5": random(5),
    "column3": random(3, 1),
    "column4": random(4, 1),
    "table": random(3, 4),
    "w": codes(4, 5),
    "w_out": codes(5, 4),
    "w_wide": codes(4, 15),
    "w_long": codes(8, 5),
    "w_flat": codes(20),
    "w3": codes(3, 5),
    "w6": codes(6, 5),
    "w2": codes(2, 5),
    "kernel": codes(6, 4, 2, 2),
    "bias": random(5),
    "last": i64(-1),
    "one": i64(1),
    "three": i64(3),
    "five": i64(5),
    "ten": i64(10),
    "zero": i64(0),
    "picked": i64(3, 0, 0, 2),
    "picked5": i64(4, 1, 1, 0, 2),
    "first": np.array(0, np.int64),
    "parts": i64(5, 5, 5),
    "rows": i64(6, 4),
    "heads": i64(2, 3, 2, 2),
    "merged": i64(2, 12),
    "square": i64(4, 5),
    "wider": i64(5, 2, 3, 4),
}


@dataclass(frozen=True)
class Case:
    """A graph; what is reported as blocked, by source node and reason; whether all products become integer ones."""

    text: str
    blocked: tuple[tuple[str, str], ...] = ()
    integer: bool = True

    def feeds(self) -> dict[str, np.ndarray]:
        return {name: array for name, array in FEEDS.items() if f" {name}" in self.text}

    def proto(self) -> onnx.ModelProto:
        nodes = graph(self.text)
        wanted = {name for node in nodes for name in node.input}
        constants = {name: array for name, array in CONSTANTS.items() if name in wanted}
        return model(nodes, self.feeds(), nodes[-1].output[0], constants)


def qdq(name: str, scale: str = "s", zero: str = "z") -> str:
    return f"{name}q = QuantizeLinear {name} {scale} {zero}\n{name}d = DequantizeLinear {name}q {scale} {zero}\n"


def along(name: str, scale: str, axis: int) -> str:
    return f"{name}q = QuantizeLinear {name} {scale} - axis={axis}\n{name}d = DequantizeLinear {name}q {scale} - axis={axis}\n"


X, Y = qdq("x"), qdq("y", "t", "u")
W = "wd = DequantizeLinear w scale5 - axis=1\n"
W_OUT = "wd = DequantizeLinear w_out scale5 - axis=0\n"


def stays(text: str, *blocked: tuple[str, str]) -> Case:
    """No product becomes an integer one."""
    return Case(text, blocked, integer=False)


def contracted(operand: str, axis: int, maker: str) -> str:
    return (
        f"scale along the contracted axis: {operand}'s scale or zero point varies along axis {axis},"
        f" made by {maker}; smoothing or re-parametrisation may remove it"
    )


BEFORE_WEIGHT = {
    "nothing": Case(f"{X}{W}p = MatMul xd wd"),
    "one scale": Case(f"{X}wd = DequantizeLinear w t\np = MatMul xd wd"),
    "bias": Case(f"{X}{W}m = MatMul xd wd\np = Add m bias"),
    "transpose": Case(f"{X}{W_OUT}wt = Transpose wd perm=[1,0]\np = MatMul xd wt"),
    "gemm": Case(f"{X}{W_OUT}r = Reshape xd rows\np = Gemm r wd bias transB=1"),
    "gemm, alpha and beta": Case(f"{X}{W_OUT}r = Reshape xd rows\np = Gemm r wd bias transB=1 alpha=0.5 beta=2.0"),
    "slice of the outputs": Case(
        f"{X}wd = DequantizeLinear w_wide scale15 - axis=1\nws = Slice wd five ten one\np = MatMul xd ws"
    ),
    "slice of the outputs and inputs": Case(
        f"{X}wd = DequantizeLinear w_wide scale15 - axis=1\nwo = Slice wd one five one\n"
        "v = Slice xd zero three last\nwi = Slice wo zero three zero\np = MatMul v wi"
    ),
    "split": Case(
        f"{X}wd = DequantizeLinear w_wide scale15 - axis=1\nwq wk wv = Split wd parts axis=1\n"
        "q = MatMul xd wq\nk = MatMul xd wk\nv = MatMul xd wv\np = Concat q k v axis=-1"
    ),
    "gather of the outputs": Case(f"{X}{W}wg = Gather wd picked5 axis=1\np = MatMul xd wg"),
    "gather of the inputs": Case(f"{X}{W}wg = Gather wd picked axis=0\np = MatMul xd wg"),
    "reshape": Case(f"{X}wd = DequantizeLinear w_flat t\nwr = Reshape wd square\np = MatMul xd wr"),
    "concat of the outputs": Case(
        f"{X}{W}we = DequantizeLinear w_wide scale15 - axis=1\nwc = Concat wd we axis=1\np = MatMul xd wc"
    ),
    "concat of the outputs, scales of both kinds": Case(
        f"{X}{W}we = DequantizeLinear w_wide t\nwc = Concat wd we axis=1\np = MatMul xd wc"
    ),
    "concat of the inputs": Case(
        f"{X}v = Slice xd zero three last\nc = Concat xd v axis=-1\n"
        "wd = DequantizeLinear w t\nwe = DequantizeLinear w3 t\nwc = Concat wd we axis=0\np = MatMul c wc"
    ),
    "concat of the inputs, different scales": stays(
        f"{X}v = Slice xd zero three last\nc = Concat xd v axis=-1\n"
        "wd = DequantizeLinear w t\nwe = DequantizeLinear w3 s\nwc = Concat wd we axis=0\np = MatMul c wc",
        ("p", contracted("rhs", 0, "wc")),
    ),
    "times a number": Case(f"{X}{W}wm = Mul wd number\np = MatMul xd wm"),
    "times an output factor": Case(f"{X}{W}wm = Mul wd factor5\np = MatMul xd wm"),
    "times an output factor, one scale": Case(f"{X}wd = DequantizeLinear w t\nwm = Mul wd factor5\np = MatMul xd wm"),
    "times an input factor, one scale": stays(
        f"{X}wd = DequantizeLinear w t\nwm = Mul wd column4\np = MatMul xd wm", ("p", contracted("rhs", 0, "wm"))
    ),
    "times an input factor": stays(
        f"{X}{W}wm = Mul wd column4\np = MatMul xd wm",
        ("wm", "the scale lies along axis 1, the constant column4 along axis 0"),
        ("p", "operand not quantized: rhs is made by qvit.mul at wm"),
    ),
    "scale of each input": stays(
        f"{X}wd = DequantizeLinear w scale4 - axis=0\np = MatMul xd wd", ("p", contracted("weight", 1, "wd"))
    ),
    "not quantized": stays(
        f"{X}wf = DequantizeLinear w t\nwe = Erf wf\np = MatMul xd we",
        ("p", "operand not quantized: rhs is made by qvit.erf at we"),
    ),
    "convolution": Case(
        f"{qdq('image')}kd = DequantizeLinear kernel scale6 - axis=0\np = Conv imaged kd pads=[1,0,0,1]"
    ),
    "convolution, scale of each input": stays(
        f"{qdq('image')}kd = DequantizeLinear kernel scale4 - axis=1\np = Conv imaged kd",
        ("p", contracted("weight", 1, "kd")),
    ),
}

BEFORE_INPUT = {
    "transpose": Case(f"{X}wd = DequantizeLinear w3 scale5 - axis=1\nv = Transpose xd perm=[0,2,1]\np = MatMul v wd"),
    "slice": Case(f"{X}v = Slice xd one three last\nwd = DequantizeLinear w2 scale5 - axis=1\np = MatMul v wd"),
    "slice of the rows": Case(f"{X}{W}v = Slice xd one three one\np = MatMul v wd"),
    "split into two operands": Case(f"{X}a b = Split xd axis=-1\nbt = Transpose b perm=[0,2,1]\np = MatMul a bt"),
    "reshape to heads": Case(
        f"{X}r = Reshape xd heads\nq = Transpose r perm=[0,2,1,3]\nk = Transpose r perm=[0,2,3,1]\np = MatMul q k"
    ),
    "gather": Case(f"{X}{W}v = Gather xd picked axis=2\np = MatMul v wd"),
    "gather of one row": Case(f"{X}{W}v = Gather xd first axis=1\np = MatMul v wd"),
    "squeeze and unsqueeze": Case(f"{X}{W}a = Unsqueeze xd one\nb = Squeeze a one\np = MatMul b wd"),
    "expand": Case(f"{X}{W}v = Expand xd wider\np = MatMul v wd"),
    "flatten": Case(f"{X}{W}v = Flatten xd axis=2\np = MatMul v wd"),
    "concat, one scale": Case(f"{X}{qdq('y')}{W}c = Concat xd yd axis=1\np = MatMul c wd"),
    "concat of rows, two scales": Case(f"{X}{qdq('y', 't', 'z')}{W}c = Concat xd yd axis=1\np = MatMul c wd"),
    "concat of rows, two zero points": stays(
        f"{X}{qdq('y', 't', 'z2')}{W}c = Concat xd yd axis=1\np = MatMul c wd",
        ("p", "input's zero point varies along axis 1; only one number is possible there"),
    ),
    "concat of rows, two types": stays(
        f"{X}y8 = QuantizeLinear y t\nyd = DequantizeLinear y8 t\n{W}c = Concat xd yd axis=1\np = MatMul c wd",
        ("c", "the operands' codes have different types: i8, ui8"),
        ("p", "operand not quantized: input is made by qvit.concat at c"),
    ),
    "concat with a float": stays(
        f"{X}{W}c = Concat xd y axis=1\np = MatMul c wd",
        ("c", "operand an argument of the function is not quantized"),
        ("p", "operand not quantized: input is made by qvit.concat at c"),
    ),
    "concat along the contracted axis": stays(
        f"{X}{qdq('y', 't', 'z')}wd = DequantizeLinear w_long scale5 - axis=1\nc = Concat xd yd axis=2\np = MatMul c wd",
        ("p", contracted("input", 2, "c")),
    ),
    "times a number": Case(f"{X}{W}v = Mul xd number\np = MatMul v wd"),
    "over a number": Case(f"{X}{W}v = Div xd number\np = MatMul v wd"),
    "times a number, between the heads": Case(
        f"{X}{Y}v = Mul xd number\nk = Mul number yd\nkt = Transpose k perm=[0,2,1]\np = MatMul v kt"
    ),
    "times a factor of each row": Case(f"{X}{W}v = Mul xd column3\np = MatMul v wd"),
    "times a factor of each input": stays(
        f"{X}{W}v = Mul xd factor4\np = MatMul v wd", ("p", contracted("input", 2, "v"))
    ),
    "times a table": stays(
        f"{X}{W}v = Mul xd table\np = MatMul v wd",
        ("v", "the constant table of shape (3, 4) varies along more than one axis"),
        ("p", "operand not quantized: input is made by qvit.mul at v"),
    ),
    "scale of each input": stays(f"{along('x', 'scale4', 2)}{W}p = MatMul xd wd", ("p", contracted("input", 2, "xd"))),
    "scale of each row": Case(f"{along('x', 'scale3', 1)}{W}p = MatMul xd wd"),
    "scale of each row, of both operands": Case(
        f"{along('x', 'scale3', 1)}{along('y', 'scale3', 1)}k = Transpose yd perm=[0,2,1]\np = MatMul xd k",
    ),
    "scale of each input, transposed to the rows": Case(
        f"{along('x', 'scale4', 2)}wd = DequantizeLinear w3 t\nxt = Transpose xd perm=[0,2,1]\np = MatMul xt wd"
    ),
    "scale of each input, merged by a reshape": stays(
        f"{along('x', 'scale4', 2)}r = Reshape xd merged\nk = Transpose r\np = MatMul r k",
        ("r", "the reshape to (2, 12) merges axis 2 of (2, 3, 4) with others"),
        ("p", "operand not quantized: lhs is made by qvit.reshape at r"),
        ("p", "operand not quantized: rhs is made by qvit.transpose at k"),
    ),
    "scale of each channel of an image": stays(
        f"{along('image', 'scale4', 1)}kd = DequantizeLinear kernel t\np = Conv imaged kd",
        ("p", contracted("input", 1, "imaged")),
    ),
    "not quantized": stays(f"{W}p = MatMul x wd", ("p", "operand not quantized: input is an argument of the function")),
    "neither quantized": stays(
        f"{X}v = Softmax xd\nk = Transpose y perm=[0,2,1]\np = MatMul v k",
        ("p", "operand not quantized: lhs is made by qvit.softmax at v"),
        ("p", "operand not quantized: rhs is made by qvit.transpose at k"),
    ),
}

CASES = {
    f"{where}: {name}": case
    for where, table in (("weight", BEFORE_WEIGHT), ("input", BEFORE_INPUT))
    for name, case in table.items()
}


@pytest.mark.parametrize("name", CASES)
def test_delay(name: str) -> None:
    case = CASES[name]
    proto, feeds = case.proto(), case.feeds()
    module, _ = import_onnx(proto)
    expected = run_ort(proto, feeds)
    before = run(module, feeds)
    assert_same(before, expected)

    report = delay_dequant(module)
    module.verify()
    assert_same(run(module, feeds), before, 1e-12)
    assert [(b.src, b.reason) for b in report.blocked] == list(case.blocked)
    assert report.macs_integer.before == 0
    assert report.macs_integer.after == (report.macs_total if case.integer else 0)
