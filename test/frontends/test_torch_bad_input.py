"""What the torch reader refuses, and that it says which node, from which line, and what to do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qvit.frontends.errors import ImportRefused
from qvit.frontends.torch import from_exported, load_exported

X = torch.ones(2, 3)


class Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.count


def refusal(model: nn.Module, x: Tensor = X, **options: Any) -> str:
    with pytest.raises(ImportRefused) as refused:
        from_exported(torch.export.export(model, (x,), **options))
    return str(refused.value)


REFUSED: dict[str, tuple[Any, Tensor, str]] = {
    "unknown": (
        Call(lambda x: x.sort(-1)[0]),
        X,
        "(aten.sort.default) at .*: this operator is not read; cut the program",
    ),
    "training": (nn.Sequential(nn.Dropout(0.1)), X, "0/dropout.*drops elements at random; call model.eval"),
    "batch statistics": (nn.BatchNorm1d(3), X, "takes the statistics of the batch; call model.eval"),
    "control flow": (
        Call(lambda x: torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))),
        X,
        "control flow .*; write the model without torch.cond",
    ),
    "half": (nn.Linear(3, 4).half(), X.half(), "'input' has elements of type torch.float16; convert .*model.float"),
    "half weights": (nn.Embedding(3, 4).bfloat16(), torch.tensor([1]), "'weight'.*torch.bfloat16; convert"),
    "state": (Counter(), X, "(aten.add_.Tensor).* writes to the model's state; leave running statistics"),
    "strides": (
        Call(lambda x: x.as_strided((2, 2), (1, 2))),
        X,
        "a view by strides is not read; write it with reshape",
    ),
    "mask at run time": (Call(lambda x: x[x[:, 0].long()]), X, "cast from f32 to i64 is not read"),
    "probabilities dropped": (
        Call(lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5)),
        X,
        "drops probabilities at random; call model.eval",
    ),
    "overlapping windows": (
        nn.AdaptiveAvgPool2d(2),
        torch.ones(1, 1, 5, 5),
        r"windows of \[5, 5\] into \[2, 2\] parts",
    ),
    "3-D": (nn.Conv3d(1, 1, 1), torch.ones(1, 1, 2, 2, 2), "aten.conv3d"),
    "training's quantizers": (
        Call(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)),
        X,
        "fake quantizers are still in the graph; convert the model first",
    ),
    "odd codes": (
        Call(lambda x: torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.1, 0, -5, 3, torch.int8)),
        X,
        "codes from -5 to 3 are not those of a number of bits",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    import re

    model, x, says = REFUSED[name]
    message = refusal(model, x)
    pattern = says.replace("(aten.", r"\(aten\.").replace("default)", r"default\)").replace("Tensor)", r"Tensor\)")
    assert re.search(pattern, message), message


def test_the_line_of_the_model_is_named() -> None:
    message = refusal(Call(lambda x: x.sort(-1)[0]))
    assert f"{Path(__file__).name}:" in message
    assert message.startswith("node 'sort'")


def test_dynamic_shapes() -> None:
    message = refusal(nn.Linear(3, 4), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert "dynamic shape" in message
    assert "export without dynamic_shapes" in message


def test_nothing_of_the_model_changes() -> None:
    """Folding runs the model's own constants, and writes to none of them."""
    model = Counter()
    refusal(model)
    assert not model.count.any()


def test_unknown_outputs() -> None:
    exported = torch.export.export(nn.Linear(3, 4), (X,))
    with pytest.raises(ImportRefused, match="no node 'linaer'; did you mean linear"):
        from_exported(exported, ["linaer"])
    assert len(from_exported(exported, ["linear"])[0].ops.first.function_type.outputs) == 1


def test_no_exported_program() -> None:
    with pytest.raises(ImportRefused, match="expected a torch.export.ExportedProgram, found Linear"):
        from_exported(nn.Linear(3, 4))  # type: ignore[arg-type]


def test_observers_are_still_there() -> None:
    class Observer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    root = nn.Module()
    root.activation_post_process_0 = Observer()
    graph = torch.fx.Graph()
    graph.output(graph.call_module("activation_post_process_0", (graph.placeholder("x"),)))
    with pytest.raises(ImportRefused, match="an observer is still in the graph; run samples.*convert_pt2e"):
        from_exported(torch.fx.GraphModule(root, graph))  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 4), (X,)), path)
    assert from_exported(load_exported(path))[0].ops
    path.write_bytes(b"nothing")
    with pytest.raises(ImportRefused, match="model.pt2 is not a program of torch.export.save, or is damaged"):
        load_exported(path)
    with pytest.raises(FileNotFoundError):
        load_exported(tmp_path / "other.pt2")
