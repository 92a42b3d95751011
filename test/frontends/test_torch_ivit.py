"""I-ViT checkpoints: the program is the published one, its constants follow from the scales, and bad checkpoints are refused."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from ivit_network import CASE, IMAGE, STAGES
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from qvit.backends.c import load
from qvit.backends.interpreter import run, run_model
from qvit.dialects.provenance import sources
from qvit.dialects.semantics.integers import Array
from qvit.frontends.errors import ImportRefused
from qvit.frontends.torch.ivit import Checkpoint, Sizes, build, dyadic, import_ivit
from qvit.transforms.range_analysis import RangeAnalysisPass
from qvit.transforms.verify_integer_only import floats_left

SIZES = Sizes(1, 16, 17, 48, 3, 2)
HEADS = 3


class Published:
    """The authors' own constants, of data/golden."""

    def layer(self, name: str) -> tuple[Array, Array | None]:
        return CASE[f"{name}.w"], CASE[f"{name}.b"]

    def requant(self, name: str, residual: bool = False) -> tuple[Array, Array]:
        part = "2" if residual else ""
        return CASE[f"{name}.m{part}"].astype(np.int64), CASE[f"{name}.e{part}"].astype(np.int64)

    def norm_bias(self, name: str) -> Array:
        return CASE[f"{name}.B"]

    def i0(self, name: str) -> int:
        return CASE.params["i0"][name]

    def embeddings(self) -> tuple[Array, Array]:
        return CASE["cls_code"].reshape(-1), CASE["pos"]


def stages_of(main: FuncOp, image: Array) -> dict[str, list[Array]]:
    """What the operations of each name make, in their order."""
    made: dict[str, list[Array]] = defaultdict(list)

    def observe(op: Operation, array: Array) -> None:
        for name in sources(op):
            made[name].append(array)

    run(ModuleOp([main.clone()]), [image], integers_only=True, observe=observe)
    return made


def test_the_program_is_the_published_one() -> None:
    """Every requantizer, softmax, GELU and the head: equal integers."""
    main = build(Published(), SIZES)
    ModuleOp([main]).verify()
    made = stages_of(main, IMAGE)
    for name, expected in STAGES.items():
        found = made[name][-1]
        if name == "patch_embed.qact":  # channels first
            found = found.reshape(48, 16).T
        if name.endswith("attn.qact2"):  # head after head
            found = found.transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)


# --- constants from scales ---


def checkpoint() -> dict[str, Array]:
    """A state dict whose scales give nearly the published constants: scales of weights follow from theirs."""
    state: dict[str, Array] = {}
    scales = {name: np.float32(float.fromhex(text)) for name, text in CASE.params["S_out"].items()}
    for name, scale in scales.items():
        state[f"{name}.act_scaling_factor"] = np.array([scale], np.float32)

    def ratio(name: str) -> Array:
        return CASE[f"{name}.m"] / np.exp2(CASE[f"{name}.e"].astype(np.float64)) * float(scales[name])

    def layer(name: str, after: str, before: str, kind: str = "fc") -> None:
        state[f"{name}.weight_integer"], state[f"{name}.bias_integer"] = (
            CASE[f"{name}.{k}"].astype(np.float32) for k in "wb"
        )
        state[f"{name}.{kind}_scaling_factor"] = (ratio(after) / float(scales[before])).astype(np.float32)

    def norm(name: str, after: str) -> None:
        unit = np.sqrt(48) / (1 << 30)
        gamma = ratio(after) / unit
        state[f"{name}.weight"] = gamma.astype(np.float32)
        state[f"{name}.bias"] = ((CASE[f"{name}.B"] + 0.5) * unit * gamma).astype(np.float32)

    layer("patch_embed.proj", "patch_embed.qact", "qact_input", "conv")
    for i in range(2):
        block = f"blocks.{i}"
        norm(f"{block}.norm1", f"{block}.qact1")
        norm(f"{block}.norm2", f"{block}.qact3")
        layer(f"{block}.attn.qkv", f"{block}.attn.qact1", f"{block}.qact1")
        layer(f"{block}.attn.proj", f"{block}.attn.qact3", f"{block}.attn.qact2")
        layer(f"{block}.mlp.fc1", f"{block}.mlp.qact_gelu", f"{block}.qact3")
        layer(f"{block}.mlp.fc2", f"{block}.mlp.qact2", f"{block}.mlp.qact1")
    norm("norm", "qact2")
    state["head.weight_integer"], state["head.bias_integer"] = (CASE[f"head.{k}"].astype(np.float32) for k in "wb")
    state["head.fc_scaling_factor"] = np.linspace(0.01, 0.02, 10, dtype=np.float32)
    state["cls_token"] = (CASE["cls_code"] * scales["patch_embed.qact"]).astype(np.float32).reshape(1, 1, 48)
    state["pos_embed"] = (CASE["pos"] * scales["qact_pos"]).astype(np.float32)[None]
    return state


STATE = checkpoint()
REQUANTS = [name.removesuffix(".m") for name in CASE.arrays if name.endswith(".m")]


@pytest.mark.parametrize("name", REQUANTS)
def test_multipliers_follow_from_scales(name: str) -> None:
    """To float32, as the scales of weights were rounded to it; those of activations alone are the published ones."""
    found = Checkpoint(STATE, HEADS)
    for residual in (False, True) if f"{name}.m2" in CASE.arrays else (False,):
        part = "2" if residual else ""
        mine, theirs = (
            m / np.exp2(e.astype(np.float64))
            for m, e in (found.requant(name, residual), (CASE[f"{name}.m{part}"], CASE[f"{name}.e{part}"]))
        )
        np.testing.assert_allclose(mine, theirs, rtol=3e-7)


def test_other_constants_follow_from_scales() -> None:
    found = Checkpoint(STATE, HEADS)
    for name, i0 in CASE.params["i0"].items():
        assert found.i0(name) == i0
    cls, positions = found.embeddings()
    np.testing.assert_array_equal(cls, CASE["cls_code"].reshape(-1))
    np.testing.assert_array_equal(positions, CASE["pos"])
    for name in ("blocks.0.norm1", "blocks.1.norm2", "norm"):
        # half a unit was added, and float32 keeps 24 of 31 bits
        assert np.abs(found.norm_bias(name) - CASE[f"{name}.B"]).max() <= np.abs(CASE[f"{name}.B"]).max() * 2.0**-22 + 1


def test_a_checkpoint_runs_in_all_backends() -> None:
    module = import_ivit(STATE, HEADS)
    assert not floats_left(module)
    RangeAnalysisPass(report_only=True).run(module)
    (expected,) = run(module, [IMAGE], integers_only=True).values()
    (by_c,) = load(module)(IMAGE)
    np.testing.assert_array_equal(by_c, expected)
    scale = float(STATE["qact_input.act_scaling_factor"][0])
    (logits,) = run_model(module, [IMAGE.astype(np.float32) * np.float32(scale)]).values()
    head = STATE["head.fc_scaling_factor"] * STATE["qact2.act_scaling_factor"]
    np.testing.assert_allclose(logits, expected * head.astype(np.float64), rtol=1e-6)
    # nearly the published program: nearly its result
    off = np.abs(expected - STAGES["head"]).max() / np.abs(STAGES["head"]).max()
    assert off < 0.02


def test_batches() -> None:
    (one,) = run(import_ivit(STATE, HEADS), [IMAGE]).values()
    (two,) = run(import_ivit(STATE, HEADS, batch=2), [np.concatenate([IMAGE, IMAGE])]).values()
    np.testing.assert_array_equal(two, np.concatenate([one, one]))


def test_torch_tensors() -> None:
    import torch

    module = import_ivit({name: torch.from_numpy(array.copy()) for name, array in STATE.items()}, HEADS)
    assert str(module) == str(import_ivit(STATE, HEADS))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (1.0, (1 << 30, 30)),
        (0.75, (3 << 29, 31)),
        (-0.75, (-(3 << 29), 31)),
        (1 - 2.0**-33, (1 << 30, 30)),  # rounds to 2^31
        (2.0**-10 + 2.0**-41, ((1 << 30) + 1, 40)),  # a tie goes away from zero
        (-(2.0**-10 + 2.0**-41), (-(1 << 30) - 1, 40)),
    ],
)
def test_dyadic_by_hand(ratio: float, expected: tuple[int, int]) -> None:
    assert dyadic(ratio) == expected


# --- bad checkpoints ---


def changed(**changes: Any) -> dict[str, Array]:
    state = dict(STATE)
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = np.asarray(value)
    return state


EPS = np.float32(np.finfo(np.float32).eps)
BAD: dict[str, tuple[dict[str, Array], str]] = {
    "overwritten": (
        changed(blocks__0__attn__qact2__act_scaling_factor=[EPS]),
        r"blocks.0.attn.qact2.act_scaling_factor is 1.192e-07, .* evaluating a reloaded checkpoint overwrites the scales; save",
    ),
    "never run": (
        changed(qact1__act_scaling_factor=[0.0]),
        "qact1.act_scaling_factor is 0 or not finite: .* before any",
    ),
    "no integers": (
        changed(blocks__1__mlp__fc1__weight_integer=np.zeros((192, 48))),
        "blocks.1.mlp.fc1.weight_integer is 0: .* before any batch",
    ),
    "not integers": (
        changed(head__weight_integer=np.full((10, 48), 0.5)),
        "head: its integers are not whole; it is no quantized checkpoint",
    ),
    "missing": (
        changed(blocks__0__mlp__qact2__act_scaling_factor=None),
        "no 'blocks.0.mlp.qact2.act_scaling_factor'.*expected a state dict of I-ViT",
    ),
    "shape": (
        changed(blocks__0__attn__qkv__fc_scaling_factor=np.ones(3)),
        "blocks.0.attn.qkv.fc_scaling_factor has 3 numbers, expected 144",
    ),
    "vector": (changed(qact2__act_scaling_factor=np.ones(48)), "qact2.act_scaling_factor has 48 numbers, expected 1"),
    "gamma": (
        changed(norm__weight=np.where(np.arange(48) == 7, 0, STATE["norm.weight"])),
        "norm.weight is 0 in channel 7: I-LayerNorm divides by it",
    ),
    "positions": (changed(pos_embed=np.ones((1, 16, 48))), "pos_embed has 16 rows: expected one more than a square"),
    "wide": (
        changed(head__weight_integer=np.full((10, 48), 200.0)),
        r"head.weight_integer holds 200.*expected numbers of 8",
    ),
    "ratio": (
        changed(qact1__act_scaling_factor=[3e9]),
        "qact1: its scales differ by 2\\^-",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name: str) -> None:
    state, says = BAD[name]
    with pytest.raises(ImportRefused, match=says):
        import_ivit(state, HEADS)


def test_heads_must_be_known() -> None:
    with pytest.raises(ImportRefused, match="48 channels do not fall into 5 heads: say how many"):
        import_ivit(STATE, 5)
    with pytest.raises(ImportRefused, match="48 channels do not fall into 0 heads"):
        import_ivit(STATE)
