"""The extension as its users have it: installed, through the tools and in Python."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qvit_npu.map_to_npu import MapToNpuPass
from xdsl.context import Context

from qvit.backends.interpreter import run, trace_names
from qvit.tools.common import read_mlir

PRODUCTS = """
func.func @main(%x: tensor<3x4xi8>, %k: tensor<2x4x6xi8>, %q: tensor<2x3x4xi8>, %u: tensor<3x4xui8>)
    -> (tensor<3x6xi32>, tensor<2x3x6xi32>, tensor<3x3xi32>, tensor<3x6xi32>) {
  %w = qvit.constant dense<7> : tensor<6x4xi8>
  %b = qvit.constant dense<-5> : tensor<6xi32>
  %v = qvit.constant dense<3> : tensor<3x4xi8>
  %l = qvit.linear %x, %w, %b {qvit.src = ["fc"]} : (tensor<3x4xi8>, tensor<6x4xi8>, tensor<6xi32>) -> tensor<3x6xi32>
  %m = qvit.matmul %q, %k {qvit.src = ["qk"]} : (tensor<2x3x4xi8>, tensor<2x4x6xi8>) -> tensor<2x3x6xi32>
  %n = qvit.linear %x, %v {qvit.src = ["odd"]} : (tensor<3x4xi8>, tensor<3x4xi8>) -> tensor<3x3xi32>
  %z = qvit.linear %u, %w {qvit.src = ["ui8"]} : (tensor<3x4xui8>, tensor<6x4xi8>) -> tensor<3x6xi32>
  func.return %l, %m, %n, %z : tensor<3x6xi32>, tensor<2x3x6xi32>, tensor<3x3xi32>, tensor<3x6xi32>
}
"""
MAPPED = [
    'npu.tile_matmul %x, %w tile 2 {qvit.src = ["fc"]} : (tensor<3x4xi8>, tensor<6x4xi8>) -> tensor<3x6xi32>',
    'npu.tile_matmul %q, %m tile 2 {qvit.src = ["qk"]} : (tensor<2x3x4xi8>, tensor<2x6x4xi8>) -> tensor<2x3x6xi32>',
]
LEFT = [
    "remark: odd: linear-to-npu: 3 outputs of depth 4 are no multiples of the tile 2",
    "remark: ui8: linear-to-npu: input is of ui8, the unit takes i8",
]


@pytest.fixture
def products(tmp_path: Path) -> Path:
    file = tmp_path / "products.mlir"
    file.write_text(PRODUCTS)
    return file


def tool(name: str, *arguments: str, folder: Path) -> tuple[str, str]:
    """(stdout, stderr)"""
    program = Path(sys.executable).parent / name
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "command", [("qvit-opt", "--map-to-npu=tile=2"), ("xdsl-opt", "-p", "map-to-npu{tile=2}")], ids=lambda c: c[0]
)
def test_both_drivers_run_the_pass(products: Path, command: tuple[str, ...]) -> None:
    out, err = tool(command[0], products.name, *command[1:], folder=products.parent)
    assert [line.split(" = ", 1)[1] for line in out.splitlines() if "npu." in line] == MAPPED
    assert err.splitlines() == LEFT


def test_qvit_opt_lists_and_describes_the_pass(tmp_path: Path) -> None:
    assert "of the extensions too: npu\n" in tool("qvit-opt", "--help", folder=tmp_path)[0]
    listed = tool("qvit-opt", "--list-passes", folder=tmp_path)[0].splitlines()
    assert listed[-1].split(maxsplit=1) == ["--map-to-npu", (MapToNpuPass.__doc__ or "").splitlines()[0]]
    assert "  tile=int (default 16)" in tool("qvit-opt", "--help-pass", "map-to-npu", folder=tmp_path)[0]


def test_the_integers_and_their_names_are_the_same(products: Path) -> None:
    rng = np.random.default_rng(0)
    codes = [rng.integers(-128, 128, shape) for shape in ((3, 4), (2, 4, 6), (2, 3, 4))]
    inputs = [*codes, rng.integers(0, 256, (3, 4))]
    module = read_mlir(products)
    before = run(module, inputs)
    MapToNpuPass(tile=2).apply(Context(), module)
    module.verify()
    assert sum(op.name == "npu.tile_matmul" for op in module.walk()) == len(MAPPED)
    for name, array in run(module, inputs).items():
        np.testing.assert_array_equal(array, before[name])
    assert {name for names in trace_names(module).values() for name in names} == {"fc", "qk", "odd", "ui8"}


def test_qvit_run_executes_the_operation(tmp_path: Path) -> None:
    (tmp_path / "square.mlir").write_text("""
func.func @main(%a: tensor<2x2xi8>) -> tensor<2x2xi32> {
  %c = npu.tile_matmul %a, %a tile 2 : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi32>
  func.return %c : tensor<2x2xi32>
}
""")
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3, 4]]))
    tool("qvit-run", "square.mlir", "--input", "a.npy", "--output", "c.npy", folder=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), [[5, 11], [11, 25]])


def test_operands_fit_the_tile(tmp_path: Path) -> None:
    (tmp_path / "wrong.mlir").write_text("""
func.func @main(%a: tensor<2x3xi8>) -> tensor<2x2xi32> {
  %c = npu.tile_matmul %a, %a tile 2 : (tensor<2x3xi8>, tensor<2x3xi8>) -> tensor<2x2xi32>
  func.return %c : tensor<2x2xi32>
}
""")
    with pytest.raises(Exception, match="rhs: expected multiples of the tile 2, found 2 x 3"):
        read_mlir(tmp_path / "wrong.mlir")
