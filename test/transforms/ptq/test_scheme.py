"""What a scheme asks for: quantizers by role, and overrides from a file, good ones and bad ones."""

from pathlib import Path

import pytest

from qvit.transforms.pipelines import SCHEMES, Scheme
from qvit.transforms.ptq.observers import Observer, Quantizer
from qvit.transforms.ptq.scheme import BadOverrides, Override, Quantization, all_roles, read_overrides
from qvit.transforms.ptq.sites import Role
from qvit.transforms.ptq.weights import Fit, WeightQuantizer

GOOD = """
[[override]]
match = "*/fc1"
roles = ["function", "hidden"]
bits = 16
symmetric = true
observer = "percentile"
percentile = 99.9

[[override]]
match = "/blocks.0/*"
weights = true
bits = 4
gptq = true
fit = "mse"

[[override]]
match = "/head"
power_of_two = "ceil"
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "overrides.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_overrides(tmp_path: Path) -> None:
    found = read_overrides(written(tmp_path, GOOD))
    functions = (Role.FUNCTION, Role.HIDDEN)
    settings = {"bits": 16, "symmetric": True, "observer": Observer.PERCENTILE, "percentile": 99.9}
    assert found == (
        Override("*/fc1", functions, False, settings),
        Override("/blocks.0/*", (), True, {"bits": 4, "gptq": True, "fit": Fit.MSE}),
        Override("/head", (), False, {"power_of_two": "ceil"}),
    )


def test_no_overrides(tmp_path: Path) -> None:
    assert read_overrides(written(tmp_path, "")) == ()


BAD: list[tuple[str | bytes, str]] = [
    ("[[override]", "line 1"),
    (b"\xff\xfe", "codec can't decode"),
    ("bits = 4", r"expected \[\[override\]\] tables alone, found bits"),
    ("override = 3", r"expected \[\[override\]\] tables alone, found something else"),
    ("override = [3]", "override 1: expected match = "),
    ("[[override]]\nbits = 4", "override 1: expected match = "),
    ('[[override]]\nmatch = "a"\n[[override]]\nmatch = 3', "override 2: expected match = "),
    ('[[override]]\nmatch = "a"\nroles = ["linears"]', "override 1: roles is a list of pixels, .*; found .'linears'."),
    ('[[override]]\nmatch = "a"\nroles = 3', "override 1: roles is a list of"),
    ('[[override]]\nmatch = "a"\nweights = "yes"', "override 1: weights must be true or false, found 'yes'"),
    ('[[override]]\nmatch = "a"\nweights = true\nroles = ["linear"]', "override 1: weights have no roles"),
    ('[[override]]\nmatch = "a"\nbit = 4', "override 1: unknown bit; known are bits, channel_factors, margin, "),
    ('[[override]]\nmatch = "a"\nweights = true\nmargin = 2.0', "override 1: unknown margin; known are bits, fit, "),
    ('[[override]]\nmatch = "a"\nbits = 1', "override 1: bits must be in 2..32, found 1"),
    ('[[override]]\nmatch = "a"\nbits = "four"', "override 1: "),
    ('[[override]]\nmatch = "a"\nobserver = "max"', "override 1: 'max' is not a valid Observer"),
    ('[[override]]\nmatch = "a"\nweights = true\nfit = "best"', "override 1: 'best' is not a valid Fit"),
    ('[[override]]\nmatch = "a"\nweights = true\nbits = 9', "override 1: weights have 2 to 8 bits, found 9"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[says[:40] for _, says in BAD])
def test_bad_overrides(text: str | bytes, says: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BadOverrides, match=says) as refused:
        read_overrides(file)
    assert str(refused.value).startswith(f"{file}: ")


def test_the_last_override_that_concerns_a_tensor_wins() -> None:
    quantization = Quantization(
        {Role.LINEAR: Quantizer(8)},
        overrides=(
            Override("a*", settings={"bits": 4}),
            Override("*b", roles=(Role.LINEAR,), settings={"bits": 6}),
            Override("*", roles=(Role.SCORES,), settings={"bits": 12}),
            Override("*", weights=True, settings={"bits": 3}),
        ),
    )
    found = {name: quantization.quantizer(Role.LINEAR, [name]) for name in ("x", "ax", "ab", "xb")}
    assert found == {"x": Quantizer(8), "ax": Quantizer(4), "ab": Quantizer(6), "xb": Quantizer(6)}
    assert quantization.quantizer(Role.LINEAR, ["x", "ax"]) == Quantizer(4)
    assert quantization.quantizer(Role.SCORES, ["x"]) == Quantizer(12)  # a role without a quantizer gets one
    assert quantization.quantizer(Role.BRANCH, ["x"]) is None
    assert quantization.weight_quantizer(["x"]) == WeightQuantizer(3)


def test_overrides_of_weights_ask_for_moments() -> None:
    assert not Quantization({}).needs_gram
    assert Quantization({}, WeightQuantizer(gptq=True)).needs_gram
    assert Quantization({}, overrides=(Override("a", weights=True, settings={"fit": Fit.OUTPUT}),)).needs_gram
    assert not Quantization({}, overrides=(Override("a", settings={"bits": 4}),)).needs_gram


def test_all_roles() -> None:
    operand, wide = Quantizer(8), Quantizer(16)
    found = all_roles(operand, wide, probabilities=None, scores=operand)
    assert set(found) == set(Role) - {Role.PROBABILITIES}
    products = {Role.PIXELS, Role.LINEAR, Role.HIDDEN, Role.ATTENTION}
    assert {role for role, quantizer in found.items() if quantizer is operand} == products | {Role.SCORES}
    with pytest.raises(ValueError, match="is not a valid Role"):
        all_roles(operand, wide, linears=operand)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_schemes_take_eight_bits_into_products(scheme: Scheme) -> None:
    """What 8/8 means: the weights and operands of products; the residual stream has 16, or 8 with factors of channels."""
    roles = scheme.quantization.roles
    assert scheme.quantization.weights.bits <= 8
    assert all(roles[role].bits <= 8 for role in (Role.PIXELS, Role.LINEAR, Role.HIDDEN, Role.ATTENTION))
    residual = roles[Role.RESIDUAL]
    assert residual.bits == (8 if residual.channel_factors else 16)
