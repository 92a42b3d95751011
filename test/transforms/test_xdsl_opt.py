"""Plain xdsl-opt finds the dialect and the passes through the entry point of the installed package."""

import json
import subprocess
import sys
from pathlib import Path

# The bias is stored in float: it joins the accumulator only under allow-bounded.
TEXT = """
func.func @main(%q: tensor<2x3xi8>, %w: tensor<4x3xi8>) -> tensor<2x4xi8> {
  %x = qvit.dequantize %q <0.5> {qvit.src = ["dq_x"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %u = qvit.dequantize %w <0.25> {qvit.src = ["dq_w"]} : tensor<4x3xi8> -> tensor<4x3xf32>
  %b = qvit.constant dense<[0.25, 0.5, -0.25, 1.0]> : tensor<4xf32> {qvit.src = ["bias"]}
  %y = qvit.linear %x, %u, %b {qvit.src = ["fc"]} : (tensor<2x3xf32>, tensor<4x3xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  %o = qvit.quantize %y <0.1> {qvit.src = ["q"]} : tensor<2x4xf32> -> tensor<2x4xi8>
  func.return %o : tensor<2x4xi8>
}
"""


def xdsl_opt(pipeline: str, folder: Path) -> tuple[str, str]:
    """(stdout, stderr)"""
    program = Path(sys.executable).parent / "xdsl-opt"
    (folder / "in.mlir").write_text(TEXT)
    done = subprocess.run([program, "in.mlir", "-p", pipeline], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_both_passes_run_in_a_pipeline(tmp_path: Path) -> None:
    pipeline = 'delay-dequant{allow-bounded=true report="report.json"},verify-integer-only{report-only=true}'
    out, err = xdsl_opt(pipeline, tmp_path)
    assert "qvit.constant dense<[2, 4, -2, 8]> : tensor<4xi32>" in out
    assert "(tensor<2x3xi8>, tensor<4x3xi8>, tensor<4xi32>) -> tensor<2x4xi32>" in out
    assert "by #qvit.real<0.5 * 0.25 / 0.1>" in out
    assert "qvit.dequantize" not in out
    assert err.splitlines()[-1] == "  q: qvit.requantize (attribute form)"
    assert json.loads((tmp_path / "report.json").read_text())["macs_integer"] == {"before": 0, "after": 24}


def test_options_have_their_defaults(tmp_path: Path) -> None:
    out, _ = xdsl_opt("delay-dequant{accumulator=64}", tmp_path)
    assert "-> tensor<2x4xi64>" in out
    assert "qvit.add" in out  # the bias stays a float addition
