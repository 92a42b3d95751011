"""What plain `xdsl-opt` sees of this project: its entry point in the group `xdsl.universe`."""

from functools import partial

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe


def _qvit() -> Dialect:
    from qvit.dialects.qvit import Qvit

    return Qvit


def _delay_dequant() -> type[ModulePass]:
    from qvit.transforms.delay_dequant import DelayDequantPass

    return DelayDequantPass


def _rescue_channels() -> type[ModulePass]:
    from qvit.transforms.rescue_channels import RescueChannelsPass

    return RescueChannelsPass


def _integerize() -> type[ModulePass]:
    from qvit.transforms.integerize import IntegerizePass

    return IntegerizePass


def _scheme(name: str) -> type[ModulePass]:
    from qvit.transforms.pipelines import SCHEME_PASSES

    return SCHEME_PASSES[name]


def _threshold() -> type[ModulePass]:
    from qvit.transforms.threshold import ThresholdPass

    return ThresholdPass


def _lower_requant() -> type[ModulePass]:
    from qvit.transforms.lower_requant import LowerRequantPass

    return LowerRequantPass


def _fuse_pot() -> type[ModulePass]:
    from qvit.transforms.fuse_pot import FusePotPass

    return FusePotPass


def _smooth_pot() -> type[ModulePass]:
    from qvit.transforms.smooth_pot import SmoothPotPass

    return SmoothPotPass


def _verify_integer_only() -> type[ModulePass]:
    from qvit.transforms.verify_integer_only import VerifyIntegerOnlyPass

    return VerifyIntegerOnlyPass


def _range_analysis() -> type[ModulePass]:
    from qvit.transforms.range_analysis import RangeAnalysisPass

    return RangeAnalysisPass


def _lower_to_linalg() -> type[ModulePass]:
    from qvit.transforms.lower_to_linalg import LowerToLinalgPass

    return LowerToLinalgPass


SCHEMES = ("best", "i-vit", "i-bert", "fq-vit", "p2-vit", "p2-vit-mixed", "iptq-vit", "lin-shah")
"""The names of the schemes of `pipelines`, which is imported once one is asked for."""

UNIVERSE = Universe(
    all_dialects={"qvit": _qvit},
    all_passes={
        "delay-dequant": _delay_dequant,
        "rescue-channels": _rescue_channels,
        "integerize": _integerize,
        "threshold": _threshold,
        "lower-requant": _lower_requant,
        "fuse-pot": _fuse_pot,
        "smooth-pot": _smooth_pot,
        "verify-integer-only": _verify_integer_only,
        "range-analysis": _range_analysis,
        "lower-to-linalg": _lower_to_linalg,
        **{name: partial(_scheme, name) for name in SCHEMES},
    },
)
"""Our dialect and our passes, by name."""
