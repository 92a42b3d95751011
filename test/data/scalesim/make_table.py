"""Cycles of products as SCALE-Sim 3.0.0 counts them: writes table.csv beside this file.

    python -m venv scalesim
    scalesim/bin/pip install scalesim==3.0.0 'numpy<2'
    scalesim/bin/python make_table.py [FILE]

With NumPy 2 it stops with a TypeError. Cycles are "Total Cycles" of its report, without what it loads before the first
one, and without stalls: one less than the array takes. Nothing is random: the same table comes out again.
"""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

ARRAYS = [(8, 8), (16, 16), (32, 32), (8, 32), (32, 8)]
SHAPES = [(16, 16, 16), (1, 40, 24), (17, 33, 9), (50, 24, 40), (64, 64, 48), (7, 96, 16)]
"""Rows, depth, columns."""
LARGER = [(16, 16, 197, 64, 197), (16, 16, 197, 197, 64), (32, 32, 197, 64, 64)]
"""Rows and columns of the array, then the shape: products of DeiT's heads."""
COLUMNS = ["array_rows", "array_columns", "dataflow", "rows", "depth", "columns", "cycles"]

CONFIG = """[general]
run_name = run

[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False

[architecture_presets]
ArrayHeight = {array_rows}
ArrayWidth = {array_columns}
ifmapsramszkB = 1024
filtersramszkB = 1024
ofmapsramszkB = 1024
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
Bandwidth = 10
ReadRequestBuffer = 32
WriteRequestBuffer = 32

[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2

[sparsity]
SparsitySupport = false
"""
LAYOUT = ",".join(["layer", *["1"] * 20])
"""One is read even where no layout is used."""


def compute_cycles(array_rows: int, array_columns: int, dataflow: str, shapes: list[tuple[int, int, int]]) -> list[int]:
    """Of products of (rows, depth, columns), in one run; dataflow: ws or os."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = CONFIG.format(array_rows=array_rows, array_columns=array_columns, dataflow=dataflow)
        (folder / "run.cfg").write_text(config)
        layers = [f"p{i},{m},{n},{k}," for i, (m, k, n) in enumerate(shapes)]
        (folder / "shapes.csv").write_text("\n".join(["Layer,M,N,K,", *layers]) + "\n")
        layout = [f"p{i}{LAYOUT.removeprefix('layer')}," for i in range(len(shapes))]
        (folder / "layout.csv").write_text("\n".join([LAYOUT + ",", *layout]) + "\n")
        files = ["-c", "run.cfg", "-t", "shapes.csv", "-l", "layout.csv", "-p", "out", "-i", "gemm", "-s", "N"]
        done = subprocess.run(
            [sys.executable, "-m", "scalesim.scale", *files], cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        with (folder / "out" / "run" / "COMPUTE_REPORT.csv").open() as file:
            found = [{key.strip(): value for key, value in row.items() if key} for row in csv.DictReader(file)]
    return [round(float(row["Total Cycles"])) - round(float(row["Stall Cycles"])) for row in found]


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "table.csv"
    jobs: dict[tuple[int, int, str], list[tuple[int, int, int]]] = {}
    for dataflow in ("ws", "os"):
        for rows, columns in ARRAYS:
            jobs[rows, columns, dataflow] = list(SHAPES if rows == columns else SHAPES[2:4])
        for rows, columns, *shape in LARGER:
            m, k, n = shape
            jobs[rows, columns, dataflow].append((m, k, n))
    with target.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (rows, columns, dataflow), shapes in jobs.items():
            for shape, cycles in zip(shapes, compute_cycles(rows, columns, dataflow, shapes), strict=True):
                writer.writerow([rows, columns, dataflow, *shape, cycles])


if __name__ == "__main__":
    main()
