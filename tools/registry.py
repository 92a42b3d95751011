"""The names of the passes and what they do in a line: a table that `--help` can print without importing xDSL."""

from collections.abc import Mapping

VERSION = "0.1.0"

PASSES: dict[str, tuple[str, str, str]] = {
    "delay-dequant": (
        "qvit.transforms.delay_dequant",
        "DelayDequantPass",
        "Move dequantization behind matrix products, so that they run on integers.",
    ),
    "lower-requant": (
        "qvit.transforms.lower_requant",
        "LowerRequantPass",
        "Give requantize and add_requant integers in the place of real factors, and prove how exact that is.",
    ),
    "fuse-pot": (
        "qvit.transforms.fuse_pot",
        "FusePotPass",
        "Round every scale to a power of two, so that every requantize becomes a shift; say what that costs.",
    ),
    "smooth-pot": (
        "qvit.transforms.smooth_pot",
        "SmoothPotPass",
        "Fold powers of two into gamma and beta of layer normalisations and the weights behind them, so that channels are alike.",
    ),
    "verify-integer-only": (
        "qvit.transforms.verify_integer_only",
        "VerifyIntegerOnlyPass",
        "Fail if any operation keeps a float type, attribute or constant; name each with its source node.",
    ),
    "range-analysis": (
        "qvit.transforms.range_analysis",
        "RangeAnalysisPass",
        "Prove with the actual weights that no accumulator, sum or intermediate overflows; give the smallest safe widths.",
    ),
    "lower-to-linalg": (
        "qvit.transforms.lower_to_linalg",
        "LowerToLinalgPass",
        "Lower to linalg, tensor, arith and math: plain MLIR, for other compilers, that computes the same to the last bit.",
    ),
    "canonicalize": (
        "xdsl.transforms.canonicalize",
        "CanonicalizePass",
        "Apply canonicalization patterns and folders.",
    ),
    "cse": (
        "xdsl.transforms.common_subexpression_elimination",
        "CommonSubexpressionElimination",
        "Merge equal operations.",
    ),
    "dce": ("xdsl.transforms.dead_code_elimination", "DeadCodeElimination", "Remove operations without uses."),
}
"""flag -> (module, class, first line of the help). The flag is the pass's name, and its file's, with dashes."""


def pass_list(summaries: Mapping[str, str]) -> str:
    """The lines of `--list-passes`, from names to first lines of the help."""
    width = max(map(len, summaries)) + 2
    return "\n".join(f"  --{name:<{width}}{summary}" for name, summary in summaries.items())
