"""examples/embed.py as its readers run it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

MOVED = """\
== moved onto integers
queries: qvit.linear, 48 multiply-accumulates
keys: qvit.linear, 48 multiply-accumulates
values: qvit.linear, 48 multiply-accumulates
scores: qvit.matmul, 36 multiply-accumulates

== blocked
mixed: matmul-of-dequantize: operand not quantized: lhs is made by qvit.softmax at softmax

== codes compared: 57; different: 0
"""


def test_embed(tmp_path: Path) -> None:
    program = [sys.executable, ROOT / "examples/embed.py"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    before, after = done.stdout.split("== after")
    assert before.startswith("== before\nbuiltin.module {\n")
    # tokens, three weights, the results of three layers, scores; then only what softmax and the last product take
    assert (before.count("= qvit.dequantize"), after.count("= qvit.dequantize")) == (8, 2)
    assert after.endswith(MOVED)
    assert list(tmp_path.iterdir()) == []
