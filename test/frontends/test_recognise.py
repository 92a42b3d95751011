"""Recognisers: what they take, what they decline and why; in either case the numbers stay onnxruntime's."""

from dataclasses import dataclass, field
from math import pi, sqrt

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, graph, model, opcounts, run_ort
from onnx import NodeProto

from qvit.backends.interpreter import run
from qvit.dialects.provenance import sources
from qvit.frontends.onnx import import_onnx


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng([3, *shape]).normal(0, 1, shape).astype(np.float32)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


FEEDS = {"x": random(2, 3, 4), "y": random(2, 3, 4) + 1, "table": random(4, 4), "e": number(0.5)}
CONSTANTS = {
    "zero": number(0),
    "half": number(0.5),
    "quarter": number(0.25),
    "one": number(1),
    "two": number(2),
    "three": number(3),
    "root2": number(sqrt(2)),
    "inverse": number(sqrt(0.5)),
    "almost": number(0.7),
    "root2pi": number(sqrt(2 / pi)),
    "kappa": number(0.044715),
    "kappa2": number(0.0447),
    "minus": number(-np.inf),
    "zeros": np.zeros((3, 4), np.float32),
    "zeros4": np.zeros((2, 2, 3, 4), np.float32),
    "hidden": np.array([[0, -np.inf, 0], [0, 0, 0], [-np.inf, -np.inf, 0]], np.float32),
    "hidden2": np.array([[0, 0, -np.inf], [0, 0, 0], [0, 0, 0]], np.float32),
    "closed": np.array([[0, 0, 0], [-np.inf] * 3, [0, 0, 0]], np.float32),
    "columns": number(0.5) * np.ones(4, np.float32) + np.arange(4, dtype=np.float32),
    "eps": number(1e-3),
    "eps1": number(1e-3).reshape(1),
    "epsilons": np.full((3, 1), 1e-3, np.float32),
    "gamma": random(4) + 2,
    "beta": random(4) - 1,
    "gamma34": random(3, 4) + 2,
    "gamma3": random(3) + 2,
    "gamma1": random(1),
    "step": number(0.03),
    "i8": np.array(0, np.int8),
    "u8": np.array(120, np.uint8),
}


@dataclass(frozen=True)
class Case:
    """A graph, the operations that are left of it, and why recognisers declined."""

    nodes: list[NodeProto]
    left: dict[str, int]
    declined: list[str] = field(default_factory=list)
    outputs: str = ""
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def proto(self) -> onnx.ModelProto:
        outputs = self.outputs or self.nodes[-1].output[0]
        wanted = {name for n in self.nodes for name in n.input} | set(outputs.split())
        constants = {**CONSTANTS, **self.constants}
        return model(self.nodes, self.feeds(), outputs, {k: v for k, v in constants.items() if k in wanted})

    def feeds(self) -> dict[str, np.ndarray]:
        wanted = {name for n in self.nodes for name in n.input}
        return {name: array for name, array in FEEDS.items() if name in wanted}


def layer_norm(**changes: str) -> list[NodeProto]:
    """The plain form over the last axis, with some of its lines changed, left out (""), or followed by others."""
    lines = {
        "mean": "mean = ReduceMean x axes=[-1]",
        "centred": "centred = Sub x mean",
        "turned": "",
        "square": "square = Pow centred two",
        "var": "var = ReduceMean square axes=[-1]",
        "plus": "plus = Add var eps",
        "root": "root = Sqrt plus",
        "norm": "norm = Div centred root",
        "scaled": "scaled = Mul norm gamma",
        "moved": "moved = Add scaled beta",
        "end": "",
    }
    return graph("\n".join((lines | changes).values()))


QDQ = "{0}_q = QuantizeLinear {0} step i8\n{0}_dq = DequantizeLinear {0}_q step i8"
NORM = {"layer_norm": 1}
# what stays where nothing is recognised
PLAIN_NORM = {"add": 2, "div": 1, "mul": 1, "pow": 1, "reduce_mean": 2, "sqrt": 1, "sub": 1}

LAYER_NORM = {
    "plain": Case(layer_norm(), NORM),
    "square by mul": Case(layer_norm(square="square = Mul centred centred"), NORM),
    "gamma and beta on the left": Case(
        layer_norm(scaled="scaled = Mul gamma norm", moved="moved = Add beta scaled"), NORM
    ),
    "epsilon on the left": Case(layer_norm(plus="plus = Add eps var"), NORM),
    "epsilon of one element": Case(layer_norm(plus="plus = Add var eps1"), NORM),
    "no beta": Case(layer_norm(moved=""), NORM),
    "no gamma": Case(layer_norm(scaled="", moved=""), NORM),
    "no gamma but a beta": Case(layer_norm(scaled="", moved="moved = Add norm beta"), NORM | {"add": 1}),
    "beta before gamma": Case(
        layer_norm(scaled="scaled = Add norm beta", moved="moved = Mul scaled gamma"), NORM | {"add": 1, "mul": 1}
    ),
    "gamma one number": Case(layer_norm(scaled="scaled = Mul norm gamma1"), NORM | {"add": 1, "mul": 1}),
    "gamma along another axis": Case(
        layer_norm(scaled="scaled = Mul norm column"),
        NORM | {"add": 1, "mul": 1},
        constants={"column": random(3, 1)},
    ),
    "gamma from the input": Case(layer_norm(scaled="scaled = Mul norm y", moved=""), NORM | {"mul": 1}),
    "two axes": Case(
        layer_norm(
            mean="mean = ReduceMean x axes=[-1,-2]",
            var="var = ReduceMean square axes=[1,2]",
            scaled="scaled = Mul norm gamma34",
            moved="",
        ),
        NORM,
    ),
    "two axes in order": Case(
        layer_norm(
            mean="mean = ReduceMean x axes=[-2,-1]",
            var="var = ReduceMean square axes=[1,2]",
            scaled="scaled = Mul norm gamma34",
            moved="",
        ),
        NORM,
    ),
    "all axes": Case(layer_norm(mean="mean = ReduceMean x", var="var = ReduceMean square", scaled="", moved=""), NORM),
    # The mean is taken over axis 1; onnxruntime's optimizer moves the Transpose that follows the norm to the front of it.
    "transpose behind the subtraction": Case(
        layer_norm(
            mean="mean = ReduceMean x axes=[1]",
            turned="turned = Transpose centred perm=[0,2,1]",
            square="square = Pow turned two",
            norm="norm = Div turned root",
            scaled="scaled = Mul norm gamma3",
            moved="",
        ),
        NORM | {"transpose": 1},
    ),
    "transpose, the product for the square": Case(
        layer_norm(
            mean="mean = ReduceMean x axes=[0]",
            turned="turned = Transpose centred perm=[1,2,0]",
            square="square = Mul turned turned",
            norm="norm = Div turned root",
            scaled="",
            moved="",
        ),
        NORM | {"transpose": 1},
    ),
    "normalized value used twice": Case(layer_norm(end="end = Add moved norm"), NORM | {"add": 2, "mul": 1}),
    "scaled value used twice": Case(layer_norm(end="end = Add moved scaled"), NORM | {"add": 2}),
    "deviation used twice": Case(
        layer_norm(end="end = Mul moved root"),
        NORM | {"add": 1, "mul": 1, "pow": 1, "reduce_mean": 2, "sqrt": 1, "sub": 1},
    ),
    "two after another": Case(
        [
            *layer_norm(),
            *graph("m = ReduceMean moved axes=[-1]\nd = Sub moved m\ns = Mul d d\nv = ReduceMean s axes=[-1]"),
            *graph("p = Add v eps\nr = Sqrt p\nn = Div d r"),
        ],
        {"layer_norm": 2},
    ),
    "root of something else": Case(
        graph("y2 = Mul y y\nr = Sqrt y2\nz = Div x r"),
        {"div": 1, "mul": 1, "sqrt": 1},
        ["the variance plus epsilon: expected qvit.add, found qvit.mul"],
    ),
    "axis not the last": Case(
        layer_norm(mean="mean = ReduceMean x axes=[1]", var="var = ReduceMean square axes=[1]"),
        PLAIN_NORM,
        ["axes (1,) are not the last ones"],
    ),
    "axes with a gap": Case(
        layer_norm(mean="mean = ReduceMean x axes=[0,2]", var="var = ReduceMean square axes=[0,2]"),
        PLAIN_NORM,
        ["axes (0, 2) are not the last ones"],
    ),
    "transpose to another axis than the last": Case(
        layer_norm(
            mean="mean = ReduceMean x axes=[2]",
            turned="turned = Transpose centred perm=[0,2,1]",
            square="square = Pow turned two",
            var="var = ReduceMean square axes=[1]",
            norm="norm = Div turned root",
            scaled="",
            moved="",
        ),
        {"add": 1, "div": 1, "pow": 1, "reduce_mean": 2, "sqrt": 1, "sub": 1, "transpose": 1},
        ["axes (1,) are not the last ones"],
    ),
    "mean and variance over different axes": Case(
        layer_norm(mean="mean = ReduceMean x axes=[2]", var="var = ReduceMean square axes=[1,2]"),
        PLAIN_NORM,
        ["mean and variance are over different axes: (2,)"],
    ),
    # of a square tensor the mean would broadcast along the wrong axis
    "dimensions dropped": Case(
        layer_norm(
            mean="mean = ReduceMean table axes=[-1] keepdims=0",
            centred="centred = Sub table mean",
            square="square = Pow centred two",
            var="var = ReduceMean square axes=[-1] keepdims=0",
        ),
        PLAIN_NORM,
        ["the reduced dimensions are dropped before they broadcast"],
    ),
    "cubes": Case(
        layer_norm(square="square = Pow centred three", plus="plus = Add var three"),
        PLAIN_NORM,
        ["the deviations are raised to another power than 2"],
    ),
    "power from the input": Case(
        layer_norm(square="absolute = Mul centred centred\nsquare = Pow absolute e"),
        PLAIN_NORM | {"mul": 2},
        ["the deviations are raised to another power than 2"],
    ),
    "product with something else": Case(
        layer_norm(square="square = Mul centred x", plus="plus = Add var three"),
        PLAIN_NORM | {"mul": 2, "pow": 0},
        ["the deviations are not squared but multiplied by something else"],
    ),
    "other numerator": Case(
        layer_norm(norm="norm = Div x root"),
        PLAIN_NORM,
        ["the numerator and the variance are of different values"],
    ),
    "numerator not centred": Case(
        layer_norm(mean="", centred="", square="square = Pow x two", norm="norm = Div x root"),
        PLAIN_NORM | {"sub": 0, "reduce_mean": 1},
        ["the numerator: expected qvit.sub, found a function argument"],
    ),
    "mean of something else": Case(
        layer_norm(mean="mean = ReduceMean y axes=[-1]"),
        PLAIN_NORM,
        ["the mean is of another value than it is subtracted from"],
    ),
    "mean of two values": Case(
        layer_norm(mean="mean = Mul y half"),
        PLAIN_NORM | {"mul": 2, "reduce_mean": 1},
        ["the mean: expected qvit.reduce_mean, found qvit.mul"],
    ),
    "epsilon from the input": Case(
        layer_norm(plus="plus = Add var e"), PLAIN_NORM, ["epsilon is not a constant number"]
    ),
    "one epsilon a row": Case(
        layer_norm(plus="plus = Add var epsilons"), PLAIN_NORM, ["epsilon is not a constant number"]
    ),
    "no epsilon": Case(
        layer_norm(plus="", root="root = Sqrt var"),
        PLAIN_NORM | {"add": 1},
        ["the variance plus epsilon: expected qvit.add, found qvit.reduce_mean"],
    ),
    "variance quantized": Case(
        layer_norm(plus=f"{QDQ.format('var')}\nplus = Add var_dq eps"),
        PLAIN_NORM | {"quantize": 1, "dequantize": 1},
        ["the variance is quantized (var_dq)"],
    ),
    "variance plus epsilon quantized": Case(
        layer_norm(root=f"{QDQ.format('plus')}\nroot = Sqrt plus_dq"),
        PLAIN_NORM | {"quantize": 1, "dequantize": 1},
        ["the variance plus epsilon is quantized (plus_dq)"],
    ),
    "deviations quantized": Case(
        layer_norm(square=f"{QDQ.format('centred')}\nsquare = Pow centred_dq two", norm="norm = Div centred_dq root"),
        PLAIN_NORM | {"quantize": 1, "dequantize": 1},
        ["the numerator is quantized (centred_dq)"],
    ),
    "squares quantized": Case(
        layer_norm(var=f"{QDQ.format('square')}\nvar = ReduceMean square_dq axes=[-1]"),
        PLAIN_NORM | {"quantize": 1, "dequantize": 1},
        ["the squared deviations is quantized (square_dq)"],
    ),
    "gamma quantized": Case(
        layer_norm(scaled="gamma_dq = DequantizeLinear gammas step i8\nscaled = Mul norm gamma_dq"),
        NORM | {"add": 1, "dequantize": 1, "mul": 1},
        constants={"gammas": np.array([1, -7, 90, 4], np.int8)},
    ),
}

ERF = "a = Div x root2\ne2 = Erf a\nplus = Add e2 one\n"
GELU = {"gelu": 1}
PLAIN_GELU = {"add": 1, "div": 1, "erf": 1, "mul": 2}

GELUS = {
    "(x p) / 2": Case(graph(f"{ERF}b = Mul x plus\nz = Mul b half"), GELU),
    "1/2 (p x)": Case(graph(f"{ERF}b = Mul plus x\nz = Mul half b"), GELU),
    "(x / 2) p": Case(graph(f"{ERF}b = Mul x half\nz = Mul b plus"), GELU),
    "p (x / 2)": Case(graph(f"{ERF}b = Mul half x\nz = Mul plus b"), GELU),
    "(p / 2) x": Case(graph(f"{ERF}b = Mul plus half\nz = Mul b x"), GELU),
    "x (p / 2)": Case(graph(f"{ERF}b = Mul half plus\nz = Mul x b"), GELU),
    "one on the left": Case(graph(f"{ERF.replace('e2 one', 'one e2')}b = Mul x plus\nz = Mul b half"), GELU),
    "inverse root": Case(graph(f"{ERF.replace('Div x root2', 'Mul x inverse')}b = Mul x plus\nz = Mul b half"), GELU),
    "inverse root on the left": Case(
        graph(f"{ERF.replace('Div x root2', 'Mul inverse x')}b = Mul x plus\nz = Mul b half"), GELU
    ),
    "of a product": Case(
        graph(f"x2 = Mul y y\n{ERF.replace('Div x', 'Div x2')}b = Mul x2 plus\nz = Mul b half"), GELU | {"mul": 1}
    ),
    "half of x used twice": Case(
        graph(f"{ERF}b = Mul x half\nc = Mul b plus\nz = Add c b"),
        PLAIN_GELU | {"add": 2},
        ["1 + erf is not multiplied by the argument and 0.5"],
    ),
    "product used twice": Case(
        graph(f"{ERF}b = Mul x plus\nc = Mul b half\nz = Add c b"),
        PLAIN_GELU | {"add": 2},
        ["1 + erf is not multiplied by the argument and 0.5"],
    ),
    "product is an output": Case(
        graph(f"{ERF}b = Mul x plus\nz = Mul b half"),
        PLAIN_GELU,
        ["1 + erf is not multiplied by the argument and 0.5"],
        outputs="z b",
    ),
    "followed by a product": Case(graph(f"{ERF}b = Mul x plus\nc = Mul b half\nz = Mul c y"), GELU | {"mul": 1}),
    "wrong root": Case(
        graph(f"{ERF.replace('root2', 'three')}b = Mul x plus\nz = Mul b half"),
        PLAIN_GELU,
        ["the argument of erf is not divided by sqrt 2"],
    ),
    "root from the input": Case(
        graph(f"{ERF.replace('root2', 'y')}b = Mul x plus\nz = Mul b half"),
        PLAIN_GELU,
        ["the argument of erf is not divided by sqrt 2"],
    ),
    "wrong inverse root": Case(
        graph(f"{ERF.replace('Div x root2', 'Mul x almost')}b = Mul x plus\nz = Mul b half"),
        {"add": 1, "erf": 1, "mul": 3},
        ["the argument of erf is not multiplied by 1 / sqrt 2"],
    ),
    "no root": Case(
        graph("e2 = Erf x\nplus = Add e2 one\nb = Mul x plus\nz = Mul b half"),
        {"add": 1, "erf": 1, "mul": 2},
        ["the argument of erf: expected qvit.mul, found a function argument"],
    ),
    "two added": Case(
        graph(f"{ERF.replace('e2 one', 'e2 two')}b = Mul x plus\nz = Mul b half"),
        PLAIN_GELU,
        ["erf is added to something else than 1"],
    ),
    "erf subtracted": Case(
        graph(f"{ERF.replace('Add e2 one', 'Sub one e2')}b = Mul x plus\nz = Mul b half"),
        PLAIN_GELU | {"add": 0, "sub": 1},
        ["erf is not followed by an addition alone"],
    ),
    "erf used twice": Case(
        graph(f"{ERF}b = Mul x plus\nc = Mul b half\nz = Add c e2"),
        PLAIN_GELU | {"add": 2},
        ["erf is not followed by an addition alone"],
    ),
    "a quarter": Case(
        graph(f"{ERF}b = Mul x plus\nz = Mul b quarter"),
        PLAIN_GELU,
        ["1 + erf is not multiplied by the argument and 0.5"],
    ),
    "no half": Case(
        graph(f"{ERF}z = Mul x plus"), PLAIN_GELU | {"mul": 1}, ["1 + erf is not multiplied by the argument and 0.5"]
    ),
    "over two": Case(
        graph(f"{ERF}b = Mul x plus\nz = Div b two"),
        PLAIN_GELU | {"div": 2, "mul": 1},
        ["1 + erf is not multiplied by the argument and 0.5"],
    ),
    "times something else": Case(
        graph(f"{ERF}b = Mul y plus\nz = Mul b half"), PLAIN_GELU, ["1 + erf is not multiplied by the argument and 0.5"]
    ),
    "1 + erf used twice": Case(
        graph(f"{ERF}b = Mul x plus\nc = Mul b half\nz = Add c plus"),
        PLAIN_GELU | {"add": 2},
        ["1 + erf is not multiplied by the argument and 0.5"],
    ),
    "erf quantized": Case(
        graph(f"a = Div x root2\ne2 = Erf a\n{QDQ.format('e2')}\nplus = Add e2_dq one\nb = Mul x plus\nz = Mul b half"),
        PLAIN_GELU | {"quantize": 1, "dequantize": 1},
        ["erf is quantized (e2_q)"],
    ),
    "1 + erf quantized": Case(
        graph(f"{ERF}{QDQ.format('plus')}\nb = Mul x plus_dq\nz = Mul b half"),
        PLAIN_GELU | {"quantize": 1, "dequantize": 1},
        ["1 + erf is quantized (plus_q)"],
    ),
    "argument quantized": Case(
        graph(f"a = Div x root2\n{QDQ.format('a')}\ne2 = Erf a_dq\nplus = Add e2 one\nb = Mul x plus\nz = Mul b half"),
        PLAIN_GELU | {"quantize": 1, "dequantize": 1},
        ["the argument of erf is quantized (a_dq)"],
    ),
    # a dequantize in front of the whole is no obstacle
    "quantized argument of all": Case(
        graph(f"{QDQ.format('x')}\n{ERF.replace('Div x', 'Div x_dq')}b = Mul x_dq plus\nz = Mul b half"),
        GELU | {"quantize": 1, "dequantize": 1},
    ),
}

INNER = "c = Pow x three\nk = Mul c kappa\ns = Add x k\na = Mul s root2pi\n"
TANH = "t = Tanh a\nplus = Add t one\n"
PLAIN_TANH = {"add": 2, "mul": 4, "pow": 1, "tanh": 1}

TANH_GELUS = {
    "as a power": Case(graph(f"{INNER}{TANH}b = Mul x half\nz = Mul b plus"), GELU),
    "as products": Case(
        graph(
            f"c2 = Mul x x\nc = Mul x c2\nk = Mul kappa c\ns = Add x k\na = Mul root2pi s\n{TANH}b = Mul x plus\n"
            "z = Mul half b"
        ),
        GELU,
    ),
    "x outside": Case(
        graph(
            f"c2 = Mul x x\nk = Mul c2 kappa\ns = Add one k\nr = Mul x root2pi\na = Mul r s\n{TANH}b = Mul plus half\n"
            "z = Mul b x"
        ),
        GELU,
    ),
    "of a sum": Case(
        graph("v = Add x y\n" + f"{INNER}{TANH}b = Mul x half\nz = Mul b plus".replace(" x", " v")), GELU | {"add": 1}
    ),
    "kappa rounded": Case(
        graph(f"{INNER.replace('kappa', 'kappa2')}{TANH}b = Mul x half\nz = Mul b plus"),
        PLAIN_TANH,
        ["the argument of tanh is not sqrt(2 / pi) (x + 0.044715 x^3)"],
    ),
    "another factor": Case(
        graph(f"{INNER.replace('root2pi', 'almost')}{TANH}b = Mul x half\nz = Mul b plus"),
        PLAIN_TANH,
        ["the argument of tanh has the factor 0.7, not sqrt(2 / pi)"],
    ),
    "squared": Case(
        graph(f"{INNER.replace('three', 'two')}{TANH}b = Mul x half\nz = Mul b plus"),
        PLAIN_TANH,
        ["the argument of tanh is not sqrt(2 / pi) (x + 0.044715 x^3)"],
    ),
    "of two values": Case(
        graph(f"{INNER.replace('Add x', 'Add y')}{TANH}b = Mul x half\nz = Mul b plus"),
        PLAIN_TANH,
        ["the argument of tanh is not sqrt(2 / pi) (x + 0.044715 x^3)"],
    ),
    "times another value": Case(
        graph(f"{INNER}{TANH}b = Mul y half\nz = Mul b plus"),
        PLAIN_TANH,
        ["1 + tanh is not multiplied by the argument and 0.5"],
    ),
    "plus two": Case(
        graph(f"{INNER}{TANH.replace('one', 'two')}b = Mul x half\nz = Mul b plus"),
        PLAIN_TANH,
        ["tanh is added to something else than 1"],
    ),
    "quantized inside": Case(
        graph(f"{INNER}t = Tanh a\n{QDQ.format('t')}\nplus = Add t_dq one\nb = Mul x half\nz = Mul b plus"),
        PLAIN_TANH | {"quantize": 1, "dequantize": 1},
        ["tanh is quantized (t_q)"],
    ),
    "of a pooler": Case(graph("z = Tanh x"), {"tanh": 1}),
}

KEYS = "t = Transpose y perm=[0,2,1]\n"
SCORES = KEYS + "s = MatMul x t\n"
GUARD = "n = IsNaN p\nz = Where n zero p"
PRODUCT = {"matmul": 1, "transpose": 1}
ATTENTION = PRODUCT | {"softmax": 1}
GUARDED = {"softmax": 1, "compare": 1, "select": 1}

ATTENTIONS = {
    "NaN guard": Case(graph(f"{SCORES}p = Softmax s\n{GUARD}"), ATTENTION),
    "NaN guard behind a mask": Case(graph(f"{SCORES}m = Add s hidden\np = Softmax m\n{GUARD}"), ATTENTION | {"add": 1}),
    "NaN guard behind a mask that hides a row": Case(
        graph(f"{SCORES}m = Add s closed\np = Softmax m\n{GUARD}"),
        PRODUCT | GUARDED | {"add": 1},
        ["the mask hides a whole row"],
    ),
    "NaN guard behind two masks": Case(
        graph(f"{SCORES}l = Add s hidden\nm = Add l hidden2\np = Softmax m\n{GUARD}"),
        PRODUCT | GUARDED | {"add": 2},
        ["several masks hide elements: together they may hide a whole row"],
    ),
    "NaN guard behind a mask from the input": Case(
        graph(f"{SCORES}c = Greater s half\nw = Where c zero minus\nm = Add s w\np = Softmax m\n{GUARD}"),
        PRODUCT | {"softmax": 1, "compare": 2, "select": 2, "add": 1},
        ["the mask w is known at run time only: it may hide a whole row"],
    ),
    "NaN guard behind scores from outside": Case(
        graph(f"p = Softmax x\n{GUARD}"),
        GUARDED,
        ["the mask an argument of the function is known at run time only: it may hide a whole row"],
    ),
    "NaN becomes one": Case(
        graph(f"{SCORES}p = Softmax s\n{GUARD.replace('zero', 'one')}"),
        PRODUCT | GUARDED,
        ["NaN becomes something else than 0"],
    ),
    "NaN of one value, another kept": Case(
        graph(f"{SCORES}p = Softmax s\nn = IsNaN s\nz = Where n zero p"),
        PRODUCT | GUARDED,
        ["another value than the tested one is kept"],
    ),
    "NaN guard of a root": Case(
        graph("p = Sqrt x\n" + GUARD),
        {"sqrt": 1, "compare": 1, "select": 1},
        ["the guarded value: expected qvit.softmax, found qvit.sqrt"],
    ),
    "zero mask": Case(graph("v = Relu x\nz = Add v zeros"), {"relu": 1}),
    "zero mask on the left": Case(graph("v = Relu x\nz = Add zeros v"), {"relu": 1}),
    "zeros that enlarge": Case(graph("v = Relu x\nz = Add v zeros4"), {"relu": 1, "add": 1}),
    "scale on both sides": Case(
        graph(f"{KEYS}q = Mul x almost\nk = Mul t quarter\nz = MatMul q k"), PRODUCT | {"mul": 1}
    ),
    "scale on the left of both": Case(
        graph(f"{KEYS}q = Mul almost x\nk = Mul quarter t\nz = MatMul q k"), PRODUCT | {"mul": 1}
    ),
    "scale on one side": Case(graph(f"{KEYS}q = Mul x almost\nz = MatMul q t"), PRODUCT | {"mul": 1}),
    "a scale for each feature": Case(
        graph(f"{KEYS}q = Mul x columns\nk = Mul t quarter\nz = MatMul q k"),
        PRODUCT | {"mul": 2},
        ["q does not multiply by one number"],
    ),
    "scaled queries used twice": Case(
        graph(f"{KEYS}q = Mul x almost\nk = Mul t quarter\nm = MatMul q k\nz = MatMul m q"),
        PRODUCT | {"mul": 2, "matmul": 2},
        ["q is used elsewhere too"],
    ),
}

LINEAR = {"linear": 1}
WEIGHTS = {
    "w": random(4, 5),
    "w2": random(2, 4, 5),
    "wt": random(5, 4),
    "b": random(5),
    "b1": random(1, 5),
    "b5": random(3, 5),
    "codes": np.random.default_rng(1).integers(-128, 128, (4, 5), np.int8),
    "codes_t": np.random.default_rng(1).integers(-128, 128, (5, 4), np.int8),
    "steps": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32),
    "steps4": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "zeros_c": np.array([[3.0], [0.0], [-7.0], [1.0]], np.float32),
    "half_c": np.array([[0.5], [0.0], [-7.0], [1.0]], np.float32),
    "steps_c": np.array([[0.1], [0.2], [0.3], [0.4]], np.float32),
    "steps_n": np.array([0.1, 0.2, -0.3, 0.4, 0.5], np.float32),
    "codes_b": np.array([1, -2, 300, 4, -50000], np.int32),
    "rows": np.array([-1, 4], np.int64),
    "back": np.array([2, 3, 5], np.int64),
    "back5": np.array([2, 3, 5, 1], np.int64),
    "flat": np.array([4, 6], np.int64),
    "back3": np.array([2, -1, 5], np.int64),
    "w6": random(6, 5),
    "back4": np.array([2, 2, 5], np.int64),
}


def linear_case(text: str, left: dict[str, int], outputs: str = "") -> Case:
    return Case(graph(text), left, outputs=outputs, constants=WEIGHTS)


LINEARS = {
    "weight": linear_case("z = MatMul x w", LINEAR),
    "weight with a batch": linear_case("z = MatMul x w2", {"matmul": 1}),
    "weight from the input": linear_case("t = Transpose y perm=[0,2,1]\nz = MatMul x t", {"matmul": 1, "transpose": 1}),
    "weight on the left": linear_case("z = MatMul wt table", {"matmul": 1}),
    "bias": linear_case("m = MatMul x w\nz = Add m b", LINEAR),
    "bias on the left": linear_case("m = MatMul x w\nz = Add b m", LINEAR),
    "bias of two dimensions": linear_case("m = MatMul x w\nz = Add m b1", LINEAR | {"add": 1}),
    "bias a row": linear_case("m = MatMul x w\nz = Add m b5", LINEAR | {"add": 1}),
    "bias one number": linear_case("m = MatMul x w\nz = Add m half", LINEAR | {"add": 1}),
    "two biases": linear_case("m = MatMul x w\nn = Add m b\nz = Add n b", LINEAR | {"add": 1}),
    "bias, but the product is used twice": linear_case(
        "m = MatMul x w\nn = Add m b\nz = Mul n m", LINEAR | {"add": 1, "mul": 1}
    ),
    "bias, but the product is an output": linear_case("m = MatMul x w\nz = Add m b", LINEAR | {"add": 1}, "z m"),
    "bias subtracted": linear_case("m = MatMul x w\nz = Sub m b", LINEAR | {"sub": 1}),
    "two layers added": linear_case("m = MatMul x w\nn = MatMul y w\nz = Add m n", {"linear": 2, "add": 1}),
    "bias quantized": linear_case(
        "m = MatMul x w\nd = DequantizeLinear codes_b step\nz = Add m d", LINEAR | {"dequantize": 1}
    ),
    "weight quantized": linear_case("d = DequantizeLinear codes step\nz = MatMul x d", LINEAR | {"dequantize": 1}),
    "weight quantized by columns": linear_case(
        "d = DequantizeLinear codes steps axis=1\nz = MatMul x d", LINEAR | {"dequantize": 1}
    ),
    "weight quantized by rows": linear_case(
        "d = DequantizeLinear codes steps4 axis=0\nz = MatMul x d", LINEAR | {"dequantize": 1}
    ),
    # as fake quantization is exported: the weight's codes are known, but written as a QuantizeLinear on floats
    "weight quantized in the graph": linear_case(
        "q = QuantizeLinear w steps - axis=1\nd = DequantizeLinear q steps - axis=1\nz = MatMul x d",
        LINEAR | {"dequantize": 1},
    ),
    "weight quantized, then transposed": linear_case(
        "d = DequantizeLinear codes_t steps axis=0\nt = Transpose d\nz = MatMul x t", LINEAR | {"dequantize": 1}
    ),
    "weight quantized, transposed twice": linear_case(
        "d = DequantizeLinear codes steps axis=-1\nt = Transpose d\nu = Transpose t perm=[1,0]\nz = MatMul x u",
        LINEAR | {"dequantize": 1},
    ),
    "weight used twice": linear_case(
        "d = DequantizeLinear codes steps axis=1\nm = MatMul x d\nn = MatMul y d\nz = Add m n",
        {"linear": 2, "add": 1, "dequantize": 2},
    ),
    "gemm between reshapes": linear_case("r = Reshape x rows\ng = Gemm r w b\nz = Reshape g back", LINEAR),
    "gemm between reshapes, transposed": linear_case(
        "r = Reshape x rows\ng = Gemm r wt b transB=1\nz = Reshape g back3", LINEAR
    ),
    "gemm and a reshape to more dimensions": linear_case(
        "r = Reshape x rows\ng = Gemm r w b\nz = Reshape g back5", LINEAR | {"reshape": 2}
    ),
    "gemm over other rows": linear_case(
        "r = Reshape x flat\ng = Gemm r w6 b\nz = Reshape g back4", LINEAR | {"reshape": 2}
    ),
    "gemm without a reshape behind": linear_case("r = Reshape x rows\nz = Gemm r w b", LINEAR | {"reshape": 1}),
    "gemm between reshapes, its result used twice": linear_case(
        "r = Reshape x rows\ng = Gemm r w b\nz = Reshape g back", LINEAR | {"reshape": 2}, "z g"
    ),
    "gemm between reshapes, its operand used twice": linear_case(
        "r = Reshape x rows\ng = Gemm r w b\nz = Reshape g back", LINEAR | {"reshape": 1}, "z r"
    ),
}

STORED = {"linear": 1, "dequantize": 1}


def stored_case(text: str, left: dict[str, int], *declined: str) -> Case:
    return Case(graph(text), left, list(declined), constants=WEIGHTS)


QUANTIZED = {
    "cast, times a number": stored_case("f = Cast codes to=1\nd = Mul f half\nz = MatMul x d", STORED),
    "a number times cast": stored_case("f = Cast codes to=1\nd = Mul half f\nz = MatMul x d", STORED),
    "cast, times a scale by columns": stored_case("f = Cast codes to=1\nd = Mul f steps\nz = MatMul x d", STORED),
    "cast, times a scale by rows": stored_case("f = Cast codes to=1\nd = Mul f steps_c\nz = MatMul x d", STORED),
    "cast, less a number": stored_case("f = Cast codes to=1\ng = Sub f three\nd = Mul g steps\nz = MatMul x d", STORED),
    "cast, less zero points by rows": stored_case(
        "f = Cast codes to=1\ng = Sub f zeros_c\nd = Mul g steps_c\nz = MatMul x d", STORED
    ),
    "cast, scaled, transposed": stored_case(
        "f = Cast codes_t to=1\nd = Mul f half\nt = Transpose d\nz = MatMul x t", STORED
    ),
    "cast alone": stored_case("f = Cast codes to=1\nz = MatMul x f", STORED),
    "zero points that are no codes": stored_case(
        "f = Cast codes to=1\ng = Sub f half_c\nz = MatMul x g",
        {"matmul": 1, "dequantize": 1, "sub": 1},
        "what is subtracted is no zero point of i8 (-128..127)",
    ),
    "a negative scale": stored_case(
        "f = Cast codes to=1\nd = Mul f steps_n\nz = MatMul x d",
        {"matmul": 1, "dequantize": 1, "mul": 1},
        "the scale is not positive and finite",
    ),
    "zero points by rows, scale by columns": stored_case(
        "f = Cast codes to=1\ng = Sub f zeros_c\nd = Mul g steps\nz = MatMul x d",
        {"matmul": 1, "dequantize": 1, "mul": 1},
        "zero points and scale vary along different axes",
    ),
    "a scale for each element": stored_case(
        "f = Cast codes to=1\nd = Mul f w\nz = MatMul x d",
        {"matmul": 1, "dequantize": 1, "mul": 1},
        "its constant has shape (4, 5)",
    ),
    "a scale from the input": stored_case(
        "f = Cast codes to=1\nd = Mul f e\nz = MatMul x d", {"matmul": 1, "dequantize": 1, "mul": 1}
    ),
}

CASES = {
    f"{family}: {name}": case
    for family, table in (
        ("layer norm", LAYER_NORM),
        ("gelu", GELUS),
        ("tanh gelu", TANH_GELUS),
        ("attention", ATTENTIONS),
        ("linear", LINEARS),
        ("quantized weight", QUANTIZED),
    )
    for name, case in table.items()
}


@pytest.mark.parametrize("name", CASES)
def test_recognise(name: str) -> None:
    case = CASES[name]
    proto, feeds = case.proto(), case.feeds()
    module, declined = import_onnx(proto)
    assert [d.reason for d in declined] == case.declined
    assert opcounts(module) == {op: n for op, n in sorted(case.left.items()) if n}
    expected = run_ort(proto, feeds)
    for dtype in (np.float64, np.float32):
        assert_same(run(module, feeds, float_dtype=dtype), expected)


@pytest.mark.parametrize("name", CASES)
def test_every_source_node_is_named(name: str) -> None:
    proto = CASES[name].proto()
    module, declined = import_onnx(proto)
    names = {name for op in module.walk() for name in sources(op)}
    assert {n.name for n in proto.graph.node} <= names
    assert {d.src for d in declined} <= names


@pytest.mark.parametrize("name", CASES)
def test_the_node_that_makes_a_value_is_named_last(name: str) -> None:
    proto = CASES[name].proto()
    (function,) = import_onnx(proto)[0].ops
    results = function.body.block.last_op.operands
    assert [sources(value.owner)[-1] for value in results] == [output.name for output in proto.graph.output]
