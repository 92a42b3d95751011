"""libFuzzer on emitted programs: no file and no memory makes one read or write beyond what is its own, or do what C leaves
undefined.

Needs clang with its runtime libraries (Debian: libclang-rt-dev). QVIT_FUZZ_SECONDS is the time for each program.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from c_programs import FORMS, compile_c
from integer_graphs import inputs_for, integer_graph
from xdsl.dialects.builtin import ModuleOp

from backends.c import test_fuse
from qvit.backends.c import Sources, emit
from qvit.dialects.semantics.integers import Array

pytestmark = pytest.mark.slow

HARNESS = Path(__file__).with_name("fuzz_program.c")
SECONDS = int(os.environ.get("QVIT_FUZZ_SECONDS", "20"))
BUILD = ("clang", "-std=c11", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")


def random_graph(seed: int) -> tuple[ModuleOp, Sequence[Array]]:
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, 30, FORMS)
    return module, next(iter(inputs_for(module, rng, 1)))


def fused(module: ModuleOp) -> tuple[ModuleOp, Sequence[Array]]:
    return module, test_fuse.inputs(module)


PORTABLE = '-DQVIT_VARIANT="portable"'
PROGRAMS = {
    "attention": lambda: fused(test_fuse.attention()),
    "layer": lambda: fused(test_fuse.layer(held="ui4", zero="")),
    "packed": lambda: fused(test_fuse.narrow("i3", 37, 61)),
    "convolution": lambda: fused(test_fuse.convolution(padding="1, 2, 1, 1")),
    **{f"random {seed}": lambda seed=seed: random_graph(seed) for seed in (3, 8, 21)},
}


def seeds(sources: Sources, inputs: Sequence[Array], folder: Path) -> None:
    """Sound files, for each way of the harness."""
    folder.mkdir()
    files = [sources.weights, *(array.tobytes() for array in inputs)]
    data = b"".join(len(content).to_bytes(2, "little") + content for content in files)
    assert max(map(len, files)) < 1 << 16
    for flags in range(16):
        (folder / f"{flags}").write_bytes(bytes([flags]) + data)


@pytest.mark.parametrize(
    ("name", "flags"),
    [*((name, ()) for name in PROGRAMS), *((name, (PORTABLE,)) for name in PROGRAMS if not name.startswith("random"))],
)
def test_program(name: str, flags: Sequence[str], tmp_path: Path) -> None:
    module, inputs = PROGRAMS[name]()
    sources = emit(module)
    sources.write(tmp_path, array=True)
    seeds(sources, inputs, tmp_path / "seeds")
    compile_c([*BUILD, *flags, "-I.", "-o", "fuzz", str(HARNESS), "model.c", "weights.c"], tmp_path)
    arguments = (
        f"-max_total_time={SECONDS}",
        "-max_len=40000",
        "-rss_limit_mb=2048",
        "-timeout=20",
        "-print_final_stats=1",
    )
    done = subprocess.run(
        ["./fuzz", *arguments, "seeds"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (count,) = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    assert int(count) > 100
