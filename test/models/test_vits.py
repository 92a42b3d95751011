"""The real ViT-S/14 in all its quantized forms; fetched and quantized by bench/models.py."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from model_trace import trace

from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.transforms.delay_dequant import delay_dequant

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vits")]

TOKENS = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="session")
def models() -> ModuleType:
    path = Path(__file__).parents[2] / "bench/models.py"
    spec = importlib.util.spec_from_file_location("models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["models"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("outputs", [(), (TOKENS,)], ids=["whole", "tokens"])
@pytest.mark.parametrize("name", ["vits-u8s8", "vits-s8s8", "vits-add", "vits-nncf"])
def test_every_code_stays(models: ModuleType, name: str, outputs: tuple[str, ...]) -> None:
    models.make([name])
    image = models.photo(models.TEST_PHOTOS[1])
    module, declined = import_onnx(load_onnx(models.paths()[name]), outputs)
    assert len(declined) == (37 if name == "vits-add" else 0)  # 25 LayerNorm and 12 GELU are cut through by Q/DQ
    _, codes = trace(module, image)
    report = delay_dequant(module)
    module.verify()
    _, moved = trace(module, image)
    for key, array in codes.items():
        np.testing.assert_array_equal(array, moved[key], err_msg=key)
    assert {rule["exactness"] for rule in report.rules.values()} <= {"bit-exact", "real-exact"}
    if not outputs:
        return
    if name == "vits-nncf":  # NNCF quantizes neither operand of the product of attention and values
        assert len(report.blocked) == 24
        assert {b.reason.partition(":")[0] for b in report.blocked} == {"operand not quantized"}
        assert all(b.src.endswith("/attention/attention/MatMul_1") for b in report.blocked)
    else:
        assert report.macs_integer.after == report.macs_total


def test_the_float_model_has_all_its_functions(models: ModuleType) -> None:
    models.make(["vits"])
    module, declined = import_onnx(load_onnx(models.paths()["vits"]), (), {"batch_size": 1})
    names = [op.name for op in module.walk()]
    assert not declined
    assert (names.count("qvit.layer_norm"), names.count("qvit.gelu"), names.count("qvit.linear")) == (25, 12, 72)
