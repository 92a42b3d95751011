"""Modules as files, from Python: write_mlir and read_mlir."""

from pathlib import Path

import numpy as np
import pytest
from data.tool_call import contents
from xdsl.builder import ImplicitBuilder
from xdsl.dialects.builtin import ModuleOp, TensorType, i8
from xdsl.dialects.func import FuncOp, ReturnOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import set_sources
from qvit.tools.common import read_mlir, write_mlir

LARGE = np.arange(100).astype(np.int8)


def program(value: np.ndarray = LARGE) -> ModuleOp:
    """A function that returns a constant."""
    function = FuncOp("main", ([], [TensorType(i8, value.shape)]))
    with ImplicitBuilder(function.body):
        constant = ConstantOp(value)
        set_sources(constant, ["table"])
        ReturnOp(constant)
    return ModuleOp([function])


def result(module: ModuleOp) -> list[int]:
    return run(module, [])["output0"].tolist()


def test_large_tensors_go_beside_the_text(folder: Path) -> None:
    module = program()
    text = str(module)
    write_mlir(module, Path("a.mlir"))
    assert str(module) == text  # the caller's module still holds its constant
    assert contents(folder).keys() == {"a.mlir", "a.safetensors"}
    assert '#qvit.weight_file<"a.safetensors", ' in Path("a.mlir").read_text()
    assert result(read_mlir(Path("a.mlir"))) == LARGE.tolist()


def test_small_ones_stay_in_the_text(folder: Path) -> None:
    write_mlir(program(LARGE[:5]), Path("a.mlir"))
    assert contents(folder).keys() == {"a.mlir"}
    assert str(read_mlir(Path("a.mlir"))) == str(program(LARGE[:5]))


def test_the_file_that_a_module_reads_is_kept(folder: Path) -> None:
    """A second constant goes into a file of its own, and the paths lead from the new text to both."""
    write_mlir(program(), Path("a.mlir"))
    module = read_mlir(Path("a.mlir"))
    function = next(op for op in program(-LARGE).ops)
    function.detach()
    function.properties["sym_name"] = type(module.body.block.first_op.sym_name)("other")  # pyright: ignore
    module.body.block.add_op(function)
    before = Path("a.safetensors").read_bytes()
    write_mlir(module, Path("a.mlir"))
    assert contents(folder).keys() == {"a.mlir", "a.safetensors", "a.1.safetensors"}
    assert Path("a.safetensors").read_bytes() == before
    (folder / "deep").mkdir()
    write_mlir(read_mlir(Path("a.mlir")), Path("deep/b.mlir"))
    assert contents(folder / "deep").keys() == {"b.mlir"}
    again = read_mlir(Path("deep/b.mlir"))
    assert result(again) == LARGE.tolist()
    assert run(again, [], function="other")["output0"].tolist() == (-LARGE).tolist()


def test_nothing_is_left_of_a_failure(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_mlir(program(), Path("nowhere/a.mlir"))
    (folder / "a.mlir").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.mlir"):
        write_mlir(program(), Path("a.mlir"))
    assert contents(folder) == {}
