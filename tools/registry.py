"""The names of passes and schemes and what they do in a line: tables that `--help` can print without importing xDSL."""

from collections.abc import Mapping

VERSION = "0.1.0"

SCHEMES: dict[str, str] = {
    "best": "Our own functions: late division of attention, tables, exact normalisation; one rounding for each step.",
    "i-vit": "I-ViT: Shiftmax, ShiftGELU, I-LayerNorm, dyadic requantization; symmetric throughout, residual stream of 16 bits.",
    "i-bert": "I-BERT: polynomial exponential and GELU, exact integer square root, dyadic requantization; symmetric throughout.",
    "fq-vit": "FQ-ViT: attention of 4 bits, products of shifts; normalisation with powers of two for channels; unsigned activations.",
    "p2-vit": "P2-ViT: every scale a power of two, so that requantization is a shift; attention of 4 bits, products of shifts.",
    "p2-vit-mixed": "P2-ViT with weights of 4 bits a channel, and of 8 bits in the layers that a search on the samples chooses.",
    "iptq-vit": "IPTQ-ViT: for each operation the shift-based or polynomial approximation that loses least on the samples.",
    "lin-shah": "Lin and Shah: weights and operands of 3 bits, quantizers of comparators, no division in softmax and normalisation.",
}
"""The schemes of transforms/pipelines.py, each a pass, and their summaries."""

PASSES: dict[str, tuple[str, str, str]] = {
    "delay-dequant": (
        "qvit.transforms.delay_dequant",
        "DelayDequantPass",
        "Move dequantization behind matrix products, so that they run on integers.",
    ),
    "rescue-channels": (
        "qvit.transforms.rescue_channels",
        "RescueChannelsPass",
        "Give quantizers with a scale for each channel behind a layer normalisation one scale, so that they block no product.",
    ),
    "integerize": (
        "qvit.transforms.integerize",
        "IntegerizePass",
        "Replace float functions between dequantize and quantize by integer ones, and split off the ends of the model.",
    ),
    "threshold": (
        "qvit.transforms.threshold",
        "ThresholdPass",
        "Replace requantize by comparators: a code is the number of thresholds that the accumulator reaches.",
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
    **{name: ("qvit.transforms.pipelines", "SCHEME_PASSES", summary) for name, summary in SCHEMES.items()},
    "lower-to-linalg": (
        "qvit.transforms.lower_to_linalg",
        "LowerToLinalgPass",
        "Lower to linalg, tensor, arith and math: plain MLIR, for other compilers, that computes the same to the last bit.",
    ),
    "lower-to-systolic": (
        "qvit.backends.systolic.lower_to_systolic",
        "LowerToSystolicPass",
        "Lower @main to a program of a systolic machine: tiles, addresses, an order for each unit, and tokens between them.",
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
"""flag -> (module, class or table of classes by flag, first line of the help).

The flag is the pass's name, and its file's, with dashes; schemes share a file."""


def scheme_list() -> str:
    """The lines of `--list-schemes`."""
    width = max(map(len, SCHEMES)) + 2
    return "\n".join(f"  {name:<{width}}{summary}" for name, summary in SCHEMES.items())


def pass_list(summaries: Mapping[str, str]) -> str:
    """The lines of `--list-passes`, from names to first lines of the help."""
    width = max(map(len, summaries)) + 2
    return "\n".join(f"  --{name:<{width}}{summary}" for name, summary in summaries.items())
