"""qvit-opt: read a model or IR, run passes in the order of their flags, write IR.

This module is the front door: `--help`, `--version` and `--list-passes` are answered here, without importing xDSL. Only
the passes of extensions are listed by the driver, for they are not known before they are imported.
"""

import sys
from collections.abc import Sequence

from qvit.tools.registry import PASSES, VERSION, pass_list

USAGE = """\
usage: qvit-opt [INPUT] [--PASS[=OPTION[=VALUE],...]]... [-o FILE] [options]

Read INPUT, run the passes in the order of their flags, write the IR.
INPUT is a .onnx or .pt2 model, a .mlir file, or - (standard input, the default).

  qvit-opt model.onnx -o model.mlir
  qvit-opt model.onnx --delay-dequant --report report.json -o integer.mlir
  qvit-opt model.onnx --delay-dequant --report page.html -o integer.mlir
  qvit-opt model.mlir --delay-dequant=accumulator=64 --canonicalize --verify-integer-only=report-only

passes:
{passes}
{extensions}
input:
  --outputs NAME,...      end the graph at these tensors instead of the model's outputs (.onnx, .pt2)
  --dim NAME=N            fix a dynamic dimension of the model's inputs, e.g. --dim batch_size=1 (.onnx)
  --calibrate FILE.npz    freeze dynamic quantization by ranges measured on samples, an array for each input (.onnx)
  --split-input-file      treat the parts between lines `// -----` as modules of their own
  --allow-unregistered-dialect

pipeline:
  -p PIPELINE             passes in xDSL's syntax, e.g. -p 'delay-dequant{{accumulator=64}},cse'; mixes with the flags
  --allow-bounded         let passes apply rewrites that are exact only up to a stated bound
  --report FILE           write what --delay-dequant or --lower-requant did, and could not do and why, as JSON; a table
                          goes to stderr. FILE.html is a page to look at: the module behind all passes, block by block
  --print-between-passes, --time-passes

output:
  -o FILE                 write to FILE instead of standard output; new weights go beside it
  --weights-out FILE      write new weights to this .safetensors file
  -t TARGET               output format (default mlir)
  --print-op-generic      print the generic form

  --list-passes           list the passes
  --help-pass NAME        describe a pass and its options
  -h, --help; --version

Exit status: 0 success; 1 the input or a pass failed, with one line on stderr; 2 wrong usage.
Output files are written whole or not at all.
"""


def extension_names() -> str:
    """A line with the names of extensions, whose passes are known only once they are imported; empty without any."""
    from qvit.tools.extensions import installed

    names = ", ".join(entry.name for entry in installed())
    return f"  --list-passes lists those of the extensions too: {names}\n" if names else ""


def main(argv: Sequence[str] | None = None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    summaries = {name: summary for name, (_, _, summary) in PASSES.items()}
    if "-h" in args or "--help" in args:
        sys.stdout.write(USAGE.format(passes=pass_list(summaries), extensions=extension_names()))
        return 0
    if "--version" in args:
        print(f"qvit {VERSION}")
        return 0
    if "--list-passes" in args and not extension_names():
        print(pass_list(summaries))
        return 0
    try:
        from qvit.tools.opt_driver import run

        return run(args)
    except KeyboardInterrupt:  # before the driver can say so
        print("qvit-opt: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
