"""qvit-asm: programs of the systolic machine as text and as binaries."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qvit.tools.arguments import ArgumentParser, UsageError
from qvit.tools.registry import VERSION

EPILOG = """\
examples:
  qvit-asm program.s -o program.qisa                        text to binary
  qvit-asm -d program.qisa                                  binary to text, on standard output
  qvit-asm -d program.qisa --data -o whole.s                with all data in it
  qvit-asm program.s --machine large -o program.qisa        for another machine than the text names

INPUT is a text, a binary, or a module (.mlir) with one qisa.program. OUTPUT is a module where it ends in .mlir, else a
binary; with -d it is text, which refers to an INPUT that is a binary for the data of DRAM, unless --data is given.
The instructions, the text and the binary are described in docs/isa.md.
Exit status: 0 success; 1 failure, with one line on stderr; 2 wrong usage.
"""


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        prog="qvit-asm",
        description="Assemble programs of the systolic machine, and take them apart.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = arguments.add_argument
    add("input", type=Path, metavar="INPUT", help="a text, a binary or a .mlir file")
    add("-o", "--output", type=Path, metavar="OUTPUT", help="where the result goes")
    add("-d", "--disassemble", action="store_true", help="make text")
    add("--data", action="store_true", help="with -d: write all data into the text")
    add("--machine", default="", metavar="NAME|FILE", help="the machine, in the place of the one that the input names")
    add("--version", action="version", version=f"qvit {VERSION}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parser().parse_args(argv)
    except UsageError as error:
        print(f"qvit-asm: {error}\ntry qvit-asm --help", file=sys.stderr)
        return 2
    try:
        from qvit.tools.asm_driver import run

        return run(args)
    except KeyboardInterrupt:  # before the driver can say so
        print("qvit-asm: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
