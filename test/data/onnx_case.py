"""One ONNX node as a test: its inputs, known at import or at run time, and what onnxruntime computes from them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from data.onnx_build import assert_same, model, node, run_ort

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx


@dataclass(frozen=True)
class Feed:
    """An input that is known at run time only."""

    array: np.ndarray


def c(*shape: int, lo: float = -2, hi: float = 2) -> np.ndarray:
    """A float32 constant; equal shapes have equal values."""
    return np.random.default_rng([len(shape), *shape]).uniform(lo, hi, shape).astype(np.float32)


def x(*shape: int, lo: float = -2, hi: float = 2) -> Feed:
    """A float32 input; not the values of the constant of the same shape."""
    return Feed(np.random.default_rng([9, *shape]).uniform(lo, hi, shape).astype(np.float32))


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node; inputs are Feeds, constants, or None where an optional one is left out.

    outputs: their names, `-` for one that is left out; or how many there are, called y0, y1, ...
    """

    op: str
    inputs: tuple[Feed | np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int | str = 1
    domain: str = ""

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": v.array for i, v in enumerate(self.inputs) if isinstance(v, Feed)}

    def proto(self) -> onnx.ModelProto:
        constants = {f"x{i}": v for i, v in enumerate(self.inputs) if isinstance(v, np.ndarray)}
        names = " ".join("-" if v is None else f"x{i}" for i, v in enumerate(self.inputs))
        outputs = self.outputs
        outputs = outputs if isinstance(outputs, str) else " ".join(f"y{i}" for i in range(outputs))
        only = node(self.op, names, outputs, self.domain, **self.attributes)
        return model([only], self.feeds, " ".join(filter(None, only.output)), constants, opset=self.opset)

    def __str__(self) -> str:
        shapes = [
            "-" if v is None else "x".join(map(str, (v.array if isinstance(v, Feed) else v).shape)) for v in self.inputs
        ]
        settings = [f"{k}={v}" for k, v in self.attributes.items()]
        return " ".join(
            [f"{self.domain and self.domain.split('.')[-1] + '.'}{self.op}{self.opset}", *shapes, *settings]
        )


def cases(
    op: str,
    *inputs: Feed | np.ndarray | None,
    opsets: tuple[int, ...] = (17,),
    outputs: int | str = 1,
    domain: str = "",
    **attributes: Any,
) -> list[Case]:
    return [Case(op, inputs, attributes, opset, outputs, domain) for opset in opsets]


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def spread(
    scale: float | np.ndarray, zero: int | np.ndarray, dtype: str, shape: tuple[int, ...], axis: int = 0
) -> Feed:
    """Numbers over the whole range of codes and past its ends, none of them near a tie."""
    random = np.random.default_rng(shape)
    info = np.iinfo(dtype)
    codes = random.integers(info.min - 9, info.max + 10, shape).astype(np.float64)
    codes.flat[:4] = info.min - 9, info.min, info.max, info.max + 9
    laid = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    scale, zero = (
        v.astype(np.float64).reshape(laid) if np.size(v) > 1 else float(np.reshape(v, ()))
        for v in map(np.asarray, (scale, zero))
    )
    return Feed(((codes + random.uniform(-0.4, 0.4, shape) - zero) * scale).astype(np.float32))


def codes(dtype: str, *shape: int) -> Feed:
    info = np.iinfo(dtype)
    return Feed(np.random.default_rng(shape).integers(info.min, info.max, shape, dtype, endpoint=True))


STEP = np.array(0.03, np.float32)
STEPS = f32(0.1, 0.02, 0.3, 0.7)


def assert_as_onnxruntime(case: Case, tolerance: float = 1e-5) -> None:
    """In both precisions; integers are equal."""
    expected = run_ort(case.proto(), case.feeds)
    module, _ = import_onnx(case.proto())
    for dtype in (np.float64, np.float32):
        assert_same(run(module, case.feeds, float_dtype=dtype), expected, tolerance)
