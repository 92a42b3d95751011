"""Times the fast C kernels, one thread: `bench/kernels.py [portable|avx2|avx512|neon]`.

Each product's share of the peak of VPDPBUSD, which is measured between the calls, in the same process; medians of thread CPU
time. Shapes of DeiT-T, DeiT-S and ViT-B with 197 tokens; operands are in the caches.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-falign-loops=64", "-Wall", "-Wextra")
ALIGNED = "-Wa,-mbranches-within-32B-boundaries"
"""Of GNU's assembler for x86: jumps that cross 32 bytes are slow on some processors."""


def main(*arguments: str) -> None:
    kernels = HERE.parent / "backends" / "c" / "kernels"
    native = ("-march=native", "-mprefer-vector-width=512") if arguments[:1] == ("portable",) else ()
    with TemporaryDirectory() as folder:
        program = str(Path(folder) / "kernels")
        command = ("gcc", *FLAGS, ALIGNED, *native, f"-I{kernels}", str(HERE / "kernels.c"), "-o", program)
        subprocess.run(command, check=True)
        lines = subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
    print(f"variant {lines[0]}")
    print(f"{'kernel':26}{'us':>10}{'% of peak':>12}{'ns/element':>12}")
    for line in lines[1:]:
        name, macs, elements, time, peak = line.split("\t")
        share = f"{float(macs) / float(time) * 1e3 / float(peak) * 100:.1f}" if float(macs) and float(peak) else ""
        each = f"{float(time) * 1e3 / int(elements):.3f}" if int(elements) else ""
        print(f"{name:26}{float(time):10.1f}{share:>12}{each:>12}")


if __name__ == "__main__":
    main(*sys.argv[1:])
