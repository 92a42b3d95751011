"""Extensions that are right, and those that are broken: which names they bring, and that nothing else suffers."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from data.tool_call import Tool

from qvit.backends import interpreter
from qvit.tools.extensions import extensions

PROGRAM = "func.func @main() {\n  func.return\n}\n"

SOURCE = """
from dataclasses import dataclass
import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Dialect
from xdsl.irdl import IRDLOperation, irdl_op_definition, result_def
from xdsl.passes import ModulePass
from xdsl.universe import Universe
from xdsl.utils.target import Target

@irdl_op_definition
class SevenOp(IRDLOperation):
    name = "toy.seven"
    result = result_def(TensorType)
    assembly_format = "attr-dict `:` type($result)"

@dataclass(frozen=True)
class RenamePass(ModulePass):
    '''Rename every function.

    More of it.
    '''
    name = "toy-rename"
    to: str = "toy"
    def apply(self, ctx, op):
        for function in op.ops:
            function.properties["sym_name"] = type(function.sym_name)(self.to)

@dataclass(frozen=True)
class CountTarget(Target):
    name = "toy-count"
    def emit(self, ctx, module, output):
        print(len(list(module.walk())), "operations", file=output)

def broken():
    import no_such_module

RIGHT = Universe(
    all_dialects={"toy": lambda: Dialect("toy", [SevenOp])},
    all_passes={"toy-rename": lambda: RenamePass},
    all_targets={"toy-count": lambda: CountTarget},
)
HALF = Universe(all_passes={"toy-rename": lambda: RenamePass, "toy-broken": broken})
PASS_TAKEN = Universe(all_passes={"toy-new": lambda: RenamePass, "cse": lambda: RenamePass})
OUR_DIALECT = Universe(all_dialects={"qvit": broken})
XDSL_DIALECT = Universe(all_dialects={"arith": broken})
TARGET_TAKEN = Universe(all_targets={"mlir": lambda: CountTarget})
NO_UNIVERSE = "toy"
TABLE = {SevenOp: lambda machine, op: np.full(op.result.type.get_shape(), 7)}
"""


@pytest.fixture
def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install toy.py with these entry points, and forget the extensions that were loaded before, and afterwards."""
    caches = extensions, interpreter._of_extensions  # pyright: ignore[reportPrivateUsage]

    def forget() -> None:
        sys.modules.pop("toy", None)
        for cache in caches:
            cache.cache_clear()

    def put(*universes: str, table: str = "") -> None:
        (folder / "toy.py").write_text(SOURCE)
        (folder / "toy-1.0.dist-info").mkdir()
        (folder / "toy-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        groups = ["[xdsl.universe]", *(f"{name.lower().replace(':', '_')} = {target(name)}" for name in universes)]
        groups += ["[qvit.interpreter]", f"toy = {target(table)}"] if table else []
        (folder / "toy-1.0.dist-info/entry_points.txt").write_text("\n".join(groups))
        monkeypatch.syspath_prepend(folder)
        forget()

    yield put
    forget()


def target(name: str) -> str:
    return name if ":" in name else f"toy:{name}"


def test_its_passes_are_flags(opt: Tool, install: Callable[..., None]) -> None:
    install("RIGHT")
    assert "func.func @toy()" in opt("--toy-rename", stdin=PROGRAM).succeeded()
    assert "func.func @a()" in opt("--cse", "--toy-rename=to=a", stdin=PROGRAM).succeeded()
    assert "func.func @b()" in opt("-p", "toy-rename{to=b},cse", stdin=PROGRAM).succeeded()


def test_its_passes_are_described(opt: Tool, install: Callable[..., None]) -> None:
    install("RIGHT")
    lines = opt("--list-passes").succeeded().splitlines()
    assert lines[-1].split(maxsplit=1) == ["--toy-rename", "Rename every function."]
    assert len({line.index(line.split()[1]) for line in lines}) == 1
    assert opt("--help-pass", "toy-rename").succeeded().splitlines()[2:] == [
        "Rename every function.",
        "",
        "More of it.",
        "",
        "options:",
        "  to=str (default toy)",
    ]


def test_mistakes_are_said_as_of_our_own_passes(opt: Tool, install: Callable[..., None]) -> None:
    install("RIGHT")
    assert "did you mean --toy-rename?" in opt("--toy-renam", stdin=PROGRAM).failed(2)
    assert "did you mean toy-rename?" in opt("-p", "toy-renam", stdin=PROGRAM).failed(2)
    assert "--toy-rename has no option from" in opt("--toy-rename=from=a", stdin=PROGRAM).failed(2)


def test_its_targets(opt: Tool, install: Callable[..., None]) -> None:
    install("RIGHT")
    assert opt("-t", "toy-count", stdin=PROGRAM).succeeded() == "3 operations\n"


SEVEN = """func.func @main() -> tensor<2xi8> {
  %a = toy.seven : tensor<2xi8>
  func.return %a : tensor<2xi8>
}
"""


def test_its_operations_run(opt: Tool, run: Tool, folder: Path, install: Callable[..., None]) -> None:
    install("RIGHT", table="TABLE")
    opt("-o", "seven.mlir", stdin=SEVEN).succeeded()
    run("seven.mlir", "--output", "a.npy").succeeded()
    np.testing.assert_array_equal(np.load("a.npy"), [7, 7])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "toy.seven: the interpreter does not know toy.seven"),
        ("NO_TABLE", "the extension toy (toy:NO_TABLE) cannot be loaded: module 'toy' has no attribute 'NO_TABLE'"),
    ],
)
def test_operations_that_nobody_can_run(
    run: Tool, folder: Path, install: Callable[..., None], table: str, says: str
) -> None:
    install("RIGHT", table=table)
    (folder / "seven.mlir").write_text(SEVEN)
    assert says in run("seven.mlir").failed()


LEFT_OUT = {
    "PASS_TAKEN": "the pass cse is there already",
    "OUR_DIALECT": "the dialect qvit is there already",
    "XDSL_DIALECT": "the dialect arith is there already",
    "TARGET_TAKEN": "the target mlir is there already",
    "NO_UNIVERSE": "toy:NO_UNIVERSE is no xdsl.universe.Universe",
    "missing:UNIVERSE": "No module named 'missing'",
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_broken_one_is_left_out_with_a_note(opt: Tool, install: Callable[..., None], name: str) -> None:
    install("RIGHT", name)
    done = opt("--toy-rename", stdin=PROGRAM)
    assert (done.status, "@toy()" in done.out) == (0, True)
    assert done.err == f"note: the extension {name.lower().replace(':', '_')} is left out: {LEFT_OUT[name]}\n"
    assert "toy-new" not in opt("--list-passes").out


def test_of_two_that_bring_one_name_the_first_stays(opt: Tool, install: Callable[..., None]) -> None:
    install("RIGHT", "HALF")
    done = opt("--toy-rename", stdin=PROGRAM)
    assert done.err == "note: the extension right is left out: the pass toy-rename is there already\n"


def test_a_pass_that_cannot_be_imported(opt: Tool, install: Callable[..., None]) -> None:
    install("HALF")
    says = "the extension's pass toy-broken cannot be loaded: No module named 'no_such_module'"
    assert says in opt("--toy-broken", stdin=PROGRAM).failed()
    assert "@toy()" in opt("--toy-rename", stdin=PROGRAM).succeeded()
