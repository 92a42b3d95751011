"""examples/torch_to_c.py as its readers run it: short, and what it writes compiles."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/torch_to_c.py"


def test_torch_to_c(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = subprocess.run(["make", "-C", "vit_c"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "vit_c/main").exists()


def test_it_is_short() -> None:
    """Without its docstring and the lines between: fewer than 15 lines."""
    code = EXAMPLE.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) < 15
