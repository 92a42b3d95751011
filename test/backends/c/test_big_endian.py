"""The same programs on a machine of the other byte order: s390x, by QEMU.

Needs gcc-s390x-linux-gnu, libc6-dev-s390x-cross and qemu-user (names of Debian's packages).
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_programs import FORMS, WARNINGS, compile_c
from integer_graphs import inputs_for, integer_graph

from qvit.backends.c import emit
from qvit.backends.c.step import type_of
from qvit.backends.interpreter import ExecutionError, run

COMMAND = ["s390x-linux-gnu-gcc", "-std=c11", "-O2", "-static", *WARNINGS, "-o", "main", "model.c", "main.c"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 212))
def test_random_programs(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    module = integer_graph(rng, 25, FORMS)
    sources = emit(module, "big")
    sources.write(tmp_path)
    compile_c(COMMAND, tmp_path)
    ran = 0
    for inputs in inputs_for(module, rng, 3):
        try:
            expected = list(run(module, inputs).values())
        except ExecutionError:
            continue
        files: list[str] = []
        for k, array in enumerate(inputs):
            files.append(f"in{k}")
            (tmp_path / files[-1]).write_bytes(array.astype(array.dtype.newbyteorder(">")).tobytes())
        outputs = [f"out{k}" for k in range(len(expected))]
        subprocess.run(["qemu-s390x", "./main", "model.weights", *files, *outputs], cwd=tmp_path, check=True)
        for name, port, wanted in zip(outputs, sources.program.outputs, expected, strict=True):
            found = np.frombuffer((tmp_path / name).read_bytes(), type_of(port.value).dtype.newbyteorder(">"))
            np.testing.assert_array_equal(found, wanted.ravel())
        ran += 1
    assert ran


@pytest.mark.slow
def test_weights_of_this_machine(tmp_path: Path) -> None:
    """Little-endian weights are refused in words."""
    sources = emit(integer_graph(np.random.default_rng(1), 3, FORMS), "little")
    sources.write(tmp_path)
    compile_c(COMMAND, tmp_path)
    for k, port in enumerate(sources.program.inputs):
        (tmp_path / f"in{k}").write_bytes(bytes(np.prod(port.value.type.get_shape(), dtype=int)))  # pyright: ignore
    names = [f"in{k}" for k in range(len(sources.program.inputs))] + ["out"] * len(sources.program.outputs)
    done = subprocess.run(
        ["qemu-s390x", "./main", "model.weights", *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "model.weights: the weights are for a machine of another byte order\n"
