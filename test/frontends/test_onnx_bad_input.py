"""Models that cannot be read: each is an ImportRefused of one line that says where and what to do, and nothing else."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from data.onnx_build import graph, model
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qvit.backends.interpreter import input_names, run
from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx, load_onnx

FEEDS = {"x": np.ones((2, 3), np.float32)}
WEIGHTS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "v": np.ones((4, 5), np.float32)}


def small(text: str = "y = MatMul x w\nz = Relu y", outputs: str = "z", **options: Any) -> onnx.ModelProto:
    nodes = graph(text)
    wanted = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in WEIGHTS.items() if name in wanted}
    return model(nodes, FEEDS, outputs, constants, **options)


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(ImportRefused) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- files ---

BYTES = small().SerializeToString()
FILES = {
    "empty": pytest.param(b"", "is not an ONNX model"),
    "text": (b"hello, this is no model\n", "is not an ONNX model, or is damaged"),
    "IR": (b"builtin.module {\n}\n", "is not an ONNX model, or is damaged"),
    "one byte": (BYTES[:1], "is not an ONNX model, or is damaged"),
    "half": (BYTES[: len(BYTES) // 2], "is not an ONNX model, or is damaged"),
    "last byte missing": (BYTES[:-1], "is not an ONNX model, or is damaged"),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES)
def test_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    message = refusal(lambda: import_onnx(load_onnx(path)))
    assert says in message
    assert str(path) in message


def external(folder: Path) -> tuple[Path, Path]:
    """A model with its weights in a second file."""
    path = folder / "model.onnx"
    onnx.save(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path, folder / "weights.bin"


def test_external_data_is_read(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    (found,) = run(import_onnx(load_onnx(path))[0], FEEDS).values()
    np.testing.assert_array_equal(found, FEEDS["x"] @ WEIGHTS["w"])


def test_external_data_is_missing(tmp_path: Path) -> None:
    path, weights = external(tmp_path)
    weights.unlink()
    message = refusal(lambda: load_onnx(path))
    assert message.startswith(f"{path}: external data cannot be read")
    assert str(weights) in message


def test_external_data_is_cut_off(tmp_path: Path) -> None:
    path, weights = external(tmp_path)
    os.truncate(weights, 7)
    assert refusal(lambda: load_onnx(path)).startswith(f"{path}: external data cannot be read")


def test_external_data_was_not_loaded(tmp_path: Path) -> None:
    path, _ = external(tmp_path)
    assert "'w'" in refusal(lambda: import_onnx(onnx.load(path, load_external_data=False)))


# --- what the caller asks for ---


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "/fc1/MatMul_output_1",
            "the graph has no tensor '/fc1/MatMul_output_1'; did you mean ",
        ),
        ("completely", "the graph has no tensor 'completely'; list its tensors"),
        ("", "the graph has no tensor ''"),
    ],
)
def test_no_such_output(name: str, says: str) -> None:
    proto = small("/fc1/MatMul_output_0 = MatMul x w\nz = Relu /fc1/MatMul_output_0")
    message = refusal(lambda: import_onnx(proto, outputs=[name]))
    assert says in message
    assert ("/fc1/MatMul_output_0" in message) == ("did you mean" in says)


@pytest.mark.parametrize(
    ("outputs", "shapes"),
    [(["y"], [(2, 4)]), (["z", "y"], [(2, 4), (2, 4)]), (["x"], [(2, 3)]), (["w"], [(3, 4)])],
    ids=str,
)
def test_outputs(outputs: list[str], shapes: list[tuple[int, ...]]) -> None:
    module, _ = import_onnx(small(), outputs=outputs)
    results = run(module, FEEDS)
    assert list(results) == outputs
    assert [array.shape for array in results.values()] == shapes


DYNAMIC = {"x": ["batch", "seq_len"]}
DIMS = {
    "none": ({}, "input 'x' has the dynamic dimension 'batch'; fix it with --dim batch=1"),
    "one of two": ({"batch": 2}, "input 'x' has the dynamic dimension 'seq_len'; fix it with --dim seq_len=1"),
    "misspelt": ({"bacth": 2, "seq_len": 3}, "input 'x' has the dynamic dimension 'batch'; fix it with --dim batch=1"),
    "one too many": ({"batch": 2, "seq_len": 3, "heads": 1}, "no input has the dimension 'heads'; its dimensions are"),
}


@pytest.mark.parametrize(("dims", "says"), DIMS.values(), ids=DIMS)
def test_dynamic_dimensions(dims: dict[str, int], says: str) -> None:
    message = refusal(lambda: import_onnx(small(dims=DYNAMIC), dims=dims))
    assert says in message


def test_dynamic_dimensions_fixed() -> None:
    module, _ = import_onnx(small(dims=DYNAMIC), dims={"batch": 2, "seq_len": 3})
    assert run(module, FEEDS)["z"].shape == (2, 4)


def test_dimension_of_a_static_model() -> None:
    assert "no input has the dimension 'batch'; its dimensions are all static" in refusal(
        lambda: import_onnx(small(), dims={"batch": 1})
    )


@pytest.mark.parametrize("size", [None, 0, -1])
def test_dimension_without_a_name(size: Any) -> None:
    message = refusal(lambda: import_onnx(small(dims={"x": [size, 3]})))
    assert message.startswith("input 'x' has the dynamic dimension")
    assert "export the model with static shapes" in message


# --- the model as a whole ---


def change(edit: Callable[[onnx.ModelProto], Any], **options: Any) -> onnx.ModelProto:
    proto = small(**options)
    edit(proto)
    return proto


def opset(version: int) -> onnx.ModelProto:
    return change(lambda m: setattr(m.opset_import[0], "version", version))


def weight(array: np.ndarray) -> onnx.ModelProto:
    return change(lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w")))


def element(kind: int) -> onnx.ModelProto:
    return change(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", kind))


def then(op: str = "Relu", **attributes: Any) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(op, ["x"], ["q"], **attributes)], "then", [], [helper.make_empty_tensor_value_info("q")]
    )


def branch() -> onnx.ModelProto:
    node = helper.make_node("If", ["c"], ["z"], "choice", then_branch=then(), else_branch=then("Neg"))
    return model([node], {**FEEDS, "c": np.array(True)}, "z")


def with_attribute(attribute: AttributeProto) -> onnx.ModelProto:
    return change(lambda m: m.graph.node[1].attribute.append(attribute))


def sequence(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def swapped(text: str) -> onnx.ModelProto:
    """The lines of `text` in the wrong order."""
    return small("\n".join(reversed(text.splitlines())))


MODELS: dict[str, Any] = {
    "opset 10": (opset(10), "the model uses opset 10, expected 11 to 23; convert it"),
    "opset 0": (opset(0), "the model uses opset 0, expected 11 to 23; convert it"),
    "opset 99": (opset(99), "the model uses opset 99, expected 11 to 23; convert it"),
    "no opset": (change(lambda m: m.ClearField("opset_import")), "opset"),
    "unknown operator": (small("y = Selu x\nz = Relu y"), "node 'y' (Selu): this operator is not read"),
    "unknown domain": (
        change(lambda m: setattr(m.graph.node[0], "domain", "my.ops")),
        "node 'y' (MatMul): this operator is not read",
    ),
    "control flow": (branch(), "node 'choice' (If): control flow is not read"),
    "attribute of a function": (
        with_attribute(AttributeProto(name="a", type=AttributeProto.FLOAT, ref_attr_name="alpha")),
        "node 'z' (Relu): control flow is not read",
    ),
    "initializer missing": (
        change(lambda m: m.graph.initializer.pop()),
        "node 'y' (MatMul): nothing makes its input 'w'",
    ),
    "initializer cut off": (
        change(lambda m: setattr(m.graph.initializer[0], "raw_data", b"123")),
        "initializer 'w' cannot be read",
    ),
    "initializer of another size": (
        change(lambda m: m.graph.initializer[0].dims.append(9)),
        "initializer 'w' cannot be read",
    ),
    "initializer of no type": pytest.param(
        change(lambda m: setattr(m.graph.initializer[0], "data_type", 99)), "initializer 'w'"
    ),
    "initializer of float16": pytest.param(weight(np.ones((3, 4), np.float16)), "'w'"),
    "initializer of bfloat16": pytest.param(weight(np.ones((3, 4), "bfloat16")), "'w'"),
    "initializer of float64": pytest.param(weight(np.ones((3, 4))), "'y'"),
    "initializer of strings": pytest.param(weight(np.array([["a"]], object)), "'w'"),
    "input of float16": (element(TensorProto.FLOAT16), "input 'x': no element type for NumPy's float16; convert"),
    "input of strings": (element(TensorProto.STRING), "input 'x': no element type"),
    "input of int4": (element(TensorProto.INT4), "input 'x': no element type"),
    "input of int64": (element(TensorProto.INT64), "node 'y' (MatMul): input 0 has elements of type i64"),
    "input of no type": pytest.param(element(0), "input 'x'"),
    "input of an unknown type": pytest.param(element(99), "input 'x'"),
    "input that is a sequence": pytest.param(change(sequence), "input 'x'"),
    "input without a shape": pytest.param(
        change(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        "input 'x'",
    ),
    "nodes in a circle": pytest.param(small("y = Add x z\nz = Relu y"), "'y'"),
    "output that the operator does not have": pytest.param(small("y m = Relu x\nz = Relu m"), "'m'"),
    "mask of a Dropout": pytest.param(small("y m = Dropout x\nz = Relu m"), "'m'"),
    "shapes that contradict each other": pytest.param(
        model(graph("y = Relu x\nz = Reshape y s"), FEEDS, "z", {"s": np.array([7], np.int64)}),
        "node 'z' (Reshape)",
    ),
    "no outputs": pytest.param(change(lambda m: m.graph.ClearField("output")), "output"),
    "an operator that is no text": pytest.param(
        onnx.ModelProto.FromString(
            small("t = Trilu w\nz = MatMul x t").SerializeToString().replace(b"Trilu", b"Tri\xfeu")
        ),
        "node 't'",
    ),
    "a name that is no text": pytest.param(
        onnx.ModelProto.FromString(
            small("ynode = MatMul x w\nz = Relu ynode").SerializeToString().replace(b"ynode", b"\xffnode")
        ),
        "node",
    ),
}


@pytest.mark.parametrize(("proto", "says"), MODELS.values(), ids=MODELS)
def test_model(proto: onnx.ModelProto, says: str) -> None:
    assert says in refusal(lambda: import_onnx(proto))


def test_the_domain_is_named() -> None:
    assert "my.ops" in refusal(lambda: import_onnx(change(lambda m: setattr(m.graph.node[0], "domain", "my.ops"))))


# --- unusual, but right ---


def test_the_default_domain_has_two_names() -> None:
    proto = small("y = MatMul x w")
    proto.graph.node[0].domain = "ai.onnx"
    np.testing.assert_array_equal(run(import_onnx(proto, outputs=["y"])[0], FEEDS)["y"], FEEDS["x"] @ WEIGHTS["w"])


def test_constants_of_the_default_domain_by_its_other_name() -> None:
    proto = small("t = Transpose w\nu = Transpose t\ny = MatMul x u", "y")
    for node in proto.graph.node:
        node.domain = "ai.onnx"
    np.testing.assert_array_equal(run(import_onnx(proto)[0], FEEDS)["y"], FEEDS["x"] @ WEIGHTS["w"])


def test_nodes_out_of_order() -> None:
    """onnxruntime sorts them."""
    proto = swapped("y = MatMul x w\nz = Relu y")
    np.testing.assert_array_equal(run(import_onnx(proto)[0], FEEDS)["z"], FEEDS["x"] @ WEIGHTS["w"])


def listed_as_inputs() -> onnx.ModelProto:
    """Before IR version 4, initializers were inputs too."""
    proto = small("y = MatMul x w\nz = MatMul y v")
    proto.ir_version = 3
    for name, array in WEIGHTS.items():
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    return proto


def test_initializers_that_are_inputs() -> None:
    module, _ = import_onnx(listed_as_inputs())
    assert input_names(next(iter(module.ops))) == ["x"]


def test_initializers_that_are_inputs_of_a_part_that_is_cut_off() -> None:
    module, _ = import_onnx(listed_as_inputs(), outputs=["y"])
    assert input_names(next(iter(module.ops))) == ["x"]


def test_large_int64() -> None:
    """A constant that does not fit 32 bits is kept, or refused."""
    proto = model(graph("y = Relu x\nk = Identity n"), FEEDS, "y k", {"n": np.array([1 << 40], np.int64)})
    try:
        module, _ = import_onnx(proto)
    except ImportRefused:
        return
    assert run(module, FEEDS)["k"].tolist() == [1 << 40]


@pytest.mark.parametrize("text", ["r = RandomNormal shape=[2,4]", "r = RandomNormalLike w"])
def test_random_numbers_are_no_constants(text: str) -> None:
    assert "node 'r'" in refusal(lambda: import_onnx(small(f"{text}\nz = Add x r")))


def test_the_model_is_not_changed() -> None:
    proto = small()
    import_onnx(proto)
    assert proto == small()


# --- any damage ---

MANY_OPERATORS = """
xq = QuantizeLinear image s z
xd = DequantizeLinear xq s z
kd = DequantizeLinear kernel steps - axis=0
c = Conv xd kd strides=[1,1] pads=[0,0,0,0] group=1
r = Reshape c shape
t = Transpose r perm=[0,2,1]
m = MatMul t w
a = Add m b
n = LayerNormalization a g b axis=-1 epsilon=0.001
e = Gather n picked axis=1
f = Slice e first second axis
h i = Split f axis=2 num_outputs=2
q = Concat h i axis=-1
p = Softmax q axis=1
u = Unsqueeze p axis
mean = ReduceMean u axis keepdims=0
size = Shape mean
same = Cast size to=7
y = Reshape mean same
"""


def many_operators() -> onnx.ModelProto:
    constants = {
        "kernel": np.ones((3, 2, 2, 2), np.int8),
        "steps": np.array([0.1, 0.2, 0.3], np.float32),
        "s": np.array(0.02, np.float32),
        "z": np.array(3, np.uint8),
        "shape": np.array([0, 3, -1], np.int64),
        **{name: np.ones(4, np.float32) for name in ("b", "g")},
        "w": np.ones((3, 4), np.float32),
        "picked": np.array([1, 0], np.int64),
        **{name: np.array([i], np.int64) for name, i in (("first", 0), ("second", 2), ("axis", 1))},
    }
    return model(graph(MANY_OPERATORS), {"image": np.ones((1, 2, 4, 4), np.float32)}, "y", constants, opset=18)


def flipped(content: bytes, seed: int) -> bytes:
    """The content with one to four bits flipped."""
    source = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(source.choice([1, 1, 2, 4])):
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of arithmetic on damaged constants
def test_flipped_bits(tmp_path: Path) -> None:
    content = many_operators().SerializeToString()
    path = tmp_path / "model.onnx"
    outcomes: dict[str, list[int]] = {}
    for seed in range(300):
        path.write_bytes(flipped(content, seed))
        try:
            import_onnx(load_onnx(path))
            outcome = "read"
        except ImportRefused as error:
            outcome = "refused" if "\n" not in str(error) else "refused in several lines"
        except Exception as error:
            outcome = repr(error)
        outcomes.setdefault(outcome, []).append(seed)
    assert outcomes.keys() == {"read", "refused"}, outcomes


# --- the reader without onnx ---


@pytest.mark.parametrize("module", ["qvit.frontends", "qvit.frontends.onnx", "qvit.frontends.recognise"])
def test_onnx_is_imported_only_to_read(module: str) -> None:
    code = f"import sys, {module}; print(*{{'onnx', 'torch', 'google.protobuf'}} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_onnx_is_not_installed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from pathlib import Path\n"
        "from qvit.frontends.errors import ImportRefused\n"
        "from qvit.frontends.onnx import load_onnx\n"
        "try: load_onnx(Path('model.onnx'))\n"
        "except ImportRefused as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'qvit[onnx]'" in done.stdout
