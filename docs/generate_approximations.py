"""Write docs/approximations.md: what every integer approximation is, and how far off: `python docs/generate_approximations.py`.

Every figure is measured here, on seeded data, with the constants that `build` makes; a new approximation of the three
tables gets its row without a word in this file.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import inf
from pathlib import Path
from textwrap import fill

import numpy as np

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import (
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    RangeError,
    SoftmaxApproximation,
    SoftmaxSpec,
)
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.semantics.integers import Array, IntType, widen

I8, I16 = IntType(8), IntType(16)
N, CHANNELS = 197, 384
SCORES = Fraction(1, 20)
GELU_SCALES = (Fraction(3, 100), Fraction(1, 20), Fraction(2, 25))
RANGES = (4, 8, 16)
LENGTHS = (1, 16, 49, 100, 197, 256, 400, 577, 785, 1025, 2048, 4096, 8191, 16384, 32767)
EXPONENTS = range(-14, 4)
"""Of the scales for which it is tried whether an approximation holds."""
SPREADS = (3, 300, 3000)

HEAD = """\
# Integer approximations

Measured and written by `python docs/generate_approximations.py`; a test compares. How one is defined, to the last
rounding, is in its docstring, which [ir.md](ir.md) repeats under the name of its attribute. An approximation called
`-published` computes what its authors' code does, traps included; that of the same name without it is our sound one. They
are chosen with `--integerize=softmax=NAME,function=NAME,layer-norm=NAME`.

*Widest* is the intermediate that needs the most bits, with these bits. A **!** says that `check` refuses the measured case:
the compiler does not take it unless it is told `unchecked`. *Holds for* is where `check` has nothing to say about int8
codes, of the rows of 1 to 32767 and of the scales S of 2^-14 to 2^3 that are tried (the next one that it takes, where it
takes only some); beyond it, the compiler says why not, as listed under each table.
"""


# --- what all three have in common ---


def refusal(action: Callable[[], object]) -> str | None:
    """Why it is refused; None if it is not."""
    try:
        action()
    except RangeError as error:
        return str(error)
    return None


def tables(built: Built) -> list[Array]:
    return [values.astype(element.dtype) for values, element in built.tables]


def full(codes: Codes) -> Interval:
    return codes.type.lo, codes.type.hi


def real(built: Built, codes: Array) -> Array:
    """What codes of the result stand for."""
    return (widen(codes) - built.zero_point) * built.scale


def bits(interval: Interval) -> int:
    """Of the narrowest integer that holds the interval: unsigned where nothing is negative."""
    low, high = interval
    return max(high.bit_length(), 1) if low >= 0 else max((~low).bit_length(), high.bit_length()) + 1


def widest(intermediates: dict[str, Interval]) -> str:
    name = max(intermediates, key=lambda name: bits(intermediates[name]))
    return f"{bits(intermediates[name])} ({name})"


def number(x: float) -> str:
    """Two digits, or three before the point."""
    if x == inf:
        return "overflow"
    return f"{x:.3g}" if x >= 10 else f"{x:.2g}"


def lines(header: str, rows: Iterable[tuple[float, str]]) -> str:
    """A table, ordered by the numbers."""
    columns = header.count("|") - 1
    body = [text for _, text in sorted(rows)]
    return "\n".join([header, "|" + "---|" * columns, *body]) + "\n"


def held(valid: Sequence[int], what: str, base: str = "") -> str:
    """From the least to the most that is valid; exponents where there is a base."""
    return f"{what} {base}{min(valid)} to {base}{max(valid)}" if valid else f"no {what}"


def reasons(kind: str, found: dict[str, str]) -> str:
    if not found:
        return ""
    return f"\nWhat ends the range of each {kind}:\n\n" + "".join(
        f"- `{name}`: {text}\n" for name, text in found.items()
    )


# --- softmax ---


def softmax_case(kind: type[SoftmaxApproximation], scale: Fraction, length: int, output: Codes | None) -> Built:
    return kind.build(SoftmaxSpec(Codes(kind.preferred_scale(scale), 0, I8), length, output))


def check_softmax(built: Built, length: int) -> None:
    approximation = built.approximation
    assert isinstance(approximation, SoftmaxApproximation)
    approximation.check(full(Codes(SCORES, 0, I8)), length, tables(built))


def probabilities(built: Built, x: Array) -> Array:
    approximation = built.approximation
    assert isinstance(approximation, SoftmaxApproximation)
    found = approximation.apply(x, tables(built), None, built.results)
    if approximation.logarithmic:
        return np.where(found[0] >= 16, 0.0, built.scale * 2.0 ** -found[0].astype(float))
    first = real(built, found[0])
    return first / found[1] if approximation.late else first


def softmax_rows() -> tuple[list[tuple[float, str]], dict[str, str]]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (200, N))
    rows: list[tuple[float, str]] = []
    why: dict[str, str] = {}
    for name, kind in SOFTMAX.items():
        scale = float(kind.preferred_scale(SCORES))
        x = np.rint(logits / scale).clip(-128, 127).astype(np.int64)
        e = np.exp(scale * (x - x.max(-1, keepdims=True)))
        p = e / e.sum(-1, keepdims=True)
        seen: set[tuple[IntType, ...]] = set()
        for output in (None, Codes(Fraction(1, 1 << 15), 0, I16)):
            try:
                built = softmax_case(kind, SCORES, N, output)
            except RangeError:  # not for results of 16 bits
                continue
            if built.results in seen:
                continue
            seen.add(built.results)
            found = probabilities(built, x)
            sums, error = found.sum(-1), np.abs(found - p)
            mark = "" if refusal(lambda built=built: check_softmax(built, N)) is None else "!"
            approximation = built.approximation
            assert isinstance(approximation, SoftmaxApproximation)

            def refused(
                scale: Fraction, length: int, kind: type[SoftmaxApproximation] = kind, output: Codes | None = output
            ) -> str | None:
                return refusal(lambda: check_softmax(softmax_case(kind, scale, length, output), length))

            of_lengths = {n: refused(SCORES, n) for n in LENGTHS}
            of_scales = {k: refused(Fraction(2) ** k, N) for k in EXPONENTS}
            problems = [problem for problem in (*of_lengths.values(), *of_scales.values()) if problem is not None]
            if problems:
                why.setdefault(name, problems[0])
            valid = [n for n in LENGTHS if of_lengths[n] is None], [k for k in EXPONENTS if of_scales[k] is None]
            cells = [
                f"`{name}`",
                approximation.source,
                ", ".join(map(str, built.results)),
                widest(approximation.intermediates(full(Codes(SCORES, 0, I8)), N, tables(built))),
                f"{number(error.max())}{mark}",
                number(N * error.mean()),
                f"{sums.min():.3f} to {sums.max():.3f}",
                f"{held(valid[0], 'N')}; {held(valid[1], 'S', '2^')}",
            ]
            rows.append((float(error.mean()), f"| {' | '.join(cells)} |"))
    return rows, why


# --- functions ---


def apply_function(built: Built, x: Array, zero_point: int = 0) -> Array:
    """All of x as one row: what depends on a row's maximum has the whole of it."""
    approximation = built.approximation
    assert isinstance(approximation, FunctionApproximation)
    return approximation.apply(x - zero_point * approximation.centred, tables(built), built.results[0])


def check_function(built: Built, codes: Codes) -> None:
    approximation = built.approximation
    assert isinstance(approximation, FunctionApproximation)
    approximation.check(full(codes), tables(built))


@dataclass(frozen=True)
class Deviation:
    """From the real result, in units of the wanted codes, after a requantize to them, half up; how many are the nearest."""

    largest: float
    equal: float


def deviation(built: Built, apply: Callable[[], Array], exact: Array, output: Codes) -> Deviation:
    """Of the codes that `apply` makes from the real numbers `exact`; endless where they do not fit their type."""

    def units(reals: Array) -> Array:
        return np.clip(reals / float(output.scale), output.type.lo, output.type.hi)

    def nearest(units: Array) -> Array:
        return np.floor(units + 0.5).clip(output.type.lo, output.type.hi)

    try:
        codes, wanted = nearest(units(real(built, apply()))), units(exact)
    except OverflowError:
        return Deviation(inf, 0.0)
    return Deviation(float(np.abs(codes - wanted).max()), float((codes == nearest(wanted)).mean()))


def percent(share: float) -> str:
    """Rounded down: 100 % is all of them."""
    return f"{np.floor(share * 10000) / 100:.4g} %"


def gelu_rows() -> tuple[list[tuple[float, str]], dict[str, str]]:
    x = np.arange(-128, 128)
    rows: list[tuple[float, str]] = []
    why: dict[str, str] = {}
    for name, kind in FUNCTION.items():

        def case(scale: Fraction, kind: type[FunctionApproximation] = kind) -> tuple[Built, Codes]:
            codes = Codes(scale, 0, I8)
            return kind.build(FunctionSpec("gelu", codes, codes)), codes

        def refused(scale: Fraction, case: Callable[[Fraction], tuple[Built, Codes]] = case) -> str | None:
            return refusal(lambda: check_function(*case(scale)))

        cells, worst, last = [], 0.0, None
        for scale in GELU_SCALES:
            try:
                last = built, codes = case(scale)
            except RangeError as error:
                why[name] = str(error)
                cells.append("-")
                continue
            found = deviation(built, partial(apply_function, built, x), FUNCTIONS["gelu"](codes.real()), codes)
            mark = "" if refused(scale) is None else "!"
            cells.append(f"{number(found.largest)} / {percent(found.equal)}{mark}")
            worst = max(worst, found.largest)
        if last is None:  # not for codes of 8 bits: the next table has it
            why.pop(name)
            continue
        built, codes = last
        approximation = built.approximation
        assert isinstance(approximation, FunctionApproximation)
        problems = {k: refused(Fraction(2) ** k) for k in EXPONENTS}
        valid = [k for k in EXPONENTS if problems[k] is None]
        if len(valid) < len(problems):
            why.setdefault(name, next(problem for problem in reversed(problems.values()) if problem is not None))
        about = [
            f"`{name}`",
            approximation.source + ("; depends on the row" if approximation.rowwise else ""),
            str(built.results[0]),
            widest(approximation.intermediates(full(codes), tables(built), built.results[0])),
            *cells,
            held(valid, "S", "2^"),
        ]
        rows.append((worst, f"| {' | '.join(about)} |"))
    return rows, why


def wide_rows() -> list[tuple[float, str]]:
    """Codes of 16 bits."""
    x = np.arange(-32768, 32768)
    rows: list[tuple[float, str]] = []
    for name, kind in FUNCTION.items():
        cells, errors, last = [], [], None
        for result in (I8, I16):
            for function in ("gelu", "silu", "tanh", "sigmoid"):
                cell = []
                for reach in RANGES:
                    codes = Codes(Fraction(reach, 1 << 15), 0, I16)
                    top = reach if function in ("gelu", "silu") else 1
                    output = Codes(Fraction(top, 1 << (result.bits - 1)), 0, result)
                    try:
                        built = kind.build(FunctionSpec(function, codes, output))
                    except RangeError:
                        continue
                    found = deviation(
                        built, partial(apply_function, built, x), FUNCTIONS[function](codes.real()), output
                    )
                    refused = refusal(lambda built=built, codes=codes: check_function(built, codes))
                    cell.append(number(found.largest) + ("" if refused is None else "!"))
                    errors.append(found.largest)
                    last = built, codes
                cells.append(" / ".join(cell) or "-")
        if last is None:
            continue
        built, codes = last
        approximation = built.approximation
        assert isinstance(approximation, FunctionApproximation)
        stated = approximation.intermediates(full(codes), tables(built), built.results[0])
        rows.append((float(np.median(errors)), f"| `{name}` | {widest(stated)} | {' | '.join(cells)} |"))
    return rows


# --- layer normalisation ---


def layer_norm_rows() -> tuple[list[tuple[float, str]], dict[str, str]]:
    rng = np.random.default_rng(0)
    gamma, beta = rng.normal(1, 0.3, CHANNELS), rng.normal(0, 0.5, CHANNELS)
    input = Codes(Fraction(1, 500), 0, I16)
    data = [np.rint(rng.normal(0, s, (32, CHANNELS))).clip(-32768, 32767).astype(np.int64) for s in SPREADS]
    rows: list[tuple[float, str]] = []
    why: dict[str, str] = {}
    for name, kind in LAYER_NORM.items():
        cells, order, built = [], 0.0, None
        for result in (I8, I16):
            output = Codes(Fraction(6, 1 << (result.bits - 1)), 0, result)
            try:
                built = kind.build(LayerNormSpec(gamma, beta, 1e-6, input, output))
            except RangeError:  # not for results of 16 bits
                cells += ["-"] * len(data)
                continue
            approximation = built.approximation
            assert isinstance(approximation, LayerNormApproximation)
            given = tables(built)
            refused = refusal(lambda a=approximation, given=given: a.check(full(input), CHANNELS, given))
            if refused is not None:
                why[name] = refused
            for x in data:
                exact = layer_norm(x * float(input.scale), gamma, beta, 1e-6)
                found = deviation(built, partial(approximation.apply, x, given, built.results[0]), exact, output)
                mark = "" if refused is None else "!"
                cells.append(f"{percent(found.equal)} / {number(found.largest)}{mark}")
                order = found.largest
        assert built is not None
        approximation = built.approximation
        assert isinstance(approximation, LayerNormApproximation)
        stated = approximation.intermediates(full(input), CHANNELS, tables(built), built.results[0])
        about = [f"`{name}`", approximation.source, widest(stated), *cells]
        rows.append((order, f"| {' | '.join(about)} |"))
    return rows, why


def layer_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * gamma + beta


# --- the page ---


def render() -> str:
    softmax, why_softmax = softmax_rows()
    gelu, why_gelu = gelu_rows()
    layer_norms, why_layer_norm = layer_norm_rows()
    spreads = " | ".join(f"{kind}, sigma {spread}" for kind in ("i8", "i16") for spread in SPREADS)
    scales = " | ".join(f"S = {float(scale):.2g}" for scale in GELU_SCALES)
    functions = " | ".join(f"{f} -> {t}" for t in ("i8", "i16") for f in ("gelu", "silu", "tanh", "sigmoid"))
    about_softmax = f"""Of int8 scores, S = 0.05 (or the next that it takes), rows of N = {N} with Gaussian logits of sigma
        1: the error of a probability, the mean one times N, and the sums of rows. Results of 16 bits where they are asked
        for. Those with two results are divided by the second, the row's sum, behind the product with the values."""
    about_narrow = """GELU, int8 to int8 of the same scale, over all 256 codes (one row of them), after a requantize to the
        wanted codes, half up: the largest error in units of the result / how many are the correctly rounded ones."""
    about_wide = """The largest error in units of the result, over all 65,536 codes of -4..4 / -8..8 / -16..16, after the
        same requantize. GELU and SiLU have the same range behind; tanh and sigmoid have -1..1."""
    about_layer_norm = f"""Of int16 rows of {CHANNELS} channels and the standard deviation sigma, in codes, to int8 and to
        int16 of -6..6, after the same requantize: how many are the correctly rounded real result / the largest error in
        units."""
    return "".join(
        [
            HEAD,
            section("Softmax", about_softmax),
            lines("| name | source | result | widest | max error | N x mean | row sums | holds for |", softmax),
            reasons("softmax", why_softmax),
            section("Functions of 8-bit codes", about_narrow),
            lines(f"| name | source | result | widest | {scales} | holds for |", gelu),
            reasons("function", why_gelu),
            section("Functions of 16-bit codes", about_wide),
            lines(f"| name | widest | {functions} |", wide_rows()),
            section("Layer normalisation", about_layer_norm),
            lines(f"| name | source | widest | {spreads} |", layer_norms),
            reasons("layer normalisation", why_layer_norm),
        ]
    )


def section(title: str, text: str) -> str:
    return f"\n## {title}\n\n{fill(' '.join(text.split()), 120)}\n\n"


if __name__ == "__main__":
    Path(__file__).with_name("approximations.md").write_text(render())
