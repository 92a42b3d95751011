"""How fast the C backend runs vision transformers on this processor, beside OpenVINO and ONNX Runtime.

    python bench/cpu.py [--models deit-t,deit-s,vit-b] [--engines qvit,openvino-int8,...] [--rounds N] [--json FILE]
    python bench/cpu.py --start [...]      # each engine in a fresh process: memory, and time to its first result
    python bench/cpu.py --threads 2 [...]  # each engine in processes of its own, in turn; wall time
    python bench/cpu.py --counts [--update]

DeiT-T, DeiT-S and ViT-B at 224 x 224, batch 1, of random weights (bench/vit.py), image in to logits out. All engines are in
one process, pinned to one processor with one thread each, and every round runs each once, and VPDPBUSD alone for a while
(bench/peak.c): core speed and other load are the same for all. Times are CPU times, medians and minima over the rounds;
"of peak" is the model's multiply-accumulates over the median time, as a share of the median peak, which is that of as many
cores as there are threads. Only compare within one run. The engines, and the environment that OpenVINO gets, are in
bench/engines.py; files are kept in --cache, else $QVIT_CACHE, else ~/.cache/qvit/bench.

--counts: instructions of a small model in our C code, by valgrind, beside those in bench/instruction_counts.json, which
--update writes anew. Valgrind knows no AVX-512, so these are the portable and the AVX2 kernels.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import hashlib
import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import models
import numpy as np
import vit
from engines import OPENVINO_PACKAGES, PORTABLE, Fresh, Predict, engine, labels, made, require_exact, timed, versions
from standalone import built, counted, emitted, output
from vit import MODELS, Vit

from qvit.backends.c.loader import find_compiler
from qvit.dialects.atomic import write_text
from qvit.tools.common import read_mlir
from qvit.tools.progress import progress

HERE = Path(__file__).parent
TABLE = ("qvit", "qvit-portable", "openvino-int8", "openvino-fp32", "ort-int8", "ort-fp32")
RIVAL = "openvino-int8"
PASSES = 3  # of the engines, with a process each
COUNTS = HERE / "instruction_counts.json"


@dataclass(frozen=True)
class Row:
    """Times in ms; ratio: the rival's median over this one's; peak_share: of the VNNI peak, None where it has none."""

    model: str
    engine: str
    threads: int
    median: float
    minimum: float
    ratio: float | None
    peak_share: float | None


def source(name: str, model: Vit, cache: Path) -> Path:
    """The float model as a file, written if it is not there."""
    recipe = json.dumps([vit.REVISION, asdict(model)])
    path = cache / "cpu" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.onnx"
    if not path.exists():
        models.say(f"making {path}")
        with models.replacing(path) as temporary:
            vit.write(model, temporary)
    return path


# --- the peak --------------------------------------------------------------------------------------------------------


class Peak:
    """The VNNI rate in GMAC/s, measured for about ten milliseconds a call; nan where there is none.

    Of one core, by CPU time, or of `threads` at once, by wall time.
    """

    def __init__(self, threads: int = 1) -> None:
        with TemporaryDirectory() as folder:
            library = Path(folder) / "peak.so"
            output([*find_compiler(), "-O2", "-shared", "-fPIC", str(HERE / "peak.c"), "-o", str(library)])
            self.function = ctypes.CDLL(str(library)).peak
        self.function.argtypes = [ctypes.c_int64, ctypes.POINTER(ctypes.c_int32)]
        self.function.restype = ctypes.c_int64
        self.threads = threads

    def part(self, _: int = 0) -> int:
        """Multiply-accumulates of one thread; C runs without Python's lock."""
        return self.function(1_500_000, ctypes.byref(ctypes.c_int32()))

    def __call__(self) -> float:
        macs = 0

        def body() -> None:
            nonlocal macs
            macs = self.part() if self.threads == 1 else sum(pool.map(self.part, range(self.threads)))

        with ThreadPoolExecutor(self.threads) as pool:
            body()  # threads start
            cpu, wall = timed(body)
        return macs / (cpu if self.threads == 1 else wall) / 1e6 if macs else float("nan")


# --- times -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Of one model: milliseconds of each round by engine, and the peak of each round in GMAC/s."""

    engines: dict[str, list[float]]
    peak: list[float]


def left_out(label: str, error: models.Unavailable) -> None:
    models.say(f"note: {label} is left out: {error}")


def interleaved(files: dict[str, Path], image: np.ndarray, rounds: int, cache: Path, peak: Peak) -> Times:
    """CPU times of all engines in this process, round by round; engines that cannot be had are left out, with a note."""
    ready: dict[str, Predict] = {}
    for name, file in files.items():
        try:
            predict = engine(name).load(file, cache, 1)
            if name.startswith("qvit"):
                require_exact(file, predict, image)
            ready[name] = predict
        except models.Unavailable as error:
            left_out(name, error)
    for predict in ready.values():  # the first runs make buffers and pack weights
        predict(image)
        predict(image)
    times = Times({name: [] for name in ready}, [])
    with progress("timing", rounds) as step:
        for _ in range(rounds):
            times.peak.append(peak())
            for name, predict in ready.items():
                times.engines[name].append(timed(lambda predict=predict: predict(image))[0])
            step.done += 1
    return times


def own_process(name: str, file: Path, cache: Path, model: Vit, threads: int, rounds: int) -> Fresh:
    """An engine in a fresh process, pinned to as many processors as it has threads."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    command = [sys.executable, str(HERE / "engines.py"), "run", name, str(file), str(cache)]
    command += [",".join(map(str, model.shape)), str(threads), str(rounds)]
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, processors)
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise models.Unavailable(last.removeprefix("models.Unavailable: "))
    return Fresh(**json.loads(done.stdout))


def in_turn(files: dict[str, Path], model: Vit, rounds: int, cache: Path, threads: int, peak: Peak) -> Times:
    """Wall times, each engine in `PASSES` processes, in turn: two pools of threads in one process disturb each other."""
    times = Times({name: [] for name in files}, [])
    for _ in range(PASSES):
        for name in list(times.engines):
            times.peak.append(peak())
            try:
                seen = own_process(name, files[name], cache, model, threads, max(rounds // PASSES, 1))
            except models.Unavailable as error:
                left_out(name, error)
                del times.engines[name]
            else:
                times.engines[name] += seen.wall
    return times


def rows(name: str, model: Vit, times: Times, threads: int) -> list[Row]:
    """What is printed of a model's times."""
    medians = {label: statistics.median(values) for label, values in times.engines.items()}
    peak = statistics.median(times.peak) if times.peak else float("nan")

    def share(label: str) -> float | None:
        """Of the peak, for what computes with 8-bit operands."""
        is_float = engine(label).product is None
        return None if is_float or np.isnan(peak) else model.macs / medians[label] / 1e6 / peak

    def ratio(label: str) -> float | None:
        return medians[RIVAL] / medians[label] if RIVAL in medians else None

    return [
        Row(name, label, threads, medians[label], min(values), ratio(label), share(label))
        for label, values in times.engines.items()
    ]


def cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def show(found: Sequence[Row], times: Times) -> None:
    title = f"{found[0].model}, {found[0].threads} thread{'s' if found[0].threads > 1 else ''}"
    if times.peak and not np.isnan(times.peak).any():
        low, middle, high = min(times.peak), statistics.median(times.peak), max(times.peak)
        title += f": VNNI peak {middle:.0f} GMAC/s ({low:.0f} to {high:.0f})"
    print(title)
    print(f"  {'engine':<20}{'median ms':>10}{'min ms':>10}{'x ' + RIVAL:>17}{'% of peak':>11}")
    for row in found:
        percent = cell(None if row.peak_share is None else 100 * row.peak_share, 1)
        figures = f"{row.median:>10.2f}{row.minimum:>10.2f}{cell(row.ratio):>17}{percent:>11}"
        print(f"  {row.engine:<20}{figures}", flush=True)


# --- start-up --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Medians over fresh processes: of Python, for ours of the emitted program. first: CPU s to the first result, all
    imports included; beyond: the same less one later run, ms; peak: MB of memory; weights: MB of the weight matrices in 8
    bits; emit: CPU s that it took to write the C."""

    model: str
    engine: str
    first: float
    beyond: float
    peak: float
    weights: float
    emit: float | None = None


def start(name: str, model: Vit, label: str, file: Path, cache: Path) -> Start:
    emit = None
    if label.startswith("qvit"):  # what others do in their libraries below Python, the emitted program does without it
        with TemporaryDirectory() as folder:
            compiled = read_mlir(file)
            emit = timed(lambda: emitted(compiled, Path(folder)))[0] / 1e3
            program = built(Path(folder), PORTABLE if label == "qvit-portable" else ())
            seen = [program.run(5) for _ in range(PASSES)]
    else:
        seen = [own_process(label, file, cache, model, 1, 5) for _ in range(PASSES)]
    first = statistics.median(process.start for process in seen)
    warm = statistics.median(time for process in seen for time in process.cpu)
    peak = statistics.median(process.peak for process in seen)
    return Start(name, label, first, first * 1e3 - warm, peak, model.weights / 2**20, emit)


def show_start(row: Start) -> None:
    figures = f"{row.first:>13.2f}{row.beyond:>11.1f}{row.peak:>9.1f}{row.peak / row.weights:>11.2f}"
    print(f"  {row.engine:<20}{figures}{cell(row.emit):>13}", flush=True)


# --- instructions ----------------------------------------------------------------------------------------------------


def changes(known: Mapping[str, str | int], found: Mapping[str, str | int]) -> list[str]:
    """A line for each kind of kernels, with what it had before; counts of two compilers are not compared."""
    same = known.get("compiler") == found["compiler"]
    recorded = f", not {known['compiler']} as recorded" if known and not same else ""
    lines = [f"{found['compiler']}{recorded}"]
    for name, count in found.items():
        if isinstance(count, int):
            before = known.get(name)
            change = f"{100 * (count / before - 1):+.2f} %" if same and isinstance(before, int) else "-"
            lines.append(f"  {name:<12}{count:>14,}{change:>12}")
    return lines


def counts(update: bool) -> None:
    """Count, print beside what is recorded, and record where that is asked for."""
    with TemporaryDirectory() as folder:
        found = counted(Path(folder))
    known: dict[str, str | int] = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    print(*changes(known, found), sep="\n")
    if update:
        write_text(COUNTS, json.dumps(found, indent=2) + "\n")


# --- the command -----------------------------------------------------------------------------------------------------


def header() -> str:
    """Processor, load and versions: what a figure is worth without its peers."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor ?")
    tools = versions("numpy", "onnxruntime")
    return f"{processor}, load {os.getloadavg()[0]:.1f}; {', '.join([*tools, *OPENVINO_PACKAGES])}"


def names(text: str, known: Sequence[str], what: str) -> list[str]:
    """NAME,NAME,... of which each is known."""
    chosen = text.split(",")
    if unknown := [name for name in chosen if name not in known]:
        raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)} (there are {', '.join(known)})")
    return chosen


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--models", type=lambda text: names(text, list(MODELS), "model"), default=list(MODELS), metavar="NAME,...")
    add("--engines", type=lambda text: names(text, labels(), "engine"), default=list(TABLE), metavar="NAME,...")
    add("--rounds", type=int, default=21, metavar="N")
    add("--threads", type=int, default=1, metavar="N")
    add("--start", action="store_true", help="fresh processes: memory, and time to the first result")
    add("--counts", action="store_true", help="instructions of a small model")
    add("--update", action="store_true", help=f"with --counts: write {COUNTS.name}")
    add("--json", type=Path, metavar="FILE", help="all times of all rounds too")
    add("--cache", type=Path, default=models.default_cache(), metavar="DIR")
    return arguments


def measure(name: str, args: argparse.Namespace, peak: Peak) -> dict[str, Any]:
    """Time the engines on one model, print their rows; -> what the JSON file has of them."""
    model = MODELS[name]
    path = source(name, model, args.cache)
    files: dict[str, Path] = {}
    for label in args.engines:
        try:
            files[label] = made(label, path, args.cache)
        except models.Unavailable as error:
            left_out(label, error)
    if args.start:
        title = f"{'first, CPU s':>13}{'beyond ms':>11}{'peak MB':>9}{'x weights':>11}{'emit, CPU s':>13}"
        print(f"{name}\n  {'engine':<20}{title}")
        starts: list[Start] = []
        for label, file in files.items():
            try:
                starts.append(start(name, model, label, file, args.cache))
            except models.Unavailable as error:
                left_out(label, error)
            else:
                show_start(starts[-1])
        return {"start": [asdict(row) for row in starts]}
    if args.threads > 1:
        times = in_turn(files, model, args.rounds, args.cache, args.threads, peak)
    else:
        times = interleaved(files, vit.images(model, 1, 0)[0], args.rounds, args.cache, peak)
    found = rows(name, model, times, args.threads)
    show(found, times)
    return {"rows": [asdict(row) for row in found], "times": asdict(times)}


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's quantizer logs hints at every model
    results: dict[str, Any] = {}
    try:
        if args.counts:
            return counts(args.update)
        print(header())
        if args.threads == 1:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        peak = Peak(args.threads)
        for name in args.models:
            results[name] = measure(name, args, peak)
            if args.json:
                write_text(args.json, json.dumps({"machine": header(), "models": results}, indent=1) + "\n")
    except models.Unavailable as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
