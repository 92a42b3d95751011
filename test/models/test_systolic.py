"""Whole models of real size on the simulated machines: what comes out is what the interpreter and C compute."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import evaluation
import hardware
import models
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.c import load
from qvit.backends.interpreter import find_function, input_names, run
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.simulator import simulate
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.semantics.integers import Array
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vits")]

ROOT = Path(__file__).parents[2]
MACHINES = ("small", "large")
SWIN_T = """
import sys, torch, transformers
torch.manual_seed(0)
config = transformers.SwinConfig(num_labels=1000)
config._attn_implementation = "eager"
model = transformers.SwinForImageClassification(config).eval()
class Logits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = model
    def forward(self, image):
        return self.model(image).logits
image = torch.randn(1, 3, 224, 224)
torch.onnx.export(Logits(), (image,), sys.argv[1], opset_version=17, dynamo=False, input_names=["image"])
"""


def require_equal_everywhere(module: ModuleOp, codes: Sequence[Array]) -> None:
    expected = list(run(module, codes, integers_only=True).values())
    for machine in MACHINES:
        program = lower(module, load_machine(machine))
        inputs = {port.name: array for port, array in zip(program.inputs, codes, strict=True)}
        for array, found in zip(expected, simulate(program, inputs).outputs.values(), strict=True):
            np.testing.assert_array_equal(found, array, err_msg=machine)
    for array, found in zip(expected, load(module)(*codes), strict=True):
        np.testing.assert_array_equal(found, array, err_msg="c")


@pytest.mark.parametrize("name", ["deit-t", "deit-s"])
def test_random_weights(name: str) -> None:
    module = hardware.compiled("best", name, models.default_cache())
    program = lower(module, load_machine("small"))
    require_equal_everywhere(module, list(hardware.inputs(program).values()))


def test_swin_t(tmp_path: Path) -> None:
    """Windows of 224 x 224 pixels, 3,136 tokens: most tensors do not fit on the chip."""
    path = tmp_path / "swin_t.onnx"
    subprocess.run([ROOT / ".venv-exporters/bin/python", "-c", SWIN_T, path], check=True, capture_output=True)
    module, _ = import_onnx(load_onnx(path))
    rng = np.random.default_rng(0)
    images = [{"image": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)} for _ in range(3)]
    compile_model(module, images[:2], SCHEMES["best"])
    require_equal_everywhere(module, list(run(module, images[2], function=QUANTIZE_INPUTS).values()))


def test_the_real_vit_s() -> None:
    cache = models.default_cache()
    models.make(["vits-1x224"], cache)
    module, _ = import_onnx(load_onnx(models.paths(cache)["vits-1x224"]), [evaluation.TOKENS])
    (name,) = input_names(find_function(module))
    photos = models.calibration_photos(cache)
    compile_model(module, [{name: photo[None]} for photo in photos], SCHEMES["best"])
    photo = {name: models.photo(models.TEST_PHOTOS[0], cache=cache)}
    require_equal_everywhere(module, list(run(module, photo, function=QUANTIZE_INPUTS).values()))
