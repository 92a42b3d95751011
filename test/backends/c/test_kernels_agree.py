"""All variants of the fast kernels have the same results, on every machine and by every compiler at hand, without a finding of
the sanitizers."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from kernel_library import KERNELS, VARIANTS, compiler

SOURCE = Path(__file__).with_name("kernels_agree.c")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-D_POSIX_C_SOURCE=200809L")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BUILDS = [
    ("gcc", "-std=c11", "-O0"),
    ("gcc", "-std=c11", "-O3", "-march=native"),
    ("gcc", "-std=c11", *SANITIZED),
    ("g++", "-x", "c++", "-std=c++17", "-O3"),
    ("clang", "-std=c11", "-O3"),
    ("clang++", "-x", "c++", "-std=c++17", "-O1"),
]
AARCH64 = ("aarch64-linux-gnu-gcc", "-std=c11", "-O3", "-static")


def executable(build: tuple[str, ...], folder: Path) -> str:
    target = folder / "agree"
    subprocess.run([*build, *WARNINGS, f"-I{KERNELS}", str(SOURCE), "-o", str(target)], check=True)
    return str(target)


def results(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the portable variant, which test_kernels.py compares with the semantics."""
    return portable(tmp_path_factory.mktemp("portable"))


@cache
def portable(folder: Path) -> str:
    found = results(executable((compiler(), "-std=c11", "-O3"), folder), "portable")
    assert len(found.splitlines()) == 20
    return found


@pytest.mark.parametrize("build", [b for b in BUILDS if shutil.which(b[0])], ids=" ".join)
def test_variants_agree(build: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    program = executable(build, tmp_path)
    for variant in VARIANTS:
        assert results(program, variant) == expected, variant


@pytest.mark.parametrize("emulator", [e for e in ("qemu-aarch64",) if shutil.which(e) and shutil.which(AARCH64[0])])
def test_variants_agree_on_aarch64(emulator: str, expected: str, tmp_path: Path) -> None:
    program = executable(AARCH64, tmp_path)
    for variant in ("portable", "neon"):
        assert results(emulator, "-cpu", "max", program, variant) == expected, variant


def test_an_unknown_variant_is_not_chosen(tmp_path: Path) -> None:
    program = executable((compiler(), "-std=c11", "-O0"), tmp_path)
    assert subprocess.run([program, "mmx"], check=False).returncode == 3


@pytest.mark.parametrize(
    "kernel",
    [KERNELS / f"qk_{name}.h" for name in ("gemm", "plain", "avx2", "avx512", "neon")],
    ids=lambda path: path.name,
)
def test_kernels_have_no_floating_point(kernel: Path) -> None:
    """Neither types nor functions of floating point, nor constants; what compilers make of it is tested on whole programs."""
    words = re.sub(r"/\*.*?\*/", "", kernel.read_text(), flags=re.DOTALL)
    for word in ("float", "double", "_ps", "_pd", "math.h"):
        assert word not in words, word
