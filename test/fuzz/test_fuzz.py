"""Damaged models and damaged IR, for a bounded time: whatever is wrong is refused with one line, and never a traceback.

Real files are damaged in their structure (nodes, inputs, attributes, shapes, types; tokens of the text), so that most of
the file still makes sense. QVIT_SEED repeats a run.
"""

import os
import random
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from import_matrix import EXPORTS, load, symbols
from onnx import TensorProto, helper
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import DiagnosticException, ParseError

from qvit.dialects.weights import WeightError
from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx
from qvit.tools.common import InvalidModule, parse_mlir, register_dialects
from qvit.transforms.delay_dequant import delay_dequant

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("QVIT_SEED", random.SystemRandom().randrange(1 << 30)))
SECONDS = float(os.environ.get("QVIT_FUZZ_SECONDS", 60))
PATHS = sorted(path for path in EXPORTS.iterdir() if path.suffix in (".onnx", ".gz") and "external" not in path.name)
TOLD = (
    ImportRefused,
    InvalidModule,
    WeightError,
    ParseError,
    DiagnosticException,
    OverflowError,
    ValueError,
    RecursionError,
)
"""What the tools turn into one line (tools/common.py, guarded)."""

OPERATORS = (
    *("Add", "MatMul", "Reshape", "Transpose", "Softmax", "Gather", "Concat", "Slice", "Cast", "Where", "Pad"),
    *("QuantizeLinear", "DequantizeLinear"),
)
NUMBERS = (-(1 << 40), -2, -1, 0, 1, 2, 3, 7, 1 << 20, 1 << 40)


def rounds(name: str) -> Iterator[tuple[random.Random, int]]:
    """(generator, number) until the time is over."""
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        yield random.Random(f"{SEED} {name} {number}"), number
        number += 1
    assert number > 20


def damage(proto: onnx.ModelProto, rng: random.Random) -> None:
    """One change somewhere in the graph."""
    graph = proto.graph
    node = rng.choice(graph.node)
    names = [name for other in graph.node for name in other.output] + [tensor.name for tensor in graph.initializer]
    match rng.randrange(13):
        case 0 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nowhere"])
        case 1 if node.input:
            del node.input[rng.randrange(len(node.input))]
        case 2:
            node.input.append(rng.choice(names))
        case 3:
            node.op_type = rng.choice([*OPERATORS, rng.choice(graph.node).op_type])
        case 4 if node.attribute:
            attribute = rng.choice(node.attribute)
            changed = helper.make_attribute(
                attribute.name, rng.choice([rng.choice(NUMBERS), 0.5, "text", [1, 2], [rng.choice(NUMBERS)] * 4])
            )
            attribute.CopyFrom(changed)
        case 5 if node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]
        case 6:
            node.attribute.append(
                helper.make_attribute(rng.choice(["axis", "perm", "keepdims", "block_size", "to"]), rng.choice(NUMBERS))
            )
        case 7 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case 8 if graph.initializer:
            rng.choice(graph.initializer).data_type = rng.choice(list(TensorProto.DataType.values()))
        case 9 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            raw = bytearray(tensor.raw_data)
            if raw:
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            tensor.raw_data = bytes(raw[: rng.choice([len(raw), len(raw) // 2])])
        case 10 if graph.initializer:
            del graph.initializer[rng.randrange(len(graph.initializer))]
        case 11:
            dim = rng.choice(rng.choice(graph.input).type.tensor_type.shape.dim or [None])
            if dim is not None:
                dim.dim_value = rng.choice(NUMBERS)
        case _:
            other = rng.choice(graph.node)
            kept = onnx.NodeProto()
            kept.CopyFrom(node)
            node.CopyFrom(other)
            other.CopyFrom(kept)


def context() -> Context:
    made = Context()
    register_dialects(made)
    return made


def read_again(module: ModuleOp) -> None:
    text = str(module)
    assert str(parse_mlir(context(), text, "again", Path())) == text


def test_models() -> None:
    for rng, number in rounds("models"):
        path = rng.choice(PATHS)
        proto = load(path)
        for _ in range(rng.choice([1, 1, 2, 5])):
            damage(proto, rng)
        try:
            with warnings.catch_warnings(action="ignore"):
                module, _ = import_onnx(proto, (), symbols(proto), {})
            read_again(module)
        except ImportRefused as refused:
            if "\n" in str(refused):
                raise AssertionError(f"QVIT_SEED={SEED}, round {number}, {path.name}: several lines") from refused
        except Exception as error:
            raise AssertionError(f"QVIT_SEED={SEED}, round {number}, {path.name}: {error!r}"[:2000]) from error


def test_bytes_of_models() -> None:
    for rng, number in rounds("bytes"):
        path = rng.choice(PATHS)
        content = bytearray(load(path).SerializeToString())
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        try:
            proto = onnx.load_from_string(bytes(content))
        except DecodeError:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                import_onnx(proto, (), symbols(proto), {})
        except (ImportRefused, UnicodeDecodeError):
            pass
        except Exception as error:
            raise AssertionError(f"QVIT_SEED={SEED}, round {number}, {path.name}: {error!r}"[:2000]) from error


def texts() -> list[str]:
    found: list[str] = []
    for name in ("qdq_u8s8_tensor_17.onnx", "qcdq_s4_channel_20.onnx", "vit_dynamo20.onnx.gz"):
        module, _ = import_onnx(load(EXPORTS / name))
        found.append(str(module))
        delay_dequant(module)
        found.append(str(module))
    return found


def damaged(text: str, rng: random.Random) -> str:
    """One token dropped, doubled, moved, or a number changed; or one character."""
    tokens = re.findall(r"\s+|[%@#!]?[\w.\"-]+|.", text)
    i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
    match rng.randrange(6):
        case 0:
            del tokens[i]
        case 1:
            tokens.insert(i, tokens[i])
        case 2:
            tokens[i], tokens[j] = tokens[j], tokens[i]
        case 3:
            numbers = [k for k, token in enumerate(tokens) if re.fullmatch(r"-?\d+", token)]
            tokens[rng.choice(numbers)] = str(rng.choice(NUMBERS))
        case 4:
            tokens[i] = tokens[j]
        case _:
            k = rng.randrange(len(text))
            return text[:k] + chr(rng.randrange(1, 0x250)) + text[k + 1 :]
    return "".join(tokens)


def test_texts() -> None:
    sources = texts()
    for rng, number in rounds("texts"):
        text = rng.choice(sources)
        for _ in range(rng.choice([1, 1, 3])):
            text = damaged(text, rng)
        try:
            with warnings.catch_warnings(action="ignore"):
                module = parse_mlir(context(), text, "damaged.mlir", Path())
                delay_dequant(module)
                module.verify()
                read_again(module)
        except TOLD:
            pass
        except Exception as error:
            raise AssertionError(f"QVIT_SEED={SEED}, round {number}: {error!r}"[:2000]) from error


def test_the_changes_are_small_enough() -> None:
    """Some damaged models are read all the same: else only the first check of the reader would be tested."""
    read = 0
    for number in range(60):
        rng = random.Random(number)
        proto = load(EXPORTS / "qdq_u8s8_tensor_17.onnx")
        damage(proto, rng)
        try:
            import_onnx(proto)
            read += 1
        except ImportRefused:
            pass
    assert 5 < read < 55
