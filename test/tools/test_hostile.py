"""Files that ask for more than a machine has, full disks, and Ctrl-C: one line, exit status 1, nothing written or lost."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from data.onnx_build import graph, model, node

from qvit.tools import qvit_opt

FEEDS = {"x": np.zeros((2, 3), np.float32)}
HUGE = np.array([1 << 40], np.int64)
TOOL = [sys.executable, "-m", "qvit.tools.qvit_opt"]


def with_dims(dims: list[int]) -> onnx.ModelProto:
    proto = model(graph("y = Add x w"), FEEDS, "y", {"w": np.zeros((2, 3), np.float32)})
    proto.graph.initializer[0].dims[:] = dims
    return proto


def constants(**values: np.ndarray) -> dict[str, np.ndarray]:
    return values


MODELS = {
    "ConstantOfShape": (
        model(graph("c = ConstantOfShape s\ny = Add x c"), FEEDS, "y", {"s": HUGE}),
        "node 'c' (ConstantOfShape): its result would have 4,398,046,511,104 bytes",
    ),
    "Expand": (
        model(graph("c = Expand k s\ny = Add x c"), FEEDS, "y", {"k": np.zeros(1, np.float32), "s": HUGE}),
        "node 'c' (Expand): its result would have 4,398,046,511,104 bytes",
    ),
    "Tile": (
        model(graph("c = Tile k s\ny = Add x c"), FEEDS, "y", {"k": np.zeros(1, np.float32), "s": HUGE}),
        "node 'c' (Tile): its result would have 4,398,046,511,104 bytes",
    ),
    "Range": (
        model(
            graph("c = Range a b d\nf = Cast c to=1\ny = Add x f"),
            FEEDS,
            "y",
            {"a": np.array(0, np.int64), "b": np.array(1 << 45, np.int64), "d": np.array(1, np.int64)},
        ),
        "node 'c' (Range): its result would have 281,474,976,710,656 bytes",
    ),
    "Pad": (
        model([node("Pad", "x s", "y")], FEEDS, "y", {"s": np.array([0, 0, 1 << 45, 0], np.int64)}),
        "node 'y' (Pad): it breaks the rules of its operator (MemoryError",
    ),
    "initializer": (with_dims([1 << 60, 1 << 60]), "initializer 'w' cannot be read"),
    "negative dimensions": (with_dims([-2, -3]), "initializer 'w' cannot be read"),
}

TEXTS = {
    # of which a lexer that tries every way to divide them would not come back
    "string without an end": (
        f'func.func @main() {{\n  "{"long" * 100}\n  func.return\n}}',
        "model.mlir:2:3: the string that begins here has no end",
    ),
    "string with a wrong escape": (
        f'"a" "{"long" * 100}\\q"',
        "model.mlir:1:5: the string that begins here has no end",
    ),
    "string at the end": (
        '// "here a quote is a comment\n  "',
        "model.mlir:2:3: the string that begins here has no end",
    ),
    "regions": ('"test.op"() ({\n' * 5000 + "}) : () -> ()\n" * 5000, "nested too deeply"),
    "types": (f"func.func @f(%x: {'tuple<' * 20000}i32{'>' * 20000}) {{ func.return }}", "nested too deeply"),
    "attributes": (f'"test.op"() {{a = {"[" * 20000}{"]" * 20000}}} : () -> ()', "nested too deeply"),
    "digits": (f'"test.op"() {{a = {"9" * 1_000_000} : i64}} : () -> ()', "limit (4300 digits)"),
    "quote": ('"unclosed ' + "x y z\n" * 200_000, "model.mlir:1:1: the string that begins here has no end"),
    "complex number": ('"test.op"() {a = dense<(1.0, 2.0, 3.0> : tensor<1xf32>} : () -> ()', "model.mlir:1"),
    "NUL": ("func.func @main() {\0 func.return }", "Unexpected character"),
    "dimensions": (
        '%c = "test.op"() : () -> tensor<99999999999x99999999999xf32>\n'
        "%y = qvit.concat %c, %c axis 0 : (tensor<99999999999x99999999999xf32>, tensor<99999999999x99999999999xf32>)"
        " -> tensor<1x1xf32>",
        "",
    ),
}


def refused(folder: Path, name: str, *arguments: str) -> str:
    """The one line of a run that has to fail, and to leave nothing behind."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = [*TOOL, name, "-o", "out.mlir", *arguments]
    # 12 GB of address space: what should be refused does not get to swap
    limit = 12 << 30
    run = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert run.returncode == 1, run.stderr
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1, run.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return run.stderr


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: Path) -> None:
    proto, says = MODELS[name]
    onnx.save(proto, tmp_path / "model.onnx")
    assert says in refused(tmp_path, "model.onnx")


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, tmp_path: Path) -> None:
    text, says = TEXTS[name]
    (tmp_path / "model.mlir").write_text(text)
    assert says in refused(tmp_path, "model.mlir")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.mlir").write_bytes(b"func.func @main() {\xff func.return }")
    assert "can't decode byte 0xff" in refused(tmp_path, "model.mlir")


def test_a_long_chain_is_read(tmp_path: Path) -> None:
    """No recursion over the nodes."""
    nodes = [node("Relu", f"v{i}" if i else "x", f"v{i + 1}") for i in range(3000)]
    onnx.save(model(nodes, FEEDS, "v3000"), tmp_path / "model.onnx")
    subprocess.run([*TOOL, "model.onnx", "-o", "out.mlir"], cwd=tmp_path, check=True)


def weighty(folder: Path, layers: int = 1) -> None:
    """A model whose weights go into a file of their own."""
    weights = {f"w{i}": np.random.default_rng(i).normal(size=(300, 300)).astype(np.float32) for i in range(layers)}
    text = "\n".join(f"v{i + 1} = MatMul {f'v{i}' if i else 'x'} w{i}" for i in range(layers))
    proto = model(graph(text), {"x": np.zeros((2, 300), np.float32)}, f"v{layers}", weights)
    onnx.save(proto, folder / "model.onnx")


def test_disk_full(tmp_path: Path) -> None:
    """No file may grow beyond 50 kB: the weights do not fit. What was there stays."""
    weighty(tmp_path)
    (tmp_path / "out.mlir").write_text("precious\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    run = subprocess.run(
        [*TOOL, "model.onnx", "-o", "out.mlir"], cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files
    )
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("qvit-opt: error: ")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_standard_output_full(tmp_path: Path) -> None:
    (tmp_path / "model.mlir").write_text("func.func @main() { func.return }")
    with open("/dev/full", "w") as full:
        run = subprocess.run([*TOOL, "model.mlir"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert "No space left on device" in run.stderr.splitlines()[0]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def interrupted_while_writing(_: object, __: Path, temporary: Path) -> None:
    temporary.write_bytes(b"half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("moment", "stroke"),
    [
        ("qvit.frontends.onnx.import_onnx", interrupted),
        ("qvit.transforms.delay_dequant.DelayDequantPass.run", interrupted),
        ("qvit.tools.opt_driver.externalize", interrupted_while_writing),
        ("qvit.tools.opt_driver.QvitOpt.output_resulting_program", interrupted),
    ],
    ids=["reading", "in a pass", "writing weights", "printing"],
)
def test_interrupted(
    moment: str,
    stroke: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C at each stage, where Python raises it."""
    weighty(tmp_path)
    (tmp_path / "out.mlir").write_text("precious\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(moment, stroke)
    monkeypatch.chdir(tmp_path)
    assert qvit_opt.main(["model.onnx", "--delay-dequant", "-o", "out.mlir"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "qvit-opt: interrupted"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_control_c_on_a_terminal(tmp_path: Path) -> None:
    """A real signal, once the program reads its input."""
    os.mkfifo(tmp_path / "model.mlir")
    process = subprocess.Popen(
        [*TOOL, "model.mlir", "-o", "out.mlir"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with open(tmp_path / "model.mlir", "w"):  # opens when the other end is opened: the program waits for a text
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (1, "qvit-opt: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlir"]
